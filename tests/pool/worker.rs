//! A worker of this package: the real binary in a process of its own, to be killed and started again.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;

use crate::harness::{START_TIMEOUT, command, eventually, serve};

/// A running worker; it ends with the handle.
pub struct Worker {
    dir: TempDir,
    worker_id: String,
    options: Vec<String>,
    address: SocketAddr,
    child: Child,
}

impl Worker {
    /// Starts a worker with a fresh key on a free port. Its jobs run without a sandbox: not every machine can make one.
    pub async fn start(capacity: u32) -> Self {
        Self::start_with(capacity, &[]).await
    }

    /// The same, with more options.
    pub async fn start_with(capacity: u32, options: &[&str]) -> Self {
        let capacity = ["--capacity".to_owned(), capacity.to_string()];
        let options: Vec<String> =
            capacity.into_iter().chain(options.iter().map(|option| (*option).to_owned())).collect();
        let dir = TempDir::new().expect("a temporary directory");
        let worker_id = keygen(dir.path()).await;
        let any = "127.0.0.1:0".parse().expect("an address");
        let (child, address) = launch(dir.path(), any, &options).await.expect("a worker starts");
        Self { dir, worker_id, options, address, child }
    }

    pub fn worker_id(&self) -> &str {
        &self.worker_id
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// This worker's entry in workers.json.
    pub fn entry(&self) -> Value {
        json!({"worker_id": self.worker_id, "endpoint": format!("http://{}", self.address)})
    }

    pub async fn kill9(&mut self) {
        self.child.kill().await.expect("the worker runs");
    }

    /// Asks it to end, and waits until it has.
    pub async fn term(&mut self) -> ExitStatus {
        let pid = self.child.id().expect("the worker runs");
        kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGTERM).expect("the worker runs");
        self.child.wait().await.expect("an exit status")
    }

    /// Starts again with the same key, directory and port.
    pub async fn restart(&mut self) {
        // While it was away, somebody's outgoing connection may have been given its port.
        let (dir, address, options) = (self.dir.path(), self.address, &self.options);
        let restarted = eventually("the worker starts again", START_TIMEOUT, async || {
            launch(dir, address, options).await.ok()
        });
        (self.child, self.address) = restarted.await;
    }
}

async fn keygen(dir: &Path) -> String {
    let key = dir.join("worker.pem");
    let output = command(&["keygen", key.to_str().expect("a UTF-8 path")]).output().await;
    let said = String::from_utf8(output.expect("the binary runs").stdout).expect("UTF-8");
    said.trim().strip_prefix("Worker ID: ").expect("a worker id").to_owned()
}

async fn launch(dir: &Path, listen: SocketAddr, options: &[String]) -> Result<(Child, SocketAddr), String> {
    let log = OpenOptions::new().create(true).append(true).open(dir.join("stderr.log")).expect("a log file");
    let listen = listen.to_string();
    let mut command = command(&["worker", "--sandbox", "none", "--listen", &listen]);
    command.args(options).arg("--key").arg(dir.join("worker.pem")).arg("--data").arg(dir.join("data"));
    serve(command, log).await
}
