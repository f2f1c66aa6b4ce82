//! The worker's walls, as its operator gets them: started with the rights of these tests, and with an ordinary user's.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::bodies;
use crate::harness::{BINARY, SOON, eventually, serve};
use crate::wire::Call;

/// Whom a worker runs as when the tests run as root: nobody, as an operator would give it a user of its own.
const ORDINARY: u32 = 65534;

/// Bombs that are held by this are small.
const LIMITS: [&str; 8] = ["--pids", "64", "--memory", "128MiB", "--disk", "16MiB", "--capacity", "1"];

enum User {
    /// Who runs the tests.
    Own,
    /// One who may write no control groups.
    Ordinary,
}

struct Worker {
    child: Child,
    _dir: TempDir,
    address: SocketAddr,
}

impl Worker {
    /// Starts a worker behind a command that starts it; what it said when it did not start.
    async fn start(user: User, before: &[&str], args: &[&str]) -> Result<Self, String> {
        let dir = TempDir::new().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut words: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
        let mut binary = BINARY.to_owned();
        if matches!(user, User::Ordinary) && owner(dir.path()) == 0 {
            words.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(String::from));
            // The build may be where only its owner gets.
            binary = at("trusted-pool");
            fs::hard_link(BINARY, &binary).or_else(|_| fs::copy(BINARY, &binary).map(drop)).unwrap();
            chown(dir.path(), Some(ORDINARY), Some(ORDINARY)).unwrap();
        }
        words.push(binary);
        let command = |args: &[&str]| {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).args(args).current_dir(dir.path()).kill_on_drop(true);
            command.stdin(Stdio::null());
            command
        };
        let made = command(&["keygen", "worker.pem"]).output().await.unwrap();
        assert!(made.status.success(), "{made:?}");
        let log = fs::File::create(at("log")).unwrap();
        let listen = ["worker", "--key", "worker.pem", "--listen", "127.0.0.1:0", "--data", "data"];
        match serve(command(&[&listen[..], args].concat()), log).await {
            Ok((child, address)) => Ok(Self { child, _dir: dir, address }),
            Err(_) => Err(fs::read_to_string(at("log")).unwrap()),
        }
    }

    async fn get(&self, target: &str) -> Value {
        Call::get(target).send(self.address).await.unwrap().expect(200)
    }

    /// Submits a shell script; its name.
    async fn submit(&self, script: &str) -> String {
        let call = bodies::form(&[("run.sh", script.as_bytes())], None);
        let accepted = call.send(self.address).await.unwrap().expect(200);
        accepted["job_id"].as_str().unwrap().to_owned()
    }

    /// Runs a shell script; its last status, and its standard output.
    async fn run(&self, script: &str) -> (Value, String) {
        let job = self.submit(script).await;
        let status = self.get(&format!("/status/{job}?wait=30")).await;
        let logs = self.get(&format!("/logs/{job}")).await;
        (status, logs["stdout"].as_str().unwrap().to_owned())
    }
}

fn owner(path: &Path) -> u32 {
    path.metadata().unwrap().uid()
}

/// On a machine that gives this user no walls, the worker has to say so and stop.
fn assert_refused(said: &str) {
    assert!(said.contains("bubblewrap") && said.contains("--sandbox none"), "{said}");
}

#[tokio::test]
async fn worker_says_what_holds_its_jobs_and_what_runs_them() {
    // What is left open in the worker by who starts it is nothing for jobs.
    let leaky = ["sh", "-c", r#"exec "$0" "$@" 7</etc/passwd"#];
    let worker = match Worker::start(User::Own, &leaky, &LIMITS).await {
        Ok(worker) => worker,
        Err(said) => return assert_refused(&said),
    };
    let health = worker.get("/health").await;
    assert_eq!(health["sandbox"], "bubblewrap");
    let limits = health["limits"].as_str().unwrap();
    assert!(["cgroup2", "cgroup1", "rlimit"].contains(&limits), "{health}");
    assert!(health["interpreters"]["python3"].as_str().unwrap().starts_with("3."), "{health}");
    assert_eq!(health["interpreters"]["sh"], Value::Null);

    let (_, open) = worker.run("for n in $(seq 0 250); do [ ! -e /proc/$$/fd/$n ] || echo $n; done").await;
    assert_eq!(open, "0\n1\n2\n");
}

#[tokio::test]
async fn ordinary_user_holds_its_jobs_without_control_groups() {
    let worker = match Worker::start(User::Ordinary, &["env"], &LIMITS).await {
        Ok(worker) => worker,
        Err(said) => return assert_refused(&said),
    };
    let health = worker.get("/health").await;
    if health["limits"] != "rlimit" {
        eprintln!("this user has control groups; they are tested instead: {health}");
    }
    let child = "python3 -c 'import time; x = bytearray(b\"x\") * (50 << 20); time.sleep(20)' &";
    for (script, reason) in [
        ("for i in $(seq 200); do sleep 60 & done; wait".to_owned(), "pids_limit"),
        ("exec python3 -c 'x = [bytearray(1 << 20) for _ in range(400)]'".to_owned(), "memory_limit"),
        (format!("{child} {child} {child} wait"), "memory_limit"),
        ("for i in $(seq 100); do head -c 1M /dev/zero > $i; sleep 0.02; done".to_owned(), "disk_limit"),
    ] {
        let (status, _) = worker.run(&script).await;
        assert_eq!((&status["status"], &status["reason"]), (&json!("failed"), &json!(reason)), "{status}");
        let (status, stdout) = worker.run("cat /etc/shadow; id -u; echo on").await;
        assert_eq!((&status["status"], &*stdout), (&json!("completed"), "65534\non\n"));
    }
}

#[tokio::test]
async fn job_dies_with_its_worker() {
    let mut worker = match Worker::start(User::Own, &["env"], &LIMITS).await {
        Ok(worker) => worker,
        Err(said) => return assert_refused(&said),
    };
    // A number of seconds that no other process sleeps.
    worker.submit("sleep 600.375").await;
    let sleeping = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        lines.any(|line| line == b"sleep\x00600.375\x00")
    };
    eventually("the job runs", SOON, async || sleeping().then_some(())).await;
    worker.child.kill().await.unwrap();
    eventually("nothing of it is left", SOON, async || (!sleeping()).then_some(())).await;
}

#[tokio::test]
async fn limit_that_cannot_be_had_stops_the_worker_at_its_start() {
    let few = ["prlimit", "--nofile=256:256"];
    let said = Worker::start(User::Ordinary, &few, &["--open-files", "512"]).await.err().unwrap();
    assert_refused(&said);
    assert!(said.contains("NOFILE") || said.contains("user namespaces"), "{said}");
    let said = Worker::start(User::Own, &["env"], &["--memory", "1MiB"]).await.err().unwrap();
    assert!(said.contains("--memory"), "{said}");
}
