//! One job on this worker, from its acceptance until it is forgotten.

use std::borrow::Borrow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::interpreter::Interpreter;
use super::jobdir::JobDir;
use super::limits::{Limit, Limits};
use super::logs::{Extents, Logs};
use super::outputs::{OutputRule, Outputs};
use super::record::Record;
use super::registry::IdempotencyKey;
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
    /// What is known of it for as long as it is.
    pub facts: Facts,
    /// Its files.
    pub work: WorkDir,
    /// Holds everything of it on disk.
    pub dir: JobDir,
    /// What it writes.
    pub logs: Logs,
    phase: watch::Sender<Phase>,
    cancel: CancellationToken,
}

/// What is known of a job from its beginning until it is forgotten.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// Its client's name for it.
    pub key: Option<IdempotencyKey>,
    /// What runs it.
    pub interpreter: Interpreter,
    /// The name of its environment; empty where it has none.
    pub environment: String,
    /// SHA-256 of the upload, in hex.
    pub hash: String,
}

/// Everything about a job that is only of use until it has ended.
#[derive(Debug)]
pub struct Order {
    /// What to run.
    pub plan: Plan,
    /// How long it may run.
    pub timeout: Duration,
    /// What it may use.
    pub limits: Limits,
    /// Which of its files are outputs.
    pub rule: OutputRule,
    /// What its receipt is about, if it gets one.
    pub subject: Option<Subject>,
}

/// Where a job is in its life.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Accepted; its process starts in a moment.
    Queued(Arc<Order>),
    /// Its process runs.
    Running {
        /// What is run.
        order: Arc<Order>,
        /// Since when.
        since: Instant,
    },
    /// It is over.
    Finished(Arc<Finished>),
}

/// A finished job.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    #[serde(default)]
    pub receipt: Option<Receipt>,
    /// When it ended.
    pub at: SystemTime,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Its process ended by itself with this code.
    Exited(i32),
    /// It ran out of time.
    TimedOut,
    /// The worker stopped.
    WorkerStopped,
    /// The worker's process ended while the job ran, and could not see to it.
    WorkerLost,
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
    /// The job of an earlier process whose directory has this name.
    #[must_use]
    pub fn of_directory(name: String) -> Self {
        Self(name)
    }

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
    /// A job that is about to be accepted, on record. Blocks.
    ///
    /// # Errors
    /// When its directory is gone or its record cannot be written.
    pub fn create(id: JobId, facts: Facts, order: Order, dir: JobDir) -> io::Result<Self> {
        dir.record(&Record { facts: facts.clone(), end: None })?;
        dir.sync_name()?;
        Self::new(id, facts, dir, Phase::Queued(Arc::new(order)), Extents::default())
    }

    /// A job of an earlier process, by its record. One that ran then is lost, which is put on record. Blocks.
    ///
    /// # Errors
    /// When its directory is not a job's.
    pub fn restore(id: JobId, record: Record, dir: JobDir) -> io::Result<Self> {
        let facts = record.facts;
        let (finished, extents) = match record.end {
            Some(end) => end,
            None => {
                let end = (Finished::lost(), dir.log_extents());
                dir.remove_all_but_results();
                if let Err(error) = dir.record(&Record { facts: facts.clone(), end: Some(end.clone()) }) {
                    log::error!("{id}: that it is lost cannot be put on record: {error}");
                }
                end
            }
        };
        Self::new(id, facts, dir, Phase::Finished(Arc::new(finished)), extents)
    }

    fn new(id: JobId, facts: Facts, dir: JobDir, phase: Phase, extents: Extents) -> io::Result<Self> {
        let (work, logs) = (dir.work()?, Logs::new(dir.path(), extents));
        Ok(Self {
            id,
            facts,
            work,
            dir,
            logs,
            phase: watch::Sender::new(phase),
            cancel: CancellationToken::new(),
        })
    }

    /// Puts its end on record. Blocks.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub(super) fn record_end(&self, finished: &Finished) -> io::Result<()> {
        let end = (finished.clone(), *self.logs.watch().borrow());
        self.dir.record(&Record { facts: self.facts.clone(), end: Some(end) })
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
            Self::Queued(_) => Status::Queued,
            Self::Running { .. } => Status::Running,
            Self::Finished(finished) => finished.verdict.status(),
        }
    }

    /// The end, if it has come.
    #[must_use]
    pub fn finished(&self) -> Option<&Arc<Finished>> {
        match self {
            Self::Queued(_) | Self::Running { .. } => None,
            Self::Finished(finished) => Some(finished),
        }
    }
}

// === impl Finished ===

impl Finished {
    /// The end of a job that nobody has seen.
    fn lost() -> Self {
        let (usage, outputs) = (Usage::default(), Outputs::default());
        let (wall, at) = (Duration::ZERO, SystemTime::now());
        Self { verdict: Verdict::WorkerLost, usage, wall, outputs, receipt: None, at }
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
            | Self::WorkerLost
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
            Self::TimedOut
            | Self::WorkerStopped
            | Self::WorkerLost
            | Self::Cancelled
            | Self::OverLimit(_) => 137,
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
            Self::WorkerLost => Some("worker_lost"),
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
            Self::WorkerLost => {
                Some("The worker was killed, or its machine went down, while the job ran".into())
            }
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
