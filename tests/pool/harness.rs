//! The coordinator under test: the real binary in a directory of its own, and a client that knows its paths.

use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::bodies;
use crate::wire::{Answer, Call};

pub const BINARY: &str = env!("CARGO_BIN_EXE_trusted-pool");

/// How long a start or a stop may take on a busy machine.
pub const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a test waits for what it knows will come.
pub const SOON: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// The lines of the coordinator's log that a failed test shows.
const LOG_LINES_SHOWN: usize = 80;

/// Health checks so frequent that a test need not wait for them.
const HEALTH: &str = "health: {interval: 200ms, timeout: 1s}\n";

const SERVER: &str = "server: {threads: 2, shutdown_timeout: 10s}\n";

/// A running coordinator; it ends with the handle.
pub struct Pool {
    dir: TempDir,
    child: Child,
    address: SocketAddr,
}

impl Pool {
    /// Starts a coordinator with these entries of workers.json; `extra` is more YAML.
    pub async fn start(workers: &[Value], extra: &str) -> Self {
        Self::start_in(TempDir::new().expect("a temporary directory"), workers, extra).await
    }

    /// The same, in a directory that a test has made.
    pub async fn start_in(dir: TempDir, workers: &[Value], extra: &str) -> Self {
        write_config(dir.path(), workers, extra);
        let (child, address) = launch(dir.path()).await;
        let pool = Self { dir, child, address };
        pool.ready().await;
        pool
    }

    /// Starts a second coordinator on the data directory of this one, and waits for its end.
    pub async fn another_on_the_same_data(&self) -> ExitStatus {
        let config = self.dir.path().join("pool.yaml");
        let args = ["serve", "--config", config.to_str().expect("a UTF-8 path")];
        let mut command = command(&args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().await.expect("the binary starts")
    }

    async fn ready(&self) {
        eventually("GET /ready answers 200", START_TIMEOUT, async || {
            let answer = Call::get("/ready").send(self.address).await.ok()?;
            (answer.status() == 200).then_some(())
        })
        .await;
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory with its configuration, its log and, in `data`, all that it keeps.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    // --- the process ---

    pub async fn kill9(&mut self) {
        self.child.kill().await.expect("the coordinator runs");
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("the coordinator runs");
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), signal).expect("the coordinator runs");
    }

    /// Asks the coordinator to end, and says how and how soon it did.
    pub async fn term(&mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = self.exited(START_TIMEOUT).await;
        (status, started.elapsed())
    }

    pub async fn exited(&mut self, within: Duration) -> ExitStatus {
        let status = timeout(within, self.child.wait()).await;
        status.unwrap_or_else(|_| panic!("still running after {within:?}")).expect("an exit status")
    }

    /// Starts again on the same data directory, on another port.
    pub async fn restart(&mut self) {
        (self.child, self.address) = launch(self.dir.path()).await;
        self.ready().await;
    }

    /// The peak of the process's resident memory so far, in bytes.
    pub fn rss_peak(&self) -> u64 {
        let pid = self.child.id().expect("the coordinator runs");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status of the process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
    }

    /// Every file below the data directory with its size, except the audit log and what the database keeps for itself.
    pub fn payloads(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        walk(&self.dir.path().join("data"), &mut files);
        files.retain(|(path, _)| !path.to_string_lossy().contains(".db") && !is_sqlite(path));
        files
    }

    /// The file of the coordinator's database.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("data/pool.db")
    }

    /// What the coordinator has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr.log")).unwrap_or_default()
    }

    // --- the client ---

    pub async fn call(&self, call: Call) -> Answer {
        call.send(self.address).await.unwrap_or_else(|error| panic!("{call:?}: {error}"))
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.call(Call::get(target)).await
    }

    /// Submits and gives back the job's id.
    pub async fn submit(&self, files: &[(&str, &[u8])], manifest: &Value) -> String {
        let answer = self.call(bodies::form(files, Some(&manifest.to_string()))).await.expect(200);
        answer["job_id"].as_str().expect("a job id").to_owned()
    }

    /// Submits a one-file job whose script is its arguments (`run_ms=200`, `out=name:text` ...).
    pub async fn run(&self, args: &[&str]) -> String {
        self.submit(&[("main.py", b"print(1)")], &json!({"entrypoint": "main.py", "args": args})).await
    }

    /// Runs such a job to its end.
    pub async fn complete(&self, args: &[&str]) -> String {
        let job = self.run(args).await;
        let status = self.finished(&job).await;
        assert_eq!(status["pool_status"], "completed", "{status}");
        job
    }

    pub async fn status(&self, job: &str) -> Value {
        self.get(&format!("/status/{job}")).await.expect(200)
    }

    pub async fn wait_until(&self, job: &str, done: impl Fn(&Value) -> bool, deadline: Duration) -> Value {
        eventually(&format!("{job} gets there"), deadline, async || {
            Some(self.status(job).await).filter(&done)
        })
        .await
    }

    /// The job's final status.
    pub async fn finished(&self, job: &str) -> Value {
        self.wait_until(job, is_final, SOON).await
    }

    /// The job's final status, which must be a failure with this code.
    pub async fn failed(&self, job: &str, code: &str) -> Value {
        let status = self.finished(job).await;
        assert_eq!(
            (&status["pool_status"], &status["error"]["code"]),
            (&"failed".into(), &code.into()),
            "{status}"
        );
        status
    }

    /// The worker's entry in `/pool`.
    pub async fn worker(&self, worker_id: &str) -> Value {
        let pool = self.get("/pool").await.expect(200);
        let mut workers = pool["workers"].as_array().expect("workers").iter();
        workers.find(|worker| worker["worker_id"] == worker_id).expect("a worker of the list").clone()
    }

    pub async fn worker_until(&self, worker_id: &str, done: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{worker_id} gets there"), SOON, async || {
            Some(self.worker(worker_id).await).filter(&done)
        })
        .await
    }

    /// Waits for so many healthy workers.
    pub async fn healthy(&self, workers: usize) {
        eventually(&format!("{workers} healthy workers"), SOON, async || {
            let pool = self.get("/pool").await.expect(200);
            (pool["healthy_workers"] == workers).then_some(())
        })
        .await;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
            eprintln!("--- the coordinator's log ends with\n{shown}\n---");
        }
    }
}

/// Asks until there is an answer.
pub async fn eventually<T>(what: &str, deadline: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The entry of a worker that is not there: nothing listens on the discard port.
pub fn nobody() -> Value {
    let key = SigningKey::from_bytes(&rand::random()).verifying_key();
    json!({"worker_id": STANDARD.encode(key.as_bytes()), "endpoint": "http://127.0.0.1:9"})
}

pub fn is_final(status: &Value) -> bool {
    matches!(status["pool_status"].as_str(), Some("completed" | "failed" | "cancelled"))
}

/// A command of the binary, without what the environment of the tests may say to it.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    for name in ["TRUSTED_POOL_URL", "TRUSTED_POOL_TOKEN", "RUST_LOG"] {
        command.env_remove(name);
    }
    command
}

pub fn write_config(dir: &Path, workers: &[Value], extra: &str) {
    let health = if extra.contains("health:") { "" } else { HEALTH };
    let server = if extra.contains("server:") { "" } else { SERVER };
    let paths = format!("listen: 127.0.0.1:0\ndata: {0}/data\nworkers: {0}/workers.json\n", dir.display());
    let yaml = format!("{paths}{health}{server}{extra}\n");
    fs::write(dir.join("workers.json"), Value::from(workers).to_string()).expect("a writable directory");
    fs::write(dir.join("pool.yaml"), yaml).expect("a writable directory");
}

async fn launch(dir: &Path) -> (Child, SocketAddr) {
    let log = OpenOptions::new().create(true).append(true).open(dir.join("stderr.log")).expect("a log file");
    let config = dir.join("pool.yaml");
    let args = ["serve", "--config", config.to_str().expect("a UTF-8 path")];
    serve(command(&args), log).await.unwrap_or_else(|problem| {
        panic!("{problem}\n{}", fs::read_to_string(dir.join("stderr.log")).unwrap_or_default())
    })
}

/// Starts a coordinator and reads from its output where it listens.
pub async fn serve(mut command: Command, log: File) -> Result<(Child, SocketAddr), String> {
    let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().map_err(|error| error.to_string())?;
    let mut lines = BufReader::new(child.stdout.take().expect("a piped stdout")).lines();
    let address = timeout(START_TIMEOUT, bound_address(&mut lines)).await;
    let address = address.map_err(|_| "no address within the time for a start".to_owned())??;
    // The rest is read away, so that a full pipe never stops the coordinator.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, address))
}

async fn bound_address(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<SocketAddr, String> {
    while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
        if let Some((_, address)) = line.split_once("listening on http://") {
            let address = address.trim_end_matches('/').split_whitespace().next().unwrap_or_default();
            return address.parse().map_err(|error| format!("{line:?}: {error}"));
        }
    }
    Err("the coordinator ended without saying where it listens".into())
}

fn walk(dir: &Path, files: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(about) if about.is_dir() => walk(&entry.path(), files),
            Ok(about) => files.push((entry.path(), about.len())),
            // Removed while we looked.
            Err(_) => {}
        }
    }
}

fn is_sqlite(path: &Path) -> bool {
    let name = path.to_string_lossy();
    ["sqlite", "-wal", "-shm", "lock", "audit.log"].iter().any(|part| name.contains(part))
}
