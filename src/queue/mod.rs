//! Every unfinished job, in memory; the only writer of job state.
//!
//! A change goes to the store first and to memory after it: what memory shows has happened. A job that is over leaves memory, and
//! is answered from the store from then on.

pub mod census;
pub mod explain;
mod metrics;
pub mod order;
mod terms;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::{DashMap, Entry};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::job::{
    ClientName, Deadline, DefaultTerms, InvalidTransition, JobEvent, JobId, JobState, PoolStatus, Terms,
    apply,
};
use crate::reconcile::Reconciler;
use crate::spool::Spool;
use crate::store::{
    EndedJob, EndedRun, FIRST_VERSION, Inserted, JobRow, NewJob, Reopened, Results, Store, StoreError,
    Transition, Written,
};
use crate::time::{Clock, Timestamp};
use census::Census;
pub use metrics::QueueMetrics;
use order::{Class, Place, Taken, Turn, Waiting};
use terms::SharedTerms;

/// Pauses between tries to write a step that the store could not take: what has happened to a job cannot be refused.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Steps of a job whose times are noted: more than its state ever bears.
const STEPS_NOTED: usize = 8;

/// A client's wish waits so long for the step of its job that is being made.
const TURN_MAX: Duration = Duration::from_secs(5);

/// A handle to the queue; clones share it.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    spool: Option<Arc<Spool>>,
    clock: Clock,
    defaults: DefaultTerms,
    live: DashMap<JobId, Arc<LiveJob>>,
    /// Where those jobs stand.
    census: Arc<Census>,
    metrics: QueueMetrics,
    terms: SharedTerms,
    waiting: Mutex<Waiting>,
    /// When waiting jobs have waited for too long. An entry may outlive the wait that it was made for.
    deadlines: Mutex<BTreeSet<(Timestamp, JobId)>>,
    /// Jobs in the store, finished ones included.
    total: AtomicU64,
    /// Rung when a job waits that did not before.
    bell: Arc<Notify>,
    /// Rung when a job has ended.
    ended: Arc<Notify>,
}

/// A job that is not finished.
#[derive(Debug)]
pub struct LiveJob {
    row: Mutex<JobRow>,
    /// It counts where its state says.
    counted: Mutex<Option<census::Entry>>,
    worker_status: Mutex<Option<Arc<str>>>,
    /// When the latest steps were made, by the clock that nobody sets.
    made: Mutex<VecDeque<(Timestamp, Instant)>>,
    /// The turn of its client that it was last taken in: should it go back, the turn does too.
    turn: Mutex<Option<Turn>>,
    /// Held while a step is made: steps of one job come one after another.
    steps: tokio::sync::Mutex<()>,
    /// Rung when there may be news of the job at its worker.
    pub news: Notify,
    /// Rung when another than the job's attempt has moved it.
    pub moved: Notify,
}

impl LiveJob {
    fn new(row: JobRow, census: &Arc<Census>) -> Arc<Self> {
        let counted = census.enter(&row.state, row.sequence);
        Arc::new(Self {
            row: Mutex::new(row),
            counted: Mutex::new(counted),
            worker_status: Mutex::default(),
            made: Mutex::default(),
            turn: Mutex::default(),
            steps: tokio::sync::Mutex::default(),
            news: Notify::new(),
            moved: Notify::new(),
        })
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

    /// Where it stands, or would, among those that wait.
    fn place(&self) -> Place {
        let class = self.class();
        let row = self.lock();
        Place { priority: row.priority, client: row.client.clone(), class, sequence: row.sequence }
    }

    fn turn(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock().expect("no code panics while it holds a job's turn")
    }

    /// Whose it is.
    pub fn client(&self) -> Option<ClientName> {
        self.lock().client.clone()
    }

    /// What the job's client asks for.
    pub fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.lock().terms)
    }

    /// Which workers the job may go to.
    pub fn class(&self) -> Class {
        let row = self.lock();
        let refusal = match &row.state {
            JobState::Queued { refusal, .. } | JobState::Assigned { refusal, .. } => refusal.as_ref(),
            JobState::Unknown { .. }
            | JobState::Running { .. }
            | JobState::Collecting { .. }
            | JobState::Settling { .. }
            | JobState::Finished { .. } => None,
        };
        Class { requires: row.terms.requires.clone(), refused_by: refusal.map(|refusal| refusal.worker) }
    }

    /// The worker's last status of the job, a JSON object.
    pub fn worker_status(&self) -> Option<Arc<str>> {
        self.worker_status.lock().expect("status lock").clone()
    }

    pub fn saw_worker_status(&self, json: Arc<str>) {
        *self.worker_status.lock().expect("status lock") = Some(json);
    }

    /// The job stands where a step has left it.
    fn stand(&self, state: JobState, version: i64, census: &Arc<Census>) {
        let mut counted = self.counted.lock().expect("census lock");
        // First out, then in: a job never counts twice.
        drop(counted.take());
        let mut row = self.lock();
        *counted = census.enter(&state, row.sequence);
        row.state = state;
        row.version = version;
    }

    fn note(&self, at: Timestamp) {
        let mut made = self.made.lock().expect("steps lock");
        if made.len() == STEPS_NOTED {
            made.pop_front();
        }
        made.push_back((at, Instant::now()));
    }

    /// When the step was made whose time the job's state bears, by the clock that nobody sets; `None` when another process made it.
    pub fn made_at(&self, at: Timestamp) -> Option<Instant> {
        let made = self.made.lock().expect("steps lock");
        made.iter().rev().find(|(noted, _)| *noted == at).map(|(_, instant)| *instant)
    }

    fn lock(&self) -> MutexGuard<'_, JobRow> {
        self.row.lock().expect("no code panics while it holds a job's lock")
    }
}

/// What the pool knows under an id.
pub enum Lookup {
    Live(Arc<LiveJob>),
    Finished(Arc<EndedJob>),
    Absent,
}

/// A step that could not be made because the job is not where the caller thought.
#[derive(Debug)]
pub enum AdvanceError {
    Invalid(InvalidTransition),
    /// A step before it was made and not seen to its end; the job now stands where that one left it.
    Moved,
    /// The store no longer has the job.
    Gone,
    /// The store cannot write now, and the caller does not wait until it can.
    Unwritten(StoreError),
}

/// How long a step is tried that the store cannot write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Insistence {
    /// Until it is written: what has happened to a job cannot be refused.
    Endless,
    /// Once: whoever wishes for it is told that it was not done.
    Once,
}

impl std::fmt::Display for AdvanceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(invalid) => invalid.fmt(f),
            Self::Moved => write!(f, "the job was moved by a step before this one"),
            Self::Gone => write!(f, "the store no longer has the job"),
            Self::Unwritten(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AdvanceError {}

/// What became of a wish to cancel a job.
#[derive(Debug)]
pub enum Cancelled {
    /// It is cancelled, now or before.
    Done(JobRow),
    /// It has ended otherwise.
    Ended(JobRow),
    Absent,
}

/// What became of a wish to run a job again.
#[derive(Debug)]
pub enum Retried {
    /// It waits again; what is kept of the outputs of the run that it leaves is the caller's to remove.
    Queued {
        row: JobRow,
        left: EndedRun,
    },
    /// It has not ended, or it has completed.
    NotNow(JobRow),
    /// Its payload is no longer kept.
    WorkGone,
    Absent,
}

impl Queue {
    /// `spool` is where payload files are removed from when their jobs end; simulations have none.
    pub fn new(
        store: Arc<dyn Store>,
        spool: Option<Arc<Spool>>,
        clock: Clock,
        defaults: DefaultTerms,
        bell: Arc<Notify>,
    ) -> Self {
        let shared = Shared {
            store,
            spool,
            clock,
            defaults,
            live: DashMap::new(),
            census: Arc::default(),
            metrics: QueueMetrics::new(),
            terms: SharedTerms::default(),
            waiting: Mutex::default(),
            deadlines: Mutex::default(),
            total: AtomicU64::new(0),
            bell,
            ended: Arc::default(),
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
        let id = job.id.clone();
        let inserted = match self.shared.store.insert(job).await {
            Ok(inserted) => inserted,
            Err(error) => Inserted::New(self.done_all_the_same(&id, FIRST_VERSION, error).await?),
        };
        if let Inserted::New(row) = &inserted {
            self.shared.total.fetch_add(1, Ordering::Relaxed);
            self.shared.metrics.submitted();
            self.enter(row.clone());
            self.shared.bell.notify_one();
        }
        Ok(inserted)
    }

    /// A write that is reported as failed may have been made: the row tells. Left alone, the job would wait for the next start.
    async fn done_all_the_same(
        &self,
        id: &JobId,
        version: i64,
        error: StoreError,
    ) -> Result<JobRow, StoreError> {
        match (&error, self.shared.store.job(id).await) {
            (StoreError::Broken(_), Ok(Some(row))) if row.version == version => Ok(row),
            (StoreError::Broken(_) | StoreError::Full, Ok(_) | Err(_)) => Err(error),
        }
    }

    /// Takes the first waiting job for whose class `take` finds what it needs.
    pub fn claim<T>(&self, take: impl FnMut(&Class) -> Option<T>) -> Option<(Arc<LiveJob>, T)> {
        let Taken { job, turn, value } = self.waiting().take_first(take)?;
        // A job that was cancelled this moment is no longer there.
        let job = Arc::clone(self.shared.live.get(&job)?.value());
        *job.turn() = Some(turn);
        Some((job, value))
    }

    /// Its client wants a job no more.
    pub async fn cancel(&self, id: &JobId) -> Result<Cancelled, StoreError> {
        loop {
            let job = match self.lookup(id).await? {
                Lookup::Absent => return Ok(Cancelled::Absent),
                Lookup::Finished(ended) => return Ok(Cancelled::of_ended(ended.row.clone())),
                Lookup::Live(job) => job,
            };
            let row = job.row();
            if row.state.end().is_some() {
                return Ok(Cancelled::of_ended(row));
            }
            match self.make(&job, JobEvent::Cancelled, None, Insistence::Once).await {
                Ok(_) => {
                    job.moved.notify_one();
                    return Ok(Cancelled::Done(job.row()));
                }
                Err(AdvanceError::Unwritten(error)) => return Err(error),
                // The job has ended meanwhile.
                Err(AdvanceError::Invalid(_) | AdvanceError::Moved | AdvanceError::Gone) => {}
            }
        }
    }

    /// Its client wants a job to run again.
    pub async fn retry(&self, id: &JobId) -> Result<Retried, StoreError> {
        loop {
            let mut row = match self.lookup(id).await? {
                Lookup::Absent => return Ok(Retried::Absent),
                Lookup::Live(job) => return Ok(Retried::NotNow(job.row())),
                Lookup::Finished(ended) => ended.row.clone(),
            };
            let Ok(state) = apply(row.state.clone(), JobEvent::Retried, self.shared.clock.now()) else {
                return Ok(Retried::NotNow(row));
            };
            let left = row.run();
            let step =
                Transition { id: row.id.clone(), version: row.version, state: state.clone(), results: None };
            let reopened = match self.shared.store.reopen(step).await {
                Ok(reopened) => reopened,
                Err(error) => {
                    let version = self.done_all_the_same(id, row.version + 1, error).await?.version;
                    Reopened::Queued { version }
                }
            };
            match reopened {
                Reopened::Queued { version } => {
                    (row.state, row.version) = (state, version);
                    self.shared.metrics.retried();
                    self.enter(row.clone());
                    self.shared.bell.notify_one();
                    return Ok(Retried::Queued { row, left });
                }
                Reopened::WorkGone => return Ok(Retried::WorkGone),
                Reopened::NotFound => return Ok(Retried::Absent),
                // Another client was first.
                Reopened::Conflict => {}
            }
        }
    }

    /// Ends the jobs that have waited for too long; says how many.
    pub async fn expire(&self, now: Timestamp) -> usize {
        let mut expired = 0;
        while let Some(id) = self.next_overdue(now) {
            let Some(job) = self.live(&id) else { continue };
            let row = job.row();
            let (JobState::Queued { since, .. }, Some(limit)) =
                (&row.state, self.shared.defaults.queue_timeout(&row.terms))
            else {
                continue;
            };
            if since.plus(limit) > now {
                continue;
            }
            let overdue = JobEvent::Overdue { deadline: Deadline::Waiting(limit) };
            if self.advance(&job, overdue, None).await.is_ok() {
                log::info!("job {id} has waited for longer than {limit:?}");
                expired += 1;
            }
        }
        expired
    }

    fn next_overdue(&self, now: Timestamp) -> Option<JobId> {
        let mut deadlines = self.shared.deadlines.lock().expect("deadlines lock");
        match deadlines.first() {
            Some((at, _)) if *at <= now => deadlines.pop_first().map(|(_, id)| id),
            Some(_) | None => None,
        }
    }

    /// Makes a step. It returns when the step is durable, however long the store cannot take it.
    pub async fn advance(
        &self,
        job: &LiveJob,
        event: JobEvent,
        results: Option<Results>,
    ) -> Result<JobState, AdvanceError> {
        self.make(job, event, results, Insistence::Endless).await
    }

    async fn make(
        &self,
        job: &LiveJob,
        event: JobEvent,
        results: Option<Results>,
        insistence: Insistence,
    ) -> Result<JobState, AdvanceError> {
        let _one_at_a_time = match insistence {
            Insistence::Endless => job.steps.lock().await,
            // The step before this one may be among those that cannot be written.
            Insistence::Once => timeout(TURN_MAX, job.steps.lock())
                .await
                .map_err(|_| AdvanceError::Unwritten(StoreError::Full))?,
        };
        let row = job.row();
        let left = job.place();
        let now = self.shared.clock.now();
        let before = row.state.clone();
        let state = apply(row.state, event, now).map_err(AdvanceError::Invalid)?;
        let step = Transition { id: row.id, version: row.version, state: state.clone(), results };
        let (version, state, done) = match self.write(&step, insistence).await? {
            Stored::This { version } => (version, state.clone(), Ok(state)),
            Stored::Another(row) => (row.version, row.state, Err(AdvanceError::Moved)),
            Stored::Nothing => {
                self.shared.live.remove(&step.id);
                return Err(AdvanceError::Gone);
            }
        };
        let elapsed = |since| job.made_at(since).map_or_else(|| now.since(since), |made| made.elapsed());
        self.shared.metrics.stepped(&before, &state, elapsed);
        job.note(now);
        job.stand(state.clone(), version, &self.shared.census);
        // Where it waited, if it did and was not claimed.
        self.waiting().remove(&left);
        self.arrived(job, &state).await;
        done
    }

    async fn write(&self, step: &Transition, insistence: Insistence) -> Result<Stored, AdvanceError> {
        let mut pause = RETRY_FIRST;
        loop {
            let error = match self.shared.store.transition(step.clone()).await {
                Ok(Written::Updated { version }) => return Ok(Stored::This { version }),
                Ok(Written::NotFound) => return Ok(Stored::Nothing),
                Ok(Written::Conflict) => match self.shared.store.job(&step.id).await {
                    Ok(Some(row)) => return Ok(Stored::of(row, step)),
                    Ok(None) => return Ok(Stored::Nothing),
                    Err(error) => error,
                },
                // It may have been written all the same: then the next step finds the row moved, and goes on from there.
                Err(error) => error,
            };
            if insistence == Insistence::Once {
                return Err(AdvanceError::Unwritten(error));
            }
            log::error!("job {} cannot be moved on, trying again: {error}", step.id);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Puts memory in step with a state that a job has come to.
    async fn arrived(&self, job: &LiveJob, state: &JobState) {
        match state {
            JobState::Queued { .. } => {
                // What a worker said of an attempt that is over says nothing of the next.
                *job.worker_status.lock().expect("status lock") = None;
                self.wait(job);
                self.shared.bell.notify_one();
            }
            JobState::Finished { .. } => {
                let id = job.id();
                self.shared.live.remove(&id);
                if let Some(spool) = &self.shared.spool
                    && !state.may_be_retried()
                    && let Err(error) = spool.remove(&id).await
                {
                    log::warn!("the payload of job {id} cannot be removed: {error}");
                }
                self.shared.ended.notify_one();
            }
            JobState::Assigned { .. }
            | JobState::Unknown { .. }
            | JobState::Running { .. }
            | JobState::Collecting { .. }
            | JobState::Settling { .. } => {}
        }
    }

    /// Puts a job among those that wait.
    fn wait(&self, job: &LiveJob) {
        let row = job.row();
        if let (JobState::Queued { since, .. }, Some(limit)) =
            (&row.state, self.shared.defaults.queue_timeout(&row.terms))
        {
            let deadline = (since.plus(limit), row.id.clone());
            self.shared.deadlines.lock().expect("deadlines lock").insert(deadline);
        }
        let turn = *job.turn();
        self.waiting().insert(job.place(), row.id, turn);
    }

    /// Makes a job live, unless it is.
    fn enter(&self, mut row: JobRow) -> Arc<LiveJob> {
        row.terms = self.shared.terms.share(row.terms);
        let waits = matches!(row.state, JobState::Queued { .. });
        let job = match self.shared.live.entry(row.id.clone()) {
            Entry::Occupied(live) => return Arc::clone(live.get()),
            Entry::Vacant(place) => Arc::clone(place.insert(LiveJob::new(row, &self.shared.census)).value()),
        };
        if waits {
            self.wait(&job);
        }
        job
    }

    pub async fn lookup(&self, id: &JobId) -> Result<Lookup, StoreError> {
        if let Some(job) = self.shared.live.get(id) {
            return Ok(Lookup::Live(Arc::clone(job.value())));
        }
        Ok(match self.shared.store.ended(id).await? {
            Some(ended) => Lookup::Finished(ended),
            // It became live between the two looks, or is not ours to show.
            None => match self.shared.live.get(id) {
                Some(job) => Lookup::Live(Arc::clone(job.value())),
                None => Lookup::Absent,
            },
        })
    }

    /// Whose a job is: a client's, or nobody's; `None` when there is no such job.
    pub async fn owner(&self, id: &JobId) -> Result<Option<Option<ClientName>>, StoreError> {
        Ok(match self.lookup(id).await? {
            Lookup::Live(job) => Some(job.client()),
            Lookup::Finished(ended) => Some(ended.row.client.clone()),
            Lookup::Absent => None,
        })
    }

    /// How many jobs are taken before this one; `None` when it does not wait.
    pub fn position(&self, job: &LiveJob) -> Option<usize> {
        let waits = matches!(job.state(), JobState::Queued { .. });
        let place = job.place();
        waits.then(|| self.waiting().ahead_of(&place))
    }

    pub fn waiting_jobs(&self) -> usize {
        self.waiting().len()
    }

    /// Waiting jobs of one client.
    pub fn waiting_jobs_of(&self, client: &Option<ClientName>) -> usize {
        self.waiting().len_of(client)
    }

    /// All jobs that the pool knows, finished ones included.
    pub fn total_jobs(&self) -> u64 {
        self.shared.total.load(Ordering::Relaxed)
    }

    /// The store no longer has this many finished jobs.
    pub fn forgot(&self, jobs: usize) {
        self.shared.total.fetch_sub(jobs as u64, Ordering::Relaxed);
    }

    /// Where the unfinished jobs stand.
    pub fn census(&self) -> Arc<Census> {
        Arc::clone(&self.shared.census)
    }

    pub fn metrics(&self) -> &QueueMetrics {
        &self.shared.metrics
    }

    /// The bell that rings when a job has ended.
    pub fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.ended)
    }

    pub fn is_live(&self, id: &JobId) -> bool {
        self.shared.live.contains_key(id)
    }

    /// A job that is not finished.
    pub fn live(&self, id: &JobId) -> Option<Arc<LiveJob>> {
        self.shared.live.get(id).map(|job| Arc::clone(job.value()))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.shared.waiting.lock().expect("no code panics while it holds the queue's lock")
    }
}

/// What the store has after a step was to be written.
enum Stored {
    This {
        version: i64,
    },
    /// A step that was made before and not seen to its end, because whoever made it was dropped.
    Another(JobRow),
    Nothing,
}

impl Stored {
    /// A conflict after a failed try may be that try's own write, reported as failed.
    fn of(row: JobRow, step: &Transition) -> Self {
        let is_this = row.version == step.version + 1 && row.state == step.state;
        if is_this { Self::This { version: row.version } } else { Self::Another(row) }
    }
}

impl Cancelled {
    /// To cancel a cancelled job again changes nothing: the first answer may have been lost.
    fn of_ended(row: JobRow) -> Self {
        if row.state.status() == PoolStatus::Cancelled { Self::Done(row) } else { Self::Ended(row) }
    }
}

/// Ends jobs that have waited for too long.
pub struct QueueDeadlines(pub Queue);

#[async_trait]
impl Reconciler for QueueDeadlines {
    fn name(&self) -> &'static str {
        "queue deadlines"
    }

    async fn run_once(&self, now: Timestamp) -> Result<Option<String>, String> {
        let expired = self.0.expire(now).await;
        Ok((expired > 0).then(|| format!("{expired} jobs have waited for too long")))
    }
}

#[cfg(test)]
mod tests;
