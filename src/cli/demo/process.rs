//! A command of this program as a process of its own.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::cli::exit::Failure;

/// A server that has told where it listens. It is killed with the value; [`Process::stop`] is kinder.
pub(super) struct Process {
    child: Child,
    url: String,
}

/// What a server prints on standard output once it listens.
const LISTENING: &str = "listening on ";
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A pool that is idle ends at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of a log is shown when a process does not start.
const LOG_LINES_SHOWN: usize = 20;

/// What a command prints.
pub(super) async fn output(arguments: &[&str]) -> Result<String, Failure> {
    let output = command(arguments)?.stderr(Stdio::inherit()).output().await.map_err(Failure::set_up)?;
    if !output.status.success() {
        return Err(Failure::Setup(format!("{} failed: {}", arguments[0], output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command(arguments: &[&str]) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe().map_err(Failure::set_up)?);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

impl Process {
    /// Starts a server and waits until it listens. Its standard error goes to `NAME.log` in the directory.
    pub(super) async fn start(name: &str, arguments: &[&str], directory: &Path) -> Result<Self, Failure> {
        let log = directory.join(format!("{name}.log"));
        let mut child = command(arguments)?
            .stdout(Stdio::piped())
            .stderr(File::create(&log).map_err(Failure::set_up)?)
            // Ctrl-C is for us; we end our processes in order.
            .process_group(0)
            .spawn()
            .map_err(Failure::set_up)?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut lines = BufReader::new(stdout).lines();
        let url = tokio::time::timeout(START_TIMEOUT, listening(&mut lines)).await.ok().flatten();
        let url = url.ok_or_else(|| Failure::Setup(format!("{name} did not start:\n{}", tail(&log))))?;
        // Read on, or the process fails on its next line.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, url })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Asks the process to end, and ends it when it does not.
    pub(super) async fn stop(&mut self) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself just now.
            let _ = kill_process(pid, Signal::TERM);
            if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
                let _ = self.child.kill().await;
            }
        }
    }
}

/// The address that the process tells; `None` when it ends without.
async fn listening(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(url) = line.strip_prefix(LISTENING) {
            return Some(url.trim().to_owned());
        }
    }
    None
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
