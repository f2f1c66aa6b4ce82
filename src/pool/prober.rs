//! Asks every worker how it is: all at once at the start and each new one when it comes, then each in its own rhythm until it is gone.
//!
//! `IdentityCheck` is a health check as Pingora's load balancer has them, of a backend that carries its worker. When to ask is
//! ours to say, because a worker that is down is asked sooner than one that is well, and each result counts: so there are no rounds over a
//! set of backends and no thresholds. A worker that does not answer delays no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::HealthCheck;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::health::{Flip, IdentityNews};
use super::membership::Arrival;
use super::{Observed, Pool, jitter};
use crate::telemetry::audit::{AuditLog, Entry, Event};
use crate::time::Clock;
use crate::upstream::Upstream;
use crate::worker::WorkerKey;

/// Checks under way at once: more would use up sockets in a pool of thousands.
const CHECKS_MAX: usize = 1024;

/// Asks the workers of a pool how they are.
pub struct Prober {
    pool: Pool,
    check: IdentityCheck,
    interval: Duration,
    /// Once it has: a worker that comes later makes no stranger of the pool.
    has_looked_around: AtomicBool,
}

/// Asks one worker for `/health` and compares the identity in it with the allowlisted one.
struct IdentityCheck {
    pool: Pool,
    upstream: Arc<dyn Upstream>,
    clock: Clock,
    permits: Semaphore,
    audit: AuditLog,
}

impl Prober {
    /// Checks each worker at `interval`; how long one check may take is the upstream's to say.
    pub fn new(
        pool: Pool,
        upstream: Arc<dyn Upstream>,
        clock: Clock,
        interval: Duration,
        audit: AuditLog,
    ) -> Self {
        let permits = Semaphore::new(CHECKS_MAX);
        let check = IdentityCheck { pool: pool.clone(), upstream, clock, permits, audit };
        Self { pool, check, interval, has_looked_around: AtomicBool::new(false) }
    }

    /// Whether the pool knows its workers: one is well, or every one was asked.
    pub fn has_looked_around(&self) -> bool {
        if self.pool.knows_its_workers() {
            self.has_looked_around.store(true, Ordering::Release);
        }
        self.has_looked_around.load(Ordering::Acquire)
    }

    /// Asks one worker now, beside its rhythm.
    pub async fn check(&self, worker: WorkerKey) {
        // What came of it is told to the pool.
        let _ = self.check.check(&backend(worker)).await;
    }

    /// Asks for ever; ends by being dropped.
    pub async fn run(self: Arc<Self>) {
        let mut workers = JoinSet::new();
        loop {
            tokio::select! {
                // In one order, so that a simulation can be run again.
                biased;
                arrivals = self.pool.arrivals() => {
                    for arrival in arrivals {
                        workers.spawn(Arc::clone(&self).watch(arrival));
                    }
                }
                Some(_) = workers.join_next() => {}
            }
        }
    }

    async fn watch(self: Arc<Self>, arrival: Arrival) {
        self.check(arrival.worker).await;
        // All are asked at once when a pool starts; from then on, those that are well are asked spread over the whole interval.
        let mut spread = jitter(arrival.worker, self.check.clock.now());
        while let Some(pause) = self.pool.next_check(&arrival, self.interval, self.check.clock.now()) {
            // Rung or not, the worker is asked; a ring that comes while it is asked is kept for the next turn.
            let pause = if self.pool.is_healthy(arrival.worker) { pause.mul_f64(spread) } else { pause };
            spread = 1.0;
            let _ = tokio::time::timeout(pause, arrival.check.notified()).await;
            self.check(arrival.worker).await;
        }
    }
}

/// A worker as a backend. The address is never used: the check knows the worker by its key.
fn backend(worker: WorkerKey) -> Backend {
    let mut backend = Backend::new("0.0.0.0:0").expect("a literal address");
    backend.ext.insert(worker);
    backend
}

impl IdentityCheck {
    async fn ask(&self, worker: WorkerKey) -> Result<(), String> {
        let Some(contact) = self.pool.contact(worker) else { return Ok(()) };
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let report = self.upstream.health(&contact.spec).await;
        let answered = report.as_ref().map(|_| ()).map_err(|failure| failure.reason().to_owned());
        let Observed { flip, identity } = self.pool.observe(&contact.spec, report, self.clock.now());
        for news in identity {
            self.audit.record(match news {
                IdentityNews::Changed { from, to } => {
                    Entry::new(Event::IdentityChange, json!({ "worker_id": worker, "from": from, "to": to }))
                }
                IdentityNews::Refused { reason } => {
                    Entry::new(Event::IdentityRefused, json!({ "worker_id": worker, "reason": reason }))
                }
            });
        }
        match flip {
            Flip::Up => log::info!("worker {worker} at {} is healthy", contact.spec.endpoint),
            Flip::Down => {
                let reason =
                    answered.as_ref().err().map_or("its identity is not known surely enough", String::as_str);
                log::warn!("worker {worker} at {} is down: {reason}", contact.spec.endpoint);
            }
            Flip::None => {}
        }
        answered
    }
}

#[async_trait]
impl HealthCheck for IdentityCheck {
    async fn check(&self, target: &Backend) -> pingora::Result<()> {
        let worker = *target.ext.get::<WorkerKey>().expect("each backend carries its worker");
        match self.ask(worker).await {
            Ok(()) => Ok(()),
            Err(reason) => pingora::Error::e_explain(pingora::ErrorType::InternalError, reason),
        }
    }

    /// One result counts: a worker that fails a check is asked again within a second, and one with another identity must
    /// be given nothing more at once.
    fn health_threshold(&self, _success: bool) -> usize {
        1
    }
}
