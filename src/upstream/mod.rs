//! How the pool speaks to a worker. [`Upstream`] is one of the pool's two seams: [`client`] speaks HTTP, a simulation
//! plays the worker in memory.
//!
//! Every answer keeps what is not known apart from what is: a call that got no answer is its own variant, never an
//! error folded into "no".

pub mod client;
pub mod clients;
pub mod download;
pub mod evidence;
pub mod gate;
pub mod logs;
pub mod peer;
pub mod raw_target;
pub mod sandrun;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::api::OutputPath;
use crate::job::{JobId, RemoteId, Verdict};
use crate::store::{Logs, Work};
use crate::worker::certificate::Leaf;
use crate::worker::{Dialect, WorkerKey, WorkerSpec};
use download::Opened;
use evidence::Evidence;

/// A worker to be spoken to, and how it is to be spoken to.
#[derive(Clone, Debug)]
pub struct Contact {
    pub spec: Arc<WorkerSpec>,
    pub dialect: Dialect,
    /// The certificate that it showed last, of an `https` endpoint.
    pub leaf: Option<Arc<Leaf>>,
    /// Whether it has shown at this endpoint that it is the worker; until then nothing of a job goes there.
    pub is_proven: bool,
}

impl Contact {
    /// Why nothing of a job may go there, if it may not.
    pub fn unproven(&self) -> Option<String> {
        let reason =
            || format!("it has not shown at {} that it is the worker that is listed", self.spec.endpoint);
        (!self.is_proven).then(reason)
    }
}

/// What a worker says of itself in `/health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// The identity it claims; `None` for a worker that was started without a key.
    pub worker_id: Option<String>,
    pub dialect: Dialect,
    /// Jobs at once, where it says.
    pub capacity: Option<u32>,
    /// Where it answered: of the addresses of its host name, one that is known to lead to it.
    pub address: Option<SocketAddr>,
    pub evidence: Evidence,
}

/// What became of sending a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// The worker has the job.
    Accepted { remote: RemoteId },
    /// It will not take this job, for the job's own fault, in its own words.
    Refused { message: String },
    /// It will not take a job now.
    Throttled { message: String, retry_after: Option<Duration> },
    /// Not a byte of the job left: the worker cannot have it.
    Unreachable { reason: String },
    /// Not a byte of the job left, and for no fault of the worker: what is to be sent cannot be read.
    Unreadable { reason: String },
    /// The job was on its way and no answer (or none that says anything) came.
    Unknown { reason: String },
}

/// Why a health check came to nothing, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckFailure {
    /// Whoever answered is not the worker that the allowlist names.
    NotTheWorker(String),
    /// No answer, or one of a worker that is not well.
    Unwell(String),
}

impl CheckFailure {
    pub fn reason(&self) -> &str {
        match self {
            Self::NotTheWorker(reason) | Self::Unwell(reason) => reason,
        }
    }
}

impl From<String> for CheckFailure {
    fn from(reason: String) -> Self {
        Self::Unwell(reason)
    }
}

/// What a worker answers when it is asked for something of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    Known(T),
    /// The worker does not know the job (any more).
    Gone,
    /// Reached, but no answer in time: a worker that runs a job may be silent until it ends.
    Silent,
    /// It answered, and the answer cannot be read: an error, cut off, too long, or not of the protocol.
    Unreadable {
        reason: String,
    },
    /// Not reached, or it hung up without an answer.
    Unreachable {
        reason: String,
    },
}

impl<T> Answer<T> {
    /// The same answer with another value.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Known(value) => Answer::Known(map(value)),
            Self::Gone => Answer::Gone,
            Self::Silent => Answer::Silent,
            Self::Unreadable { reason } => Answer::Unreadable { reason },
            Self::Unreachable { reason } => Answer::Unreachable { reason },
        }
    }
}

/// A worker's status of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteStatus {
    pub stage: Stage,
    /// The whole answer, a JSON object.
    pub json: Arc<str>,
}

/// How far a job is on its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Active,
    Ended(Verdict),
    /// It did not end: its worker did, or stopped it to end.
    Lost,
}

/// How long a status call may wait for news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Answer with what is known.
    Now,
    /// Answer when the job ends, or after this time; only workers that can do so are asked for it.
    Until(Duration),
}

/// What a worker answers when it is asked for a job by the key it was sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    Found {
        remote: RemoteId,
    },
    /// It never took it.
    Absent,
    /// It knows no keys, or has been started anew or forgotten jobs since.
    CannotSay,
    /// No answer; it may be asked again.
    Unanswered,
}

/// The name under which one attempt is sent, so that a worker that knows keys runs it once.
pub fn attempt_key(job: &JobId, attempt: u32) -> String {
    format!("{job}/{attempt}")
}

/// The calls that the pool makes to a worker.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    async fn health(&self, spec: &Arc<WorkerSpec>) -> Result<HealthReport, CheckFailure>;

    /// Sends a job. The call lasts until the worker answers, at most as long as the longest job: some workers answer
    /// only when their running job ends.
    async fn submit(&self, to: &Contact, job: &JobId, attempt: u32, work: &Work) -> SendOutcome;

    /// Asks for a job that was sent with this key, no longer ago than `sent_within`.
    async fn find_by_key(&self, at: &Contact, key: &str, sent_within: Duration) -> KeyAnswer;

    async fn status(&self, at: &Contact, remote: &RemoteId, patience: Patience) -> Answer<RemoteStatus>;

    /// Asks the worker to stop a job; only workers that know how are asked.
    async fn cancel(&self, at: &Contact, remote: &RemoteId) -> Answer<()>;

    /// Standard output and error, each cut to `bytes_max`.
    async fn logs(&self, at: &Contact, remote: &RemoteId, bytes_max: usize) -> Answer<Logs>;

    /// The worker's own listing of a job's outputs, a JSON object.
    async fn listing(&self, at: &Contact, remote: &RemoteId) -> Answer<String>;

    /// One output of a job, from the worker's disk: unlike the calls above it does not wait for a running job.
    async fn open_output(&self, at: &Contact, remote: &RemoteId, path: &OutputPath) -> Opened;

    /// Lets go of what is held for speaking to a worker, which is gone or elsewhere now.
    fn forget(&self, worker: WorkerKey);
}
