//! All jobs of this worker, and who may add one.
//!
//! There is no queue: a job is admitted only when it can run at once, so that a pool never has jobs waiting on a busy
//! worker while another is idle. Admission takes the slot before the upload is read, so an upload occupies one too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::job::{Job, JobId, Status};
use super::refusal::Refusal;
use super::upload::Upload;
use crate::worker::receipt::Subject;

/// Longest idempotency key, in bytes: several times a UUID.
const KEY_BYTES_MAX: usize = 200;

/// Most jobs remembered: each holds up to 10,000 listed outputs in memory. The oldest finished one goes first.
const JOBS_MAX: usize = 10_000;

/// A client's name for a submission, the same in each attempt at it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct IdempotencyKey(String);

/// The right to run one job. Dropping it frees the place.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// Leave to bring in one job. Dropping it frees the slot and the key.
#[derive(Debug)]
pub struct Ticket {
    id: JobId,
    slot: Slot,
    claim: KeyClaim,
}

/// The answer to a wish to submit.
#[derive(Debug)]
pub enum Admission {
    /// Go ahead.
    Granted(Ticket),
    /// This key's job is here already.
    Existing(Arc<Job>),
}

/// The registry.
#[derive(Debug)]
pub struct Registry {
    capacity: u32,
    slots: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    intake: Intake,
    /// The last job's number, which begins anywhere: a process that was killed may have given names in this very second.
    number: u64,
    jobs: HashMap<JobId, Arc<Job>>,
    keys: HashMap<IdempotencyKey, KeyState>,
    /// Whatever was accepted since then is still here.
    remembers_since: SystemTime,
}

#[derive(Debug)]
enum Intake {
    Open,
    Closed,
}

#[derive(Debug)]
enum KeyState {
    /// Its upload is being received.
    Receiving,
    /// It has become this job.
    Accepted(JobId),
}

/// Holds a key while its upload is received.
#[derive(Debug)]
struct KeyClaim {
    registry: Arc<Registry>,
    key: Option<IdempotencyKey>,
}

// === impl IdempotencyKey ===

impl IdempotencyKey {
    /// Reads the header `Idempotency-Key`, if there is one.
    ///
    /// # Errors
    /// When it is not text, empty or too long.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        headers
            .get("idempotency-key")
            .map(|value| Self::parse(value.to_str().unwrap_or_default()))
            .transpose()
    }

    /// Takes a key as text.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() || text.len() > KEY_BYTES_MAX {
            let sentence = format!("An idempotency key is 1 to {KEY_BYTES_MAX} characters of visible ASCII");
            return Err(Refusal::bad_request(sentence));
        }
        Ok(Self(text.to_owned()))
    }
}

// === impl Ticket ===

impl Ticket {
    /// The name that the job will have.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// The key that it was asked for with.
    #[must_use]
    pub fn key(&self) -> Option<&IdempotencyKey> {
        self.claim.key.as_ref()
    }

    /// What a receipt for this upload is about, where the key is a pool's, `<its job id>/<attempt>`: nobody else asks for one.
    pub(super) fn subject(&self, upload: &Upload) -> Option<Subject> {
        let (job_id, attempt) = self.claim.key.as_ref()?.0.rsplit_once('/')?;
        let (job_id, attempt) = (job_id.to_owned(), attempt.parse().ok()?);
        let Upload { payload_sha256, manifest_sha256, .. } = *upload;
        Some(Subject { job_id, attempt, payload_sha256, manifest_sha256 })
    }
}

// === impl Registry ===

impl Registry {
    /// A registry with room for `capacity` running jobs, which knows these of an earlier process: all that were accepted
    /// since `remembers_since`.
    #[must_use]
    pub fn new(capacity: u32, known: Vec<Arc<Job>>, remembers_since: SystemTime) -> Arc<Self> {
        let key = |job: &Arc<Job>| Some((job.facts.key.clone()?, KeyState::Accepted(job.id.clone())));
        let keys = known.iter().filter_map(key).collect();
        let jobs = known.into_iter().map(|job| (job.id.clone(), job)).collect();
        let state =
            State { intake: Intake::Open, number: rand::random::<u32>().into(), jobs, keys, remembers_since };
        let slots = Arc::new(Semaphore::new(capacity as usize));
        Arc::new(Self { capacity, slots, state: Mutex::new(state) })
    }

    /// Admits a submission, or says why not.
    ///
    /// # Errors
    /// When the worker is busy or stopping, or the same key's upload is still being received.
    pub fn admit(self: &Arc<Self>, key: Option<IdempotencyKey>) -> Result<Admission, Refusal> {
        let mut state = self.lock();
        match key.as_ref().and_then(|key| state.keys.get(key)) {
            Some(KeyState::Accepted(id)) => {
                let job = state.jobs.get(id).expect("a key is forgotten together with its job");
                return Ok(Admission::Existing(Arc::clone(job)));
            }
            Some(KeyState::Receiving) => return Err(receiving()),
            None => {}
        }
        if let Intake::Closed = state.intake {
            return Err(stopping());
        }
        let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else {
            return Err(Refusal::busy(format!("All {} job slots of this worker are busy", self.capacity)));
        };
        state.number += 1;
        let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let id = JobId::new(unix.as_secs(), state.number);
        if let Some(key) = &key {
            state.keys.insert(key.clone(), KeyState::Receiving);
        }
        let claim = KeyClaim { registry: Arc::clone(self), key };
        Ok(Admission::Granted(Ticket { id, slot: Slot { _permit: permit }, claim }))
    }

    /// Takes in the job that a ticket was for. From here on it is known by its key and its name.
    ///
    /// # Errors
    /// When the worker began to stop meanwhile.
    pub fn accept(&self, ticket: Ticket, job: &Arc<Job>) -> Result<Slot, Refusal> {
        let mut state = self.lock();
        if let Intake::Closed = state.intake {
            // The ticket's key claim takes the lock again when it is dropped.
            drop(state);
            return Err(stopping());
        }
        state.jobs.insert(job.id.clone(), Arc::clone(job));
        if let Some(key) = &ticket.claim.key {
            state.keys.insert(key.clone(), KeyState::Accepted(job.id.clone()));
        }
        drop(state);
        Ok(ticket.slot)
    }

    /// The job of this name.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.lock().jobs.get(id).cloned()
    }

    /// The job of this key; `None` when no submit with it has come.
    ///
    /// # Errors
    /// While its upload is being received: it may become a job, and whoever took it for absent might run it elsewhere.
    pub fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<Arc<Job>>, Refusal> {
        let state = self.lock();
        match state.keys.get(key) {
            None => Ok(None),
            Some(KeyState::Receiving) => Err(receiving()),
            Some(KeyState::Accepted(id)) => Ok(state.jobs.get(id).cloned()),
        }
    }

    /// How far its memory goes back: a job that came within this time and is not here never came.
    #[must_use]
    pub fn remembers(&self) -> Duration {
        // A clock that was set back has seen nothing.
        self.lock().remembers_since.elapsed().unwrap_or_default()
    }

    /// All jobs, sorted by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Job>> {
        let mut jobs: Vec<_> = self.lock().jobs.values().cloned().collect();
        jobs.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        jobs
    }

    /// Jobs that can run at once.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Slots in use.
    #[must_use]
    pub fn active(&self) -> usize {
        self.capacity as usize - self.slots.available_permits()
    }

    /// How many jobs have this status.
    #[must_use]
    pub fn count(&self, status: Status) -> usize {
        self.lock().jobs.values().filter(|job| job.phase().status() == status).count()
    }

    /// Admits no more jobs.
    pub fn close(&self) {
        self.lock().intake = Intake::Closed;
    }

    /// Waits until no slot is in use.
    pub async fn idle(&self) {
        let all = self.slots.acquire_many(self.capacity).await;
        drop(all.expect("the semaphore is never closed"));
    }

    /// Forgets the jobs that ended more than `keep` before `now`, and the oldest beyond the bound. Their directories are
    /// still kept; the time is that from which on all jobs are known.
    #[must_use]
    pub fn forget_expired(&self, keep: Duration, now: SystemTime) -> (Vec<Arc<Job>>, SystemTime) {
        let mut state = self.lock();
        let mut finished: Vec<(SystemTime, JobId)> = state
            .jobs
            .values()
            .filter_map(|job| Some((job.phase().finished()?.at, job.id.clone())))
            .collect();
        finished.sort_unstable();
        let surplus = state.jobs.len().saturating_sub(JOBS_MAX);
        let mut forgotten = Vec::new();
        for (index, (at, id)) in finished.into_iter().enumerate() {
            if index < surplus || now.duration_since(at).is_ok_and(|age| age > keep) {
                state.remembers_since = state.remembers_since.max(at);
                forgotten.extend(state.jobs.remove(&id));
                state.keys.retain(|_, key| !matches!(key, KeyState::Accepted(of) if *of == id));
            }
        }
        (forgotten, state.remembers_since)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

fn receiving() -> Refusal {
    let sentence = "The upload of a job with this Idempotency-Key is still being received";
    Refusal::retry_later(StatusCode::CONFLICT, sentence)
}

fn stopping() -> Refusal {
    Refusal::busy("This worker is stopping and takes no more jobs")
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            let mut state = self.registry.lock();
            if let Some(KeyState::Receiving) = state.keys.get(key) {
                state.keys.remove(key);
            }
        }
    }
}
