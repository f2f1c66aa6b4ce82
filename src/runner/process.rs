//! A job's process, from its start to the certainty that nothing of it is left.

use std::future::Future;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal as ProcessSignal, kill_process, kill_process_group};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::enforcement::Hold;
use super::limits::{Limit, Limits};
use super::sandbox::Sandbox;
use super::usage::{self, Sample, Usage};

/// The first sample of a process's usage is taken after this time, the next after twice that, and so on ...
const SAMPLE_FIRST: Duration = Duration::from_millis(5);

/// ... up to this period: often enough to see a process that was killed, too seldom to cost anything.
const SAMPLE_PERIOD_MAX: Duration = Duration::from_millis(500);

/// The same where it is the worker that adds up a job's memory: in this time a process can fill a hundred megabytes.
const SAMPLE_PERIOD_RLIMIT: Duration = Duration::from_millis(50);

/// How long a cancelled job may go on after it was asked to end.
const GRACE: Duration = Duration::from_secs(2);

/// A running job. Dropping it kills the job.
pub struct Process {
    child: Child,
    leftovers: Leftovers,
    ended: Signal,
    limits: Limits,
    hold: Hold,
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
    /// It used more than it may, and was killed if it had not ended by then.
    OverLimit(Limit),
}

impl Process {
    /// Starts a command of `sandbox` that enters this hold, and hands out its output.
    ///
    /// The child is bound to the thread that starts it (it is killed when that thread ends), so this must be called on
    /// a thread that lives as long as the runtime: from a task, never from `spawn_blocking`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(
        sandbox: &Sandbox,
        mut command: Command,
        limits: Limits,
        hold: Hold,
    ) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        // Listening begins before the child does, so that its end cannot be missed.
        let ended = signal(SignalKind::child())?;
        let leftovers = match sandbox {
            Sandbox::Bubblewrap(_) => Leftovers::None,
            Sandbox::None => Leftovers::Group,
        };
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().expect("the sandbox pipes a job's stdout");
        let stderr = child.stderr.take().expect("the sandbox pipes a job's stderr");
        Ok((Self { child, leftovers, ended, limits, hold, usage: Usage::default() }, stdout, stderr))
    }

    /// Waits for the end, which comes by itself, at the deadline, when `stop` is done, soon after `cancel` is, or when a
    /// limit is broken: one that is watched here, or the one that `broken` tells.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn end(
        mut self,
        deadline: Instant,
        stop: impl Future<Output = ()>,
        cancel: impl Future<Output = ()>,
        broken: impl Future<Output = Limit>,
    ) -> io::Result<(End, Usage)> {
        let (mut stop, mut cancel, mut broken) = (pin!(stop), pin!(cancel), pin!(broken));
        let mut cause = None;
        let mut kill_at = Some(deadline);
        let mut period = SAMPLE_FIRST;
        loop {
            let alive = kill_at.is_some();
            let over = tokio::select! {
                () = &mut stop, if alive => Some(End::Stopped),
                limit = &mut broken, if alive => Some(End::OverLimit(limit)),
                () = &mut cancel, if cause.is_none() => {
                    self.ask_to_end();
                    kill_at = Some(deadline.min(Instant::now() + GRACE));
                    cause = Some(End::Cancelled);
                    None
                }
                () = sleep_until(kill_at.unwrap_or(deadline)), if alive => {
                    self.sample();
                    Some(End::TimedOut)
                }
                _ = self.ended.recv() => None,
                () = tokio::time::sleep(period) => {
                    period = self.period_max().min(period * 2);
                    self.sample().filter(|_| alive).map(End::OverLimit)
                }
            };
            if let Some(end) = over {
                self.kill();
                kill_at = None;
                cause.get_or_insert(end);
            }
            if let Some((status, cpu)) = usage::try_reap(&mut self.child)? {
                self.usage.cpu = self.usage.cpu.max(cpu);
                let mut last = Sample { usage: self.usage, ..Sample::default() };
                let limit = self.hold.check(&mut last, &self.limits);
                let by_itself = || limit.map_or(End::Exited(exit_code(status)), End::OverLimit);
                return Ok((cause.unwrap_or_else(by_itself), last.usage));
            }
        }
    }

    /// Looks at what the job uses, and tells the limit that it has broken.
    fn sample(&mut self) -> Option<Limit> {
        let mut sample = Sample::of(self.child.id());
        let limit = self.hold.check(&mut sample, &self.limits);
        self.usage.take_in(sample.usage);
        limit
    }

    fn period_max(&self) -> Duration {
        match self.hold {
            Hold::Group(_) => SAMPLE_PERIOD_MAX,
            Hold::Rlimit => SAMPLE_PERIOD_RLIMIT,
        }
    }

    /// Asks the job to end. Under bubblewrap that is all but bubblewrap, whose end would be the job's at once. What
    /// starts just now may be missed; being asked is a courtesy, and being killed follows.
    fn ask_to_end(&self) {
        match self.leftovers {
            Leftovers::None => {
                for pid in usage::descent(self.child.id()).into_iter().skip(1) {
                    // It may be gone already.
                    let _ = kill_process(process_id(pid), ProcessSignal::TERM);
                }
            }
            Leftovers::Group => self.signal_group(ProcessSignal::TERM),
        }
    }

    fn kill(&mut self) {
        // The leader first: until it is reaped its group keeps its name, and it starts nothing more that could be
        // missed. This fails only when it has been reaped, and then there is nothing to kill.
        let _ = self.child.kill();
        self.signal_group(ProcessSignal::KILL);
    }

    /// Signals everything in the job's process group. There may be nothing in it.
    fn signal_group(&self, signal: ProcessSignal) {
        let _ = kill_process_group(process_id(self.child.id()), signal);
    }
}

fn process_id(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the kernel's process ids are positive")
}

impl Drop for Process {
    fn drop(&mut self) {
        match (usage::try_reap(&mut self.child), self.leftovers) {
            (Ok(None), _) => {
                self.kill();
                reap(&mut self.child);
            }
            (Ok(Some(_)) | Err(_), Leftovers::Group) => self.signal_group(ProcessSignal::KILL),
            (Ok(Some(_)) | Err(_), Leftovers::None) => {}
        }
    }
}

/// Waits for a child that was killed, and so ends within milliseconds.
fn reap(child: &mut Child) {
    while let Ok(None) = usage::try_reap(child) {
        std::thread::yield_now();
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
