//! A job's process, from its start to the certainty that nothing of it is left.

use std::future::Future;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::sandbox::Sandbox;
use super::usage::{self, Usage};

/// The first sample of a process's usage is taken after this time, the next after twice that, and so on ...
const SAMPLE_FIRST: Duration = Duration::from_millis(5);

/// ... up to this period: often enough to see a process that was killed, too seldom to cost anything.
const SAMPLE_PERIOD_MAX: Duration = Duration::from_millis(500);

/// A running job. Dropping it kills the job.
pub struct Process {
    child: Child,
    leftovers: Leftovers,
    ended: Signal,
    usage: Usage,
}

/// What a job's end by itself may leave running.
#[derive(Clone, Copy)]
enum Leftovers {
    /// Nothing: its PID namespace has ended with it.
    None,
    /// What it has started in its process group.
    Group,
}

/// How a job's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code (128 + n after signal n).
    Exited(i32),
    /// It was still running at its deadline and was killed.
    TimedOut,
    /// It was killed because the worker stops.
    Stopped,
}

impl Process {
    /// Starts a command of `sandbox`, and hands out its output.
    ///
    /// The child is bound to the thread that starts it (it is killed when that thread ends), so this must be called on
    /// a thread that lives as long as the runtime: from a task, never from `spawn_blocking`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(sandbox: &Sandbox, mut command: Command) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        // Listening begins before the child does, so that its end cannot be missed.
        let ended = signal(SignalKind::child())?;
        let leftovers = match sandbox {
            Sandbox::Bubblewrap(_) => Leftovers::None,
            Sandbox::None => Leftovers::Group,
        };
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().expect("the sandbox pipes a job's stdout");
        let stderr = child.stderr.take().expect("the sandbox pipes a job's stderr");
        Ok((Self { child, leftovers, ended, usage: Usage::default() }, stdout, stderr))
    }

    /// Waits for the end, which comes by itself, at the deadline, or when `stop` is done.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn end(
        mut self,
        deadline: Instant,
        stop: impl Future<Output = ()>,
    ) -> io::Result<(End, Usage)> {
        let mut stop = pin!(stop);
        let mut killed = None;
        let mut period = SAMPLE_FIRST;
        loop {
            tokio::select! {
                () = &mut stop, if killed.is_none() => {
                    self.kill();
                    killed = Some(End::Stopped);
                }
                () = sleep_until(deadline), if killed.is_none() => {
                    self.usage.sample(self.child.id());
                    self.kill();
                    killed = Some(End::TimedOut);
                }
                _ = self.ended.recv() => {}
                () = tokio::time::sleep(period) => {
                    self.usage.sample(self.child.id());
                    period = SAMPLE_PERIOD_MAX.min(period * 2);
                }
            }
            if let Some((status, cpu)) = usage::try_reap(&mut self.child)? {
                self.usage.cpu = self.usage.cpu.max(cpu);
                return Ok((killed.unwrap_or(End::Exited(exit_code(status))), self.usage));
            }
        }
    }

    fn kill(&mut self) {
        // The leader first: until it is reaped its group keeps its name, and it starts nothing more that could be
        // missed. This fails only when it has been reaped, and then there is nothing to kill.
        let _ = self.child.kill();
        self.kill_group();
    }

    /// Kills everything in the job's process group. Sending a signal to a group is out of reach of safe Rust; the
    /// shell can.
    fn kill_group(&self) {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "kill -KILL -$1", "sh", &self.child.id().to_string()]);
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match shell.spawn() {
            Ok(mut shell) => reap(&mut shell),
            Err(error) => log::error!("processes of a job may be left: no shell to kill them: {error}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        match (usage::try_reap(&mut self.child), self.leftovers) {
            (Ok(None), _) => {
                self.kill();
                reap(&mut self.child);
            }
            (Ok(Some(_)) | Err(_), Leftovers::Group) => self.kill_group(),
            (Ok(Some(_)) | Err(_), Leftovers::None) => {}
        }
    }
}

/// Waits for a child that ends within milliseconds: it was killed, or does nothing but send a signal.
fn reap(child: &mut Child) {
    while let Ok(None) = usage::try_reap(child) {
        std::thread::yield_now();
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
