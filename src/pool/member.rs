//! What the pool holds of one worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::health::{Health, Standing};
use super::membership::Listing;
use super::slots::Admission;
use crate::store::Drain;
use crate::time::Timestamp;
use crate::upstream::gate::Gate;
use crate::worker::{Dialect, WorkerSpec};

/// Jobs at once on a worker that neither the allowlist nor the worker itself sets a limit for.
pub(super) const LIMIT_DEFAULT: u32 = 4;

/// A worker of the pool.
pub(super) struct Member {
    pub(super) spec: Arc<WorkerSpec>,
    pub(super) listing: Listing,
    /// Held by every attempt at it, too.
    pub(super) attempts: Arc<()>,
    pub(super) health: Health,
    /// Where it answered its last check.
    pub(super) address: Option<SocketAddr>,
    pub(super) gate: Gate,
    /// Rung to have it checked at once.
    pub(super) check: Arc<Notify>,
    pub(super) throttle: Option<Throttle>,
    pub(super) carries: Option<Carries>,
    pub(super) concurrency: Concurrency,
    pub(super) drain: Option<Drain>,
    pub(super) checks: Checks,
}

/// Health checks of a worker since it became a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// It answered as itself, and as well.
    pub passed: u64,
    pub failed: u64,
}

/// What a worker that throttled has proved to carry.
#[derive(Clone, Copy)]
pub(super) struct Carries {
    pub(super) jobs: u32,
    /// Jobs that it took since then, or since it was last tried with one more.
    pub(super) taken: u32,
}

/// How a worker throttled us last.
#[derive(Clone, Copy)]
pub(super) struct Throttle {
    pub(super) until: Timestamp,
    pub(super) pause: Duration,
}

/// Whether a worker runs jobs beside each other, as far as it has shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Concurrency {
    Assumed,
    /// It was seen to be silent while it ran a job: what waits behind that job is forgotten there, so it is
    /// given one at a time.
    Serial,
}

impl Member {
    /// A worker of the list that has not been checked.
    pub(super) fn new(spec: WorkerSpec, drain: Option<Drain>) -> Self {
        Self {
            spec: Arc::new(spec),
            listing: Listing::Listed,
            attempts: Arc::default(),
            health: Health::default(),
            address: None,
            gate: Gate::default(),
            check: Arc::default(),
            throttle: None,
            carries: None,
            concurrency: Concurrency::Assumed,
            drain,
            checks: Checks::default(),
        }
    }

    pub(super) fn is_listed(&self) -> bool {
        self.listing == Listing::Listed
    }

    pub(super) fn has_attempts(&self) -> bool {
        Arc::strong_count(&self.attempts) > 1
    }

    /// The most jobs it is given at once: what it says it takes is the ceiling of what the allowlist allows.
    pub(super) fn limit(&self) -> u32 {
        if self.concurrency == Concurrency::Serial && self.health.dialect == Dialect::Sandrun {
            return 1;
        }
        let limit = self.limit_allowed();
        self.carries.map_or(limit, |carries| carries.jobs.min(limit))
    }

    pub(super) fn limit_allowed(&self) -> u32 {
        let allowed = self.spec.max_concurrent_jobs.map(|limit| limit.get());
        let advertised = match self.health.standing {
            Standing::Healthy { capacity, .. } => capacity,
            Standing::Unchecked | Standing::Distrusted { .. } | Standing::Down { .. } => None,
        };
        match (allowed, advertised) {
            (Some(allowed), Some(advertised)) => allowed.min(advertised),
            (Some(limit), None) | (None, Some(limit)) => limit,
            (None, None) => LIMIT_DEFAULT,
        }
    }

    pub(super) fn admission(&self) -> Admission {
        match (self.health.is_healthy() && self.is_listed() && self.drain.is_none(), self.throttle) {
            (false, _) => Admission::Closed,
            (true, Some(throttle)) => Admission::Throttled { until: throttle.until },
            (true, None) => Admission::Open,
        }
    }
}
