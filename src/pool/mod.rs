//! The workers of the pool: who they are, how they fare, how much each has to do.
//!
//! A busy slot is a value, [`Slot`]; dropping it frees the slot and rings the dispatcher's bell. `active_jobs` is the number of
//! live slots, whatever becomes of the task that holds one.

pub mod changes;
pub mod health;
mod member;
pub mod membership;
pub mod prober;
pub mod slots;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::queue::order::Class;
use crate::store::Drain;
use crate::time::Timestamp;
use crate::upstream::{CheckFailure, Contact, HealthReport, gate::Gate};
use crate::worker::trust::Identity;
use crate::worker::{Dialect, WorkerKey, WorkerSpec};
use health::{Flip, Health, IdentityNews, Standing};
pub use member::Checks;
use member::{Carries, Concurrency, Member, Throttle};
use membership::{Arrival, Listing};
use slots::Slots;

/// The first pause after a worker throttles without saying how long; it doubles up to [`THROTTLE_MAX`].
const THROTTLE_FIRST: Duration = Duration::from_secs(1);
const THROTTLE_MAX: Duration = Duration::from_secs(60);

/// Jobs taken in a row after which a worker that throttled is tried with one more at once.
const RAISE_AFTER: u32 = 5;

/// A handle to the pool's workers; clones share them.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// How surely a worker must be known to be given jobs.
    required: Identity,
    /// Rung when a worker can take a job that could not before.
    bell: Arc<Notify>,
    /// Rung when there is a worker that nobody checks yet.
    arrived: Notify,
}

#[derive(Default)]
struct State {
    workers: BTreeMap<WorkerKey, Member>,
    slots: Slots,
    /// Workers that nobody checks yet.
    arrivals: Vec<Arrival>,
    /// Operators' wishes of workers that are no members now.
    parked_drains: BTreeMap<WorkerKey, Drain>,
}

fn has_labels(requires: &BTreeMap<String, String>, spec: &WorkerSpec) -> bool {
    requires.iter().all(|(name, value)| spec.labels.get(name) == Some(value))
}

/// A number in 0..1 that differs from worker to worker and from time to time, and is the same when a simulation is run again.
fn jitter(worker: WorkerKey, now: Timestamp) -> f64 {
    let mut hasher = DefaultHasher::new();
    (worker, now).hash(&mut hasher);
    hasher.finish() as f64 / u64::MAX as f64
}

/// An attempt's hold on its worker: its busy slot there, and the worker's place among the members. Dropping it lets go of both.
#[must_use = "dropping a slot frees it"]
pub struct Slot {
    worker: WorkerKey,
    shared: Arc<Shared>,
    is_busy: bool,
    _attempt: Arc<()>,
}

impl Slot {
    pub fn worker(&self) -> WorkerKey {
        self.worker
    }

    /// Frees the slot for another job while this attempt still has something to ask the worker.
    pub fn free(&mut self) {
        if std::mem::take(&mut self.is_busy) {
            self.shared.lock().slots.release(self.worker);
            self.shared.bell.notify_one();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.free();
    }
}

/// A worker as `/pool` shows it.
#[derive(Clone, Debug)]
pub struct WorkerView {
    pub spec: Arc<WorkerSpec>,
    pub health: Health,
    pub active_jobs: u32,
    pub limit: u32,
    pub throttled_until: Option<Timestamp>,
    pub drain: Option<Drain>,
    /// Since when it is no longer listed.
    pub removed_since: Option<Timestamp>,
    pub checks: Checks,
}

/// How many workers are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standings {
    pub healthy: usize,
    pub unchecked: usize,
    pub distrusted: usize,
    pub down: usize,
}

impl Standings {
    /// All workers.
    pub fn total(&self) -> usize {
        let Self { healthy, unchecked, distrusted, down } = self;
        healthy + unchecked + distrusted + down
    }
}

/// What a health check has changed.
pub struct Observed {
    pub flip: Flip,
    pub identity: Vec<IdentityNews>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the pool's lock")
    }
}

impl State {
    fn view(&self, key: WorkerKey, member: &Member) -> WorkerView {
        WorkerView {
            spec: Arc::clone(&member.spec),
            health: member.health.clone(),
            active_jobs: self.slots.active(key),
            limit: member.limit(),
            throttled_until: member.throttle.map(|throttle| throttle.until),
            drain: member.drain.clone(),
            removed_since: match member.listing {
                Listing::Listed => None,
                Listing::Removed { since } => Some(since),
            },
            checks: member.checks,
        }
    }

    /// Tells the slots what a worker's health and limits are now.
    fn settle(&mut self, key: WorkerKey) {
        if let Some(member) = self.workers.get(&key) {
            self.slots.set(key, member.limit(), member.admission());
        }
    }
}

impl Pool {
    /// The workers of the allowlist, none of them checked yet; `drains` are operators' wishes from before. A worker whose
    /// identity is known less surely than `required` is given no jobs.
    pub fn new(
        allowlist: Vec<WorkerSpec>,
        drains: Vec<Drain>,
        required: Identity,
        bell: Arc<Notify>,
    ) -> Self {
        let parked_drains = drains.into_iter().map(|drain| (drain.worker, drain)).collect();
        let mut state = State { parked_drains, ..State::default() };
        for spec in allowlist {
            state.join(spec);
        }
        let shared = Shared { state: Mutex::new(state), required, bell, arrived: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    fn slot(&self, member: &Member) -> Slot {
        Slot {
            worker: member.spec.key,
            shared: Arc::clone(&self.shared),
            is_busy: true,
            _attempt: Arc::clone(&member.attempts),
        }
    }

    /// Takes a slot for a job of this class.
    pub fn claim(&self, class: &Class, now: Timestamp) -> Option<Slot> {
        let mut state = self.shared.lock();
        let State { workers, slots, .. } = &mut *state;
        let worker = slots.claim(now, |worker| {
            Some(worker) != class.refused_by
                && workers.get(&worker).is_some_and(|member| has_labels(&class.requires, &member.spec))
        })?;
        Some(self.slot(&workers[&worker]))
    }

    /// Takes a slot on the worker that has a job already, even beyond its limit; `None` when it is no member.
    pub fn occupy(&self, worker: WorkerKey) -> Option<Slot> {
        let mut state = self.shared.lock();
        let State { workers, slots, .. } = &mut *state;
        let member = workers.get(&worker)?;
        slots.occupy(worker);
        Some(self.slot(member))
    }

    /// When a throttled worker may be tried again.
    pub fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        self.shared.lock().slots.next_opening(now)
    }

    /// Whether the allowlist names a worker with these labels, other than `but`.
    pub fn could_run(&self, requires: &BTreeMap<String, String>, but: Option<WorkerKey>) -> bool {
        let state = self.shared.lock();
        state.workers.iter().any(|(key, member)| {
            member.is_listed() && Some(*key) != but && has_labels(requires, &member.spec)
        })
    }

    /// The worker gets no more jobs; `false` when it is no member.
    pub fn drain(&self, drain: Drain) -> bool {
        self.change(drain.worker, |member| member.drain = Some(drain)).is_some()
    }

    /// The worker gets jobs again; `false` when it is no member.
    pub fn resume(&self, worker: WorkerKey) -> bool {
        self.change(worker, |member| member.drain = None).is_some()
    }

    pub fn contact(&self, worker: WorkerKey) -> Option<Contact> {
        let state = self.shared.lock();
        let member = state.workers.get(&worker)?;
        let Health { dialect, leaf, .. } = &member.health;
        Some(Contact {
            spec: Arc::clone(&member.spec),
            dialect: *dialect,
            leaf: leaf.clone(),
            is_proven: member.health.is_proven(),
        })
    }

    /// The address to reach a worker at, if it has shown there that it is the worker.
    pub fn address(&self, worker: WorkerKey) -> Option<SocketAddr> {
        let state = self.shared.lock();
        state.workers.get(&worker).filter(|member| member.health.is_proven())?.address
    }

    /// The gate before calls that a worker of the sandrun kind answers one at a time.
    pub fn gate(&self, worker: WorkerKey) -> Option<Gate> {
        let state = self.shared.lock();
        let member = state.workers.get(&worker)?;
        match member.health.dialect {
            Dialect::Sandrun => Some(member.gate.clone()),
            Dialect::V2 => None,
        }
    }

    /// Since when the worker has failed every check; `None` while it is well, or not checked yet.
    pub fn down_since(&self, worker: WorkerKey) -> Option<Timestamp> {
        self.shared.lock().workers.get(&worker)?.health.down_since
    }

    pub fn is_healthy(&self, worker: WorkerKey) -> bool {
        self.shared.lock().workers.get(&worker).is_some_and(|member| member.health.is_healthy())
    }

    /// Takes in the result of a health check at this endpoint.
    pub fn observe(
        &self,
        checked_at: &WorkerSpec,
        checked: Result<HealthReport, CheckFailure>,
        now: Timestamp,
    ) -> Observed {
        let (worker, required) = (checked_at.key, self.shared.required);
        let observed = self.change(worker, |member| {
            // What is found at one endpoint says nothing of another.
            if member.spec.endpoint != checked_at.endpoint {
                return Observed { flip: Flip::None, identity: Vec::new() };
            }
            let answered_at = checked.as_ref().ok().and_then(|report| report.address);
            member.address = answered_at.or(member.address);
            match &checked {
                Ok(_) => member.checks.passed += 1,
                Err(_) => member.checks.failed += 1,
            }
            let identity = member.health.identity_news(worker, required, &checked);
            Observed { flip: member.health.observe(worker, required, checked, now), identity }
        });
        observed.unwrap_or(Observed { flip: Flip::None, identity: Vec::new() })
    }

    /// Takes in a failed contact: the worker is given nothing more until a check finds it well, and one is made soon.
    pub fn suspect(&self, worker: WorkerKey, reason: String) {
        let check = self.change(worker, |member| {
            if member.health.suspect(reason) == Flip::Down {
                log::warn!("worker {worker} is down: {}", member.health.reason().unwrap_or_default());
            }
            Arc::clone(&member.check)
        });
        if let Some(check) = check {
            check.notify_one();
        }
    }

    /// Gives a worker no job for a while, as it asked, and then no more at once than it has proved to carry.
    pub fn throttle(&self, worker: WorkerKey, asked: Option<Duration>, now: Timestamp) -> Duration {
        // The job that was turned away still has its slot.
        let carried = self.active(worker).saturating_sub(1).max(1);
        let pause = self.pause(worker, asked, now);
        self.change(worker, |member| {
            let jobs = member.carries.map_or(carried, |carries| carries.jobs.min(carried));
            member.carries = Some(Carries { jobs, taken: 0 });
        });
        pause
    }

    /// Gives a worker no job for a while.
    pub fn pause(&self, worker: WorkerKey, asked: Option<Duration>, now: Timestamp) -> Duration {
        let pause = self.change(worker, |member| {
            let doubled = member.throttle.map_or(THROTTLE_FIRST, |last| (last.pause * 2).min(THROTTLE_MAX));
            let pause = asked.unwrap_or(doubled).mul_f64(1.0 + 0.1 * jitter(worker, now));
            member.throttle = Some(Throttle { until: now.plus(pause), pause: doubled });
            pause
        });
        pause.unwrap_or(THROTTLE_FIRST)
    }

    /// The worker took a job: it throttles no more, and after a few it is tried with one more at once.
    pub fn took(&self, worker: WorkerKey) {
        self.change(worker, |member| {
            member.throttle = None;
            let limit = member.limit_allowed();
            member.carries = member.carries.and_then(|Carries { jobs, taken }| match (jobs, taken + 1) {
                (jobs, taken) if taken < RAISE_AFTER => Some(Carries { jobs, taken }),
                (jobs, _) if jobs + 1 < limit => Some(Carries { jobs: jobs + 1, taken: 0 }),
                (_, _) => None,
            });
        });
    }

    /// The worker was silent while it ran a job.
    pub fn seen_serial(&self, worker: WorkerKey) {
        self.change(worker, |member| {
            if member.concurrency == Concurrency::Assumed && member.health.dialect == Dialect::Sandrun {
                log::info!("worker {worker} is silent while it runs a job: it is given one at a time");
                member.concurrency = Concurrency::Serial;
            }
        });
    }

    pub fn active(&self, worker: WorkerKey) -> u32 {
        self.shared.lock().slots.active(worker)
    }

    /// The pause until the next check of a worker; `None` when it is gone.
    fn next_check(&self, arrival: &Arrival, interval: Duration, now: Timestamp) -> Option<Duration> {
        let state = self.shared.lock();
        let member = state.workers.get(&arrival.worker)?;
        let is_same = Arc::ptr_eq(&member.check, &arrival.check);
        is_same.then(|| member.health.next_check_after(interval, jitter(arrival.worker, now)))
    }

    /// Whether the pool knows its workers: one is well, or every one was asked.
    fn knows_its_workers(&self) -> bool {
        let state = self.shared.lock();
        let mut members = state.workers.values();
        members.clone().any(|member| member.health.is_healthy())
            || members.all(|member| member.health.checked_at.is_some())
    }

    pub fn view(&self) -> Vec<WorkerView> {
        self.view_after(None, usize::MAX)
    }

    /// So many workers that come after one, in the order of their keys: a piece of a view that is too long to be held whole.
    pub fn view_after(&self, worker: Option<WorkerKey>, workers_max: usize) -> Vec<WorkerView> {
        let after = worker.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.shared.lock();
        let members = state.workers.range((after, Bound::Unbounded)).take(workers_max);
        members.map(|(key, member)| state.view(*key, member)).collect()
    }

    pub fn standings(&self) -> Standings {
        let mut standings = Standings::default();
        for member in self.shared.lock().workers.values() {
            *match member.health.standing {
                Standing::Healthy { .. } => &mut standings.healthy,
                Standing::Unchecked => &mut standings.unchecked,
                Standing::Distrusted { .. } => &mut standings.distrusted,
                Standing::Down { .. } => &mut standings.down,
            } += 1;
        }
        standings
    }

    /// Changes one worker, tells the slots, and rings the bell: it may be able to take a job now.
    fn change<T>(&self, worker: WorkerKey, change: impl FnOnce(&mut Member) -> T) -> Option<T> {
        let mut state = self.shared.lock();
        let changed = change(state.workers.get_mut(&worker)?);
        state.settle(worker);
        drop(state);
        self.shared.bell.notify_one();
        Some(changed)
    }
}

#[cfg(test)]
mod tests;
