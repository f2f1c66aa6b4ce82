//! What the pool remembers across a crash, in the verbs of the domain.
//!
//! [`Store`] is one of the two seams of the pool: [`sqlite`] keeps it on disk, [`memory`] for simulations. Every promise
//! made here is held by the suite in `suite.rs`, which both run.

mod ended;
pub mod memory;
mod outputs;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::job::{ClientName, JobId, JobState, PoolStatus, Priority, Terms};
use crate::time::Timestamp;
use crate::worker::WorkerKey;

pub use ended::{EndedJob, SHORT_TEXT_BYTES};
pub use outputs::{EndedRun, KeptFile, KeptRun, OutputsPlace, Settled};

/// A job as the store knows it, without its payload and manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    pub id: JobId,
    /// Its place in the order of submission: unique, rising.
    pub sequence: i64,
    /// Counts the writes to this row; a write is conditional on the version it leaves.
    pub version: i64,
    /// Whose it is; `None` where the pool asked nobody who they are.
    pub client: Option<ClientName>,
    pub priority: Priority,
    pub submitted_at: Timestamp,
    pub terms: Arc<Terms>,
    pub state: JobState,
}

impl JobRow {
    /// What tells this end of a finished job from others.
    pub fn run(&self) -> EndedRun {
        EndedRun { job: self.id.clone(), version: self.version }
    }
}

/// A job to be taken in.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub id: JobId,
    pub client: Option<ClientName>,
    pub priority: Priority,
    pub submitted_at: Timestamp,
    pub terms: Arc<Terms>,
    pub work: Arc<Work>,
    pub idempotency: Option<Idempotency>,
}

/// The version that every job's row begins with.
pub const FIRST_VERSION: i64 = 1;

impl NewJob {
    /// Its first row.
    fn row(&self, sequence: i64) -> JobRow {
        JobRow {
            id: self.id.clone(),
            sequence,
            version: FIRST_VERSION,
            client: self.client.clone(),
            priority: self.priority,
            submitted_at: self.submitted_at,
            terms: Arc::clone(&self.terms),
            state: JobState::submitted(self.submitted_at),
        }
    }
}

/// What is sent to a worker for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The manifest, JSON, as the client meant it and the pool checked it.
    pub manifest: String,
    /// The multipart boundary that the payload was encoded with.
    pub boundary: String,
    pub payload: Payload,
    /// SHA-256 over what the client sent: file names, file bytes and manifest, whatever the boundary.
    pub sha256: [u8; 32],
}

/// The encoded `files` parts of a submit, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Small: kept in the row.
    Inline(Bytes),
    /// A file of the spool that bears the job's id, and its length in bytes.
    Spooled { bytes: u64 },
}

impl Payload {
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Spooled { bytes } => *bytes,
        }
    }
}

/// A client's own name for a submit, under which a repeated one is recognised. Two clients may use the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    /// Keys used before this time are forgotten.
    pub valid_since: Timestamp,
}

/// What became of a [`Store::insert`].
#[derive(Clone, Debug, PartialEq)]
pub enum Inserted {
    New(JobRow),
    /// The idempotency key was used before, for the same content: this is that job.
    Same(JobRow),
    /// The idempotency key was used before, for other content, by this job.
    Conflict(JobId),
}

/// A job's step from one state to the next.
#[derive(Clone, Debug)]
pub struct Transition {
    pub id: JobId,
    /// The version that is left; another one in the store means that another writer was first.
    pub version: i64,
    pub state: JobState,
    /// What is kept of the run, written with the step that ends it.
    pub results: Option<Results>,
}

impl Transition {
    fn assert_sound(&self) {
        assert!(
            self.results.is_none() || self.state.is_finished(),
            "results of {} come with a step that does not end it",
            self.id
        );
    }
}

/// What became of a [`Store::transition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Done; the row has this version now.
    Updated {
        version: i64,
    },
    Conflict,
    NotFound,
}

/// What became of a [`Store::reopen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopened {
    /// The job is queued again; the row has this version now.
    Queued {
        version: i64,
    },
    /// What would be sent for it is no longer kept.
    WorkGone,
    Conflict,
    NotFound,
}

/// An operator's wish that a worker gets no more jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    pub worker: WorkerKey,
    /// Why, in the operator's words.
    pub reason: String,
    pub since: Timestamp,
}

/// What the pool keeps of a run when the worker forgets it: JSON texts, and logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// The worker's last status of the job, a JSON object.
    pub worker_status: Option<String>,
    pub logs: Option<Logs>,
    /// The listing of the outputs, [in the pool's terms](crate::api::listing::in_pool_terms).
    pub listing: Option<String>,
}

/// Bytes of a text that are read at once.
pub const TEXT_PIECE_BYTES: usize = 256 << 10;

/// One of the texts that are kept of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultsText {
    WorkerStatus,
    Listing,
    Stdout,
    Stderr,
    /// `true` where the logs were cut.
    LogsCut,
}

/// A job's standard output and error, each cut to the configured bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    pub stdout: String,
    pub stderr: String,
    pub truncation: Truncation,
}

/// Whether something was cut from a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    #[default]
    Whole,
    Cut,
}

/// Which jobs a listing is about; an absent field matches every job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub status: Option<PoolStatus>,
    pub worker: Option<WorkerKey>,
    pub client: Option<ClientName>,
    /// Only jobs submitted before the one with this sequence: where the last page ended.
    pub before: Option<i64>,
}

/// The store could not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// No room on the disk; nothing was changed.
    Full,
    /// Anything else, in the words of the cause. Whether the change was made is not known.
    Broken(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "the disk that holds the job store is full"),
            Self::Broken(cause) => write!(f, "the job store failed: {cause}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// What the pool remembers. Every method that changes something returns only when the change is durable.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Takes a job in, as `Queued` with no attempts.
    async fn insert(&self, job: NewJob) -> Result<Inserted, StoreError>;

    /// Moves a job that is not finished on from the version it leaves. A step to a `Finished` that cannot be retried also drops the
    /// job's work (inline payload and manifest): its spooled file is the caller's to remove. The outputs of a job that a worker
    /// took are to be collected from then on.
    async fn transition(&self, step: Transition) -> Result<Written, StoreError>;

    /// All jobs that are not finished, in the order of submission.
    async fn unfinished(&self) -> Result<Vec<JobRow>, StoreError>;

    async fn job(&self, id: &JobId) -> Result<Option<JobRow>, StoreError>;

    /// The same of a job that has ended, with what is asked about it most; `None` for any other.
    async fn ended(&self, id: &JobId) -> Result<Option<Arc<EndedJob>>, StoreError>;

    /// Moves a finished job back to `Queued`, from the version it leaves, and drops what was kept of its run: the files of
    /// its outputs are the caller's to remove.
    async fn reopen(&self, step: Transition) -> Result<Reopened, StoreError>;

    /// Drops the work of at most `limit` jobs that ended before `before`, and says which: they can no longer be retried, and
    /// their spooled files are the caller's to remove.
    async fn drop_work(&self, before: Timestamp, limit: usize) -> Result<Vec<JobId>, StoreError>;

    /// The same for those of the finished jobs whose payload is a file of the spool, the first that ended first.
    async fn drop_spooled_work(&self, limit: usize) -> Result<Vec<JobId>, StoreError>;

    /// The jobs whose payload is a file of the spool.
    async fn spooled(&self) -> Result<Vec<JobId>, StoreError>;

    /// What operators wish for workers.
    async fn drains(&self) -> Result<Vec<Drain>, StoreError>;

    /// A worker gets no more jobs.
    async fn drain(&self, drain: Drain) -> Result<(), StoreError>;

    /// It gets jobs again.
    async fn resume(&self, worker: WorkerKey) -> Result<(), StoreError>;

    /// What is to be sent for a job; `None` once it is finished and cannot be retried.
    async fn work(&self, id: &JobId) -> Result<Option<Work>, StoreError>;

    /// At most [`TEXT_PIECE_BYTES`] of a text that was kept of a run, from byte `from` on, and fewer only at its end. `None` when
    /// there is no such text, or no such run any more.
    async fn results_text(
        &self,
        run: &EndedRun,
        text: ResultsText,
        from: u64,
    ) -> Result<Option<Bytes>, StoreError>;

    /// What was kept of a finished job.
    async fn results(&self, id: &JobId) -> Result<Option<Results>, StoreError>;

    /// Jobs that match, newest first, at most `limit`.
    async fn list(&self, filter: &JobFilter, limit: usize) -> Result<Vec<JobRow>, StoreError>;

    /// How many jobs the store holds.
    async fn count(&self) -> Result<u64, StoreError>;

    /// Forgets at most `limit` finished jobs that ended before `before`, and says which, in no order: the files of their outputs
    /// are the caller's to remove.
    async fn forget_finished(&self, before: Timestamp, limit: usize) -> Result<Vec<EndedRun>, StoreError>;

    /// The job submitted first of those whose outputs are to be collected from another worker than these.
    async fn next_to_collect(&self, except: &[WorkerKey]) -> Result<Option<JobRow>, StoreError>;

    /// Whether outputs are to be collected from this worker.
    async fn has_to_collect(&self, worker: WorkerKey) -> Result<bool, StoreError>;

    /// Says where a run's outputs are from now on, unless the job has run again since.
    async fn settle_outputs(&self, run: &EndedRun, to: OutputsPlace) -> Result<Settled, StoreError>;

    /// Says that a run's outputs stay where they are, for this reason, and that the run came to this other end: it keeps its version,
    /// which names the run.
    async fn refuse_outputs(
        &self,
        run: &EndedRun,
        end: JobState,
        reason: String,
    ) -> Result<Settled, StoreError>;

    /// Runs whose outputs are kept, those kept longest first, at most `limit`.
    async fn oldest_kept(&self, limit: usize) -> Result<Vec<KeptRun>, StoreError>;

    /// Bytes of all outputs that are kept.
    async fn kept_bytes(&self) -> Result<u64, StoreError>;

    /// Whether a write would succeed now: answers the readiness check.
    async fn check(&self) -> Result<(), StoreError>;
}
