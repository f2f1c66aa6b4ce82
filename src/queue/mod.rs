//! Every unfinished job, in memory; the only writer of job state.
//!
//! A change goes to the store first and to memory after it: what memory shows has happened. A job that is over leaves memory, and
//! is answered from the store from then on.

pub mod order;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::Notify;

use crate::job::{InvalidTransition, JobEvent, JobId, JobState, Refusal, apply};
use crate::spool::Spool;
use crate::store::{Inserted, JobRow, NewJob, Results, Store, StoreError, Transition, Written};
use crate::time::Clock;
use order::{Rank, Take, Waiting};

/// Pauses between tries to write a step that the store could not take: what has happened to a job cannot be refused.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A handle to the queue; clones share it.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    spool: Option<Arc<Spool>>,
    clock: Clock,
    live: DashMap<JobId, Arc<LiveJob>>,
    waiting: Mutex<Waiting>,
    /// Jobs in the store, finished ones included.
    total: AtomicU64,
    /// Rung when a job waits that did not before.
    bell: Arc<Notify>,
}

/// A job that is not finished.
#[derive(Debug)]
pub struct LiveJob {
    row: Mutex<JobRow>,
    worker_status: Mutex<Option<Arc<str>>>,
    /// Rung when there may be news of the job at its worker.
    pub news: Notify,
}

impl LiveJob {
    fn new(row: JobRow) -> Arc<Self> {
        Arc::new(Self { row: Mutex::new(row), worker_status: Mutex::default(), news: Notify::new() })
    }

    /// The job as it stands.
    pub fn row(&self) -> JobRow {
        self.lock().clone()
    }

    pub fn id(&self) -> JobId {
        self.lock().id.clone()
    }

    pub fn state(&self) -> JobState {
        self.lock().state.clone()
    }

    fn rank(&self) -> Rank {
        let row = self.lock();
        (row.priority, row.sequence)
    }

    fn refusal(&self) -> Option<Refusal> {
        match &self.lock().state {
            JobState::Queued { refusal, .. } | JobState::Assigned { refusal, .. } => refusal.clone(),
            JobState::Unknown { .. }
            | JobState::Running { .. }
            | JobState::Collecting { .. }
            | JobState::Finished { .. } => None,
        }
    }

    /// The worker's last status of the job, a JSON object.
    pub fn worker_status(&self) -> Option<Arc<str>> {
        self.worker_status.lock().expect("status lock").clone()
    }

    pub fn saw_worker_status(&self, json: Arc<str>) {
        *self.worker_status.lock().expect("status lock") = Some(json);
    }

    fn lock(&self) -> MutexGuard<'_, JobRow> {
        self.row.lock().expect("no code panics while it holds a job's lock")
    }
}

/// What the pool knows under an id.
pub enum Lookup {
    Live(Arc<LiveJob>),
    Finished(JobRow),
    Absent,
}

/// A step that could not be made because the job is not where the caller thought.
#[derive(Debug)]
pub enum AdvanceError {
    Invalid(InvalidTransition),
    /// The store no longer has the job, or another version of it: another process writes to it.
    Overtaken,
}

impl std::fmt::Display for AdvanceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(invalid) => invalid.fmt(f),
            Self::Overtaken => {
                write!(f, "the store holds another version of the job: is another pool using it?")
            }
        }
    }
}

impl std::error::Error for AdvanceError {}

impl Queue {
    /// `spool` is where payload files are removed from when their jobs end; simulations have none.
    pub fn new(store: Arc<dyn Store>, spool: Option<Arc<Spool>>, clock: Clock, bell: Arc<Notify>) -> Self {
        let shared = Shared {
            store,
            spool,
            clock,
            live: DashMap::new(),
            waiting: Mutex::default(),
            total: AtomicU64::new(0),
            bell,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Loads the unfinished jobs; gives those that a worker has or may have.
    pub async fn recover(&self) -> Result<Vec<Arc<LiveJob>>, StoreError> {
        self.shared.total.store(self.shared.store.count().await?, Ordering::Relaxed);
        let mut under_way = Vec::new();
        for row in self.shared.store.unfinished().await? {
            let job = self.enter(row);
            if !matches!(job.state(), JobState::Queued { .. }) {
                under_way.push(job);
            }
        }
        Ok(under_way)
    }

    /// Takes a job in; returns when it is durable.
    pub async fn submit(&self, job: NewJob) -> Result<Inserted, StoreError> {
        let inserted = self.shared.store.insert(job).await?;
        if let Inserted::New(row) = &inserted {
            self.shared.total.fetch_add(1, Ordering::Relaxed);
            self.enter(row.clone());
            self.shared.bell.notify_one();
        }
        Ok(inserted)
    }

    /// Takes the first waiting job for which `take` finds what it needs, given who refused it.
    pub fn claim<T>(&self, mut take: impl FnMut(Option<&Refusal>) -> Take<T>) -> Option<(Arc<LiveJob>, T)> {
        let mut waiting = self.waiting();
        let (id, value) = waiting.take_first(|id| match self.shared.live.get(id) {
            Some(job) => take(job.refusal().as_ref()),
            None => Take::NotThis,
        })?;
        drop(waiting);
        let job = Arc::clone(self.shared.live.get(&id).expect("a waiting job is live").value());
        Some((job, value))
    }

    /// Makes a step. It returns when the step is durable, however long the store cannot take it.
    pub async fn advance(
        &self,
        job: &LiveJob,
        event: JobEvent,
        results: Option<Results>,
    ) -> Result<JobState, AdvanceError> {
        let row = job.row();
        let state = apply(row.state, event, self.shared.clock.now()).map_err(AdvanceError::Invalid)?;
        let step = Transition { id: row.id, version: row.version, state: state.clone(), results };
        let version = self.write(step).await?;
        {
            let mut row = job.lock();
            row.state = state.clone();
            row.version = version;
        }
        self.arrived(job, &state).await;
        Ok(state)
    }

    async fn write(&self, step: Transition) -> Result<i64, AdvanceError> {
        let mut pause = RETRY_FIRST;
        loop {
            match self.shared.store.transition(step.clone()).await {
                Ok(Written::Updated { version }) => return Ok(version),
                Ok(Written::Conflict) => return self.was_written(&step).await,
                Ok(Written::NotFound) => return Err(AdvanceError::Overtaken),
                Err(error) => log::error!("job {} cannot be moved on, trying again: {error}", step.id),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// A conflict after a failed try may be that try's own write, reported as failed.
    async fn was_written(&self, step: &Transition) -> Result<i64, AdvanceError> {
        match self.shared.store.job(&step.id).await {
            Ok(Some(row)) if row.version == step.version + 1 && row.state == step.state => Ok(row.version),
            Ok(_) | Err(_) => Err(AdvanceError::Overtaken),
        }
    }

    /// Puts memory in step with a state that a job has come to.
    async fn arrived(&self, job: &LiveJob, state: &JobState) {
        match state {
            JobState::Queued { .. } => {
                self.waiting().insert(job.rank(), job.id());
                self.shared.bell.notify_one();
            }
            JobState::Finished { .. } => {
                let id = job.id();
                self.shared.live.remove(&id);
                if let Some(spool) = &self.shared.spool
                    && let Err(error) = spool.remove(&id).await
                {
                    log::warn!("the payload of job {id} cannot be removed: {error}");
                }
            }
            JobState::Assigned { .. }
            | JobState::Unknown { .. }
            | JobState::Running { .. }
            | JobState::Collecting { .. } => {}
        }
    }

    fn enter(&self, row: JobRow) -> Arc<LiveJob> {
        let waits = matches!(row.state, JobState::Queued { .. });
        let job = LiveJob::new(row);
        self.shared.live.insert(job.id(), Arc::clone(&job));
        if waits {
            self.waiting().insert(job.rank(), job.id());
        }
        job
    }

    pub async fn lookup(&self, id: &JobId) -> Result<Lookup, StoreError> {
        if let Some(job) = self.shared.live.get(id) {
            return Ok(Lookup::Live(Arc::clone(job.value())));
        }
        Ok(match self.shared.store.job(id).await? {
            Some(row) if row.state.is_finished() => Lookup::Finished(row),
            // It became live between the two looks, or is not ours to show.
            Some(_) | None => match self.shared.live.get(id) {
                Some(job) => Lookup::Live(Arc::clone(job.value())),
                None => Lookup::Absent,
            },
        })
    }

    /// How many jobs are taken before this one; `None` when it does not wait.
    pub fn position(&self, job: &LiveJob) -> Option<usize> {
        let waits = matches!(job.state(), JobState::Queued { .. });
        waits.then(|| self.waiting().ahead_of(job.rank()))
    }

    pub fn waiting_jobs(&self) -> usize {
        self.waiting().len()
    }

    /// All jobs that the pool knows, finished ones included.
    pub fn total_jobs(&self) -> u64 {
        self.shared.total.load(Ordering::Relaxed)
    }

    /// The store no longer has this many finished jobs.
    pub fn forgot(&self, jobs: usize) {
        self.shared.total.fetch_sub(jobs as u64, Ordering::Relaxed);
    }

    pub fn is_live(&self, id: &JobId) -> bool {
        self.shared.live.contains_key(id)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.shared.waiting.lock().expect("no code panics while it holds the queue's lock")
    }
}
