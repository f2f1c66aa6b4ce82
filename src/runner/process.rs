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

/// How long a cancelled job may go on after it was asked to end.
const GRACE: Duration = Duration::from_secs(2);

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
    /// It was asked to end, and killed if it did not.
    Cancelled,
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

    /// Waits for the end, which comes by itself, at the deadline, when `stop` is done, or soon after `cancel` is.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn end(
        mut self,
        deadline: Instant,
        stop: impl Future<Output = ()>,
        cancel: impl Future<Output = ()>,
    ) -> io::Result<(End, Usage)> {
        let (mut stop, mut cancel) = (pin!(stop), pin!(cancel));
        let mut cause = None;
        let mut kill_at = Some(deadline);
        let mut period = SAMPLE_FIRST;
        loop {
            tokio::select! {
                () = &mut stop, if kill_at.is_some() => {
                    self.kill();
                    kill_at = None;
                    cause.get_or_insert(End::Stopped);
                }
                () = &mut cancel, if cause.is_none() => {
                    kill_at = Some(deadline.min(Instant::now() + self.ask_to_end()));
                    cause = Some(End::Cancelled);
                }
                () = sleep_until(kill_at.unwrap_or(deadline)), if kill_at.is_some() => {
                    self.usage.sample(self.child.id());
                    self.kill();
                    kill_at = None;
                    cause.get_or_insert(End::TimedOut);
                }
                _ = self.ended.recv() => {}
                () = tokio::time::sleep(period) => {
                    self.usage.sample(self.child.id());
                    period = SAMPLE_PERIOD_MAX.min(period * 2);
                }
            }
            if let Some((status, cpu)) = usage::try_reap(&mut self.child)? {
                self.usage.cpu = self.usage.cpu.max(cpu);
                return Ok((cause.unwrap_or(End::Exited(exit_code(status))), self.usage));
            }
        }
    }

    /// Asks the job to end, and tells how long it may take. Under bubblewrap the signal would end bubblewrap, and with
    /// it the job's PID namespace at once; and while that is set up, its first process ignores the signal. There the
    /// job is killed without being asked.
    fn ask_to_end(&self) -> Duration {
        match self.leftovers {
            Leftovers::None => Duration::ZERO,
            Leftovers::Group => {
                self.signal_group("TERM");
                GRACE
            }
        }
    }

    fn kill(&mut self) {
        // The leader first: until it is reaped its group keeps its name, and it starts nothing more that could be
        // missed. This fails only when it has been reaped, and then there is nothing to kill.
        let _ = self.child.kill();
        self.signal_group("KILL");
    }

    /// Signals everything in the job's process group. Sending a signal to a group is out of reach of safe Rust; the
    /// shell can.
    fn signal_group(&self, name: &str) {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "kill -$1 -$2", "sh", name, &self.child.id().to_string()]);
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match shell.spawn() {
            Ok(mut shell) => reap(&mut shell),
            Err(error) => log::error!("processes of a job may be left: no shell to signal them: {error}"),
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
            (Ok(Some(_)) | Err(_), Leftovers::Group) => self.signal_group("KILL"),
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
