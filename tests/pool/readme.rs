//! The README's promises: its quickstart runs as it is printed, and its table of the configuration is true.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::{BINARY, command};

const README: &str = include_str!("../../README.md");

/// Stands before each block of the quickstart.
const MARK: &str = "<!-- quickstart -->\n```bash\n";

/// The ports that the quickstart is printed with.
const PORTS: [&str; 3] = ["9000", "9101", "9102"];

/// Two jobs of a few seconds, and patience for a machine that does other things too.
const QUICKSTART_TIMEOUT: Duration = Duration::from_secs(120);

/// Ends whatever the script has left running.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Nothing is left to end when the script did what it says.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

fn quickstart() -> String {
    let blocks = README.split(MARK).skip(1);
    let mut script: String = blocks.map(|rest| rest.split("```").next().expect("a first part")).collect();
    // Held until all are found, so that no two are the same.
    let free = PORTS.map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    for (printed, socket) in PORTS.iter().zip(&free) {
        let port = socket.local_addr().expect("an address").port();
        script = script.replace(&format!(":{printed}"), &format!(":{port}"));
        script = script.replace(&format!("--port {printed}"), &format!("--port {port}"));
    }
    script
}

/// Runs the script in the directory, with our binary as the one that is found.
async fn run(script: &str, dir: &Path) -> Output {
    let binaries = Path::new(BINARY).parent().expect("a directory of binaries").display();
    let path = std::env::var("PATH").expect("a PATH");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(dir);
    bash.env("PATH", format!("{binaries}:{path}")).env_remove("TRUSTED_POOL_URL").env_remove("RUST_LOG");
    bash.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = bash.spawn().expect("bash starts");
    let _group = Group(Pid::from_raw(child.id().expect("a pid").try_into().expect("a pid")));
    let ended = timeout(QUICKSTART_TIMEOUT, child.wait_with_output()).await;
    ended.unwrap_or_else(|_| panic!("no end after {QUICKSTART_TIMEOUT:?}\n{}", logs(dir))).expect("an output")
}

fn logs(dir: &Path) -> String {
    let log = |name: &str| {
        let text = fs::read_to_string(dir.join(name)).unwrap_or_else(|error| error.to_string());
        format!("--- {name}\n{text}\n")
    };
    ["worker1.log", "worker2.log", "pool.log"].map(log).concat()
}

#[tokio::test]
async fn quickstart_runs_as_it_is_printed() {
    let dir = TempDir::new().expect("a temporary directory");
    let output = run(&quickstart(), dir.path()).await;
    let (out, talk) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{talk}\n{}", output.status, logs(dir.path()));
    for shown in [r#""pool_status":"completed""#, "Hello from the sandbox", "results/answer.txt", "healthy"] {
        assert!(out.contains(shown), "{shown} is missing:\n{out}\n{talk}");
    }
    let answer = fs::read_to_string(dir.path().join("outputs/results/answer.txt"));
    assert_eq!(answer.expect("the downloaded output"), "42\n");
}

/// The keys and values that a pool without a configuration file runs with.
async fn defaults() -> BTreeMap<String, String> {
    let workers = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/workers.example.json");
    let output = command(&["serve", "--workers", workers, "--check"]).output().await;
    let text = String::from_utf8(output.expect("the binary runs").stdout).expect("UTF-8");
    let mut section = "";
    let mut defaults = BTreeMap::new();
    for line in text.lines().skip(1).take_while(|line| *line != "workers:") {
        let (key, value) = line.split_once(':').expect("a key and a value");
        match (key.strip_prefix("  "), value.trim()) {
            (None, "") => section = key,
            (None, value) => drop(defaults.insert(key.to_owned(), value.to_owned())),
            (Some(key), value) => drop(defaults.insert(format!("{section}.{key}"), value.to_owned())),
        }
    }
    defaults
}

#[tokio::test]
async fn configuration_is_printed_with_every_key_and_its_default() {
    let rows = README.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let printed: BTreeMap<&str, &str> = rows.collect();
    for (key, value) in defaults().await {
        let row = printed.get(key.as_str()).unwrap_or_else(|| panic!("{key} is missing"));
        let shown = format!("`{}`", value.replace(['"', '[', ']'], ""));
        // The number of threads is the machine's.
        assert!(
            key == "server.threads" || row.contains(&shown),
            "{key}: the default is {value}, and the README says: {row}"
        );
    }
}
