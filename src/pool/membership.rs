//! Which workers the pool has: those of the list that is in force, and those that a list before it named and that still have
//! something to bring to an end.
//!
//! A worker that is taken off the list gets no more jobs. It stays a member until the attempts at it are over and its outputs are
//! fetched, because all of that needs its endpoint, which only the list knew. Then it is gone.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::changes::Changes;
use super::member::Member;
use super::{Pool, State};
use crate::reconcile::Reconciler;
use crate::store::Store;
use crate::time::Timestamp;
use crate::upstream::Upstream;
use crate::worker::{Allowlist, WorkerKey, WorkerSpec};

/// Whether the list in force names a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Listed,
    Removed { since: Timestamp },
}

/// A worker that nobody checks yet.
pub(super) struct Arrival {
    pub worker: WorkerKey,
    /// Of this membership: one that is gone and comes back has another.
    pub check: Arc<Notify>,
}

// === impl State ===

impl State {
    /// Makes a worker of the list a member, or one again.
    pub(super) fn join(&mut self, spec: WorkerSpec) {
        let key = spec.key;
        if let Some(member) = self.workers.get_mut(&key) {
            member.listing = Listing::Listed;
            return self.replace(spec);
        }
        let member = Member::new(spec, self.parked_drains.remove(&key));
        self.arrivals.push(Arrival { worker: key, check: Arc::clone(&member.check) });
        self.workers.insert(key, member);
        self.settle(key);
    }

    /// Puts a new entry in the place of a member's old one.
    fn replace(&mut self, spec: WorkerSpec) {
        let key = spec.key;
        let Some(member) = self.workers.get_mut(&key) else { return };
        if member.spec.endpoint != spec.endpoint {
            // Whoever answers there has yet to show that it is the worker.
            member.health = member.health.at_another_endpoint();
            member.address = None;
            member.check.notify_one();
        }
        member.spec = Arc::new(spec);
        self.settle(key);
    }

    fn remove(&mut self, key: WorkerKey, now: Timestamp) {
        if let Some(member) = self.workers.get_mut(&key) {
            member.listing = Listing::Removed { since: now };
        }
        self.settle(key);
    }

    fn is_leaving(&self, key: WorkerKey) -> bool {
        self.workers.get(&key).is_some_and(|member| !member.is_listed() && !member.has_attempts())
    }
}

// === impl Pool ===

impl Pool {
    /// Puts another list in force, and says what is new in it.
    pub fn reload(&self, list: Allowlist, now: Timestamp) -> Changes {
        let mut state = self.shared.lock();
        let listed = state.workers.values().filter(|member| member.is_listed()).map(|member| &*member.spec);
        let changes = Changes::between(listed, list.into_workers());
        changes.added.iter().for_each(|spec| state.join(spec.clone()));
        changes.moved.iter().chain(&changes.changed).for_each(|spec| state.replace(spec.clone()));
        changes.removed.iter().for_each(|worker| state.remove(*worker, now));
        drop(state);
        self.shared.arrived.notify_one();
        self.shared.bell.notify_one();
        changes
    }

    /// Waits for workers that nobody checks yet. Each is given out once.
    pub(super) async fn arrivals(&self) -> Vec<Arrival> {
        loop {
            let arrivals = std::mem::take(&mut self.shared.lock().arrivals);
            if !arrivals.is_empty() {
                return arrivals;
            }
            self.shared.arrived.notified().await;
        }
    }

    /// Workers that are no longer listed and have no attempt left.
    fn leaving(&self) -> Vec<WorkerKey> {
        let state = self.shared.lock();
        state.workers.keys().copied().filter(|key| state.is_leaving(*key)).collect()
    }

    /// Lets go of a worker that is leaving; `false` when it has come back.
    fn forget(&self, worker: WorkerKey) -> bool {
        let mut state = self.shared.lock();
        if !state.is_leaving(worker) {
            return false;
        }
        let member = state.workers.remove(&worker).expect("one that is leaving is there");
        state.slots.remove(worker);
        // An operator's wish holds for when it comes back.
        state.parked_drains.extend(member.drain.map(|drain| (worker, drain)));
        // Whoever checks it finds it gone.
        member.check.notify_one();
        true
    }
}

/// Lets go of workers that are no longer listed, once nothing of theirs is left to be done.
pub struct Departures {
    pub pool: Pool,
    pub upstream: Arc<dyn Upstream>,
    /// Where it stands what outputs are to be fetched; `None` in a pool that fetches none.
    pub outputs: Option<Arc<dyn Store>>,
}

#[async_trait]
impl Reconciler for Departures {
    fn name(&self) -> &'static str {
        "departures of workers"
    }

    async fn run_once(&self, _now: Timestamp) -> Result<Option<String>, String> {
        let mut gone = Vec::new();
        for worker in self.pool.leaving() {
            let to_fetch = match &self.outputs {
                Some(store) => store.has_to_collect(worker).await.map_err(|error| error.to_string())?,
                None => false,
            };
            if !to_fetch && self.pool.forget(worker) {
                self.upstream.forget(worker);
                gone.push(worker.to_string());
            }
        }
        Ok((!gone.is_empty()).then(|| format!("nothing is left to be done at {}", gone.join(", "))))
    }
}

#[cfg(test)]
mod tests;
