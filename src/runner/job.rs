//! One job on this worker, from its acceptance until it is forgotten.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::jobdir::JobDir;
use super::limits::{Limit, Limits};
use super::logs::Logs;
use super::outputs::{OutputRule, Outputs};
use super::sandbox::Plan;
use super::usage::Usage;
use super::workdir::WorkDir;
use crate::worker::receipt::{Receipt, Subject};

/// A job's name on this worker: `job_<unix seconds>_<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

/// A job that has been accepted.
#[derive(Debug)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// What it is made of.
    pub order: Order,
    /// What it writes.
    pub logs: Logs,
    /// What its receipt is about, if it gets one.
    pub(super) subject: Option<Subject>,
    phase: watch::Sender<Phase>,
    cancel: CancellationToken,
}

/// Everything that is fixed about a job before it starts.
#[derive(Debug)]
pub struct Order {
    /// What to run.
    pub plan: Plan,
    /// How long it may run.
    pub timeout: Duration,
    /// What it may use.
    pub limits: Limits,
    /// Its files.
    pub work: WorkDir,
    /// Which of them are outputs.
    pub rule: OutputRule,
    /// SHA-256 of the upload, in hex.
    pub hash: String,
    /// Holds everything above on disk.
    pub dir: JobDir,
}

/// Where a job is in its life.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Accepted; its process starts in a moment.
    Queued,
    /// Its process runs.
    Running {
        /// Since when.
        since: Instant,
    },
    /// It is over.
    Finished(Arc<Finished>),
}

/// A finished job.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub verdict: Verdict,
    /// What it used.
    pub usage: Usage,
    /// How long it ran.
    pub wall: Duration,
    /// What it made.
    pub outputs: Outputs,
    /// What the worker signs of it.
    pub receipt: Option<Receipt>,
    /// When it ended.
    pub at: Instant,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its process ended by itself with this code.
    Exited(i32),
    /// It ran out of time.
    TimedOut,
    /// The worker stopped.
    WorkerStopped,
    /// A client cancelled it.
    Cancelled,
    /// It used more than it may.
    OverLimit(Limit),
    /// Its process could not be started or followed.
    Broken(String),
}

/// A phase's name in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Accepted.
    Queued,
    /// Running.
    Running,
    /// Ended with exit code 0.
    Completed,
    /// Ended in any other way.
    Failed,
}

// === impl JobId ===

impl JobId {
    /// The job of this number in this process, accepted at `unix_seconds`.
    #[must_use]
    pub fn new(unix_seconds: u64, number: u64) -> Self {
        Self(format!("job_{unix_seconds}_{number}"))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for JobId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Job ===

impl Job {
    /// A job that has just been accepted.
    #[must_use]
    pub fn new(id: JobId, order: Order, subject: Option<Subject>) -> Self {
        let logs = Logs::new(order.dir.path());
        Self {
            id,
            order,
            logs,
            subject,
            phase: watch::Sender::new(Phase::Queued),
            cancel: CancellationToken::new(),
        }
    }

    /// Where it is now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Where it is, and news of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Has it ended soon, if it has not ended yet. Its phase tells when it has.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Waits until it is cancelled.
    pub(super) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Moves it on. Only the task that runs the job does so.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }
}

// === impl Phase ===

impl Phase {
    /// The phase's name in the protocol.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Queued => Status::Queued,
            Self::Running { .. } => Status::Running,
            Self::Finished(finished) => finished.verdict.status(),
        }
    }

    /// The end, if it has come.
    #[must_use]
    pub fn finished(&self) -> Option<&Arc<Finished>> {
        match self {
            Self::Queued | Self::Running { .. } => None,
            Self::Finished(finished) => Some(finished),
        }
    }
}

// === impl Verdict ===

impl Verdict {
    fn status(&self) -> Status {
        match self {
            Self::Exited(0) => Status::Completed,
            Self::Exited(_)
            | Self::TimedOut
            | Self::WorkerStopped
            | Self::Cancelled
            | Self::OverLimit(_)
            | Self::Broken(_) => Status::Failed,
        }
    }

    /// The exit code that is reported, by the shell's conventions where the process had none of its own.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited(code) => *code,
            Self::TimedOut | Self::WorkerStopped | Self::Cancelled | Self::OverLimit(_) => 137,
            Self::Broken(_) => 127,
        }
    }

    /// Why it failed, if not by its own exit code: a word for machines.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Exited(_) => None,
            Self::TimedOut => Some("timeout"),
            Self::WorkerStopped => Some("worker_stopped"),
            Self::Cancelled => Some("cancelled"),
            Self::OverLimit(limit) => Some(limit.reason()),
            Self::Broken(_) => Some("worker_error"),
        }
    }

    /// The same for people, where there is more to say.
    #[must_use]
    pub fn explanation(&self) -> Option<String> {
        match self {
            Self::Exited(_) | Self::TimedOut | Self::WorkerStopped | Self::Cancelled => None,
            Self::OverLimit(limit) => Some(limit.to_string()),
            Self::Broken(error) => Some(error.clone()),
        }
    }
}

// === impl Status ===

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
        })
    }
}
