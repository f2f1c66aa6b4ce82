//! Gives waiting jobs to free workers, and follows each to its end.
//!
//! The dispatcher pairs the next waiting job with a free slot whenever its bell rings: a job came, a slot became free, a worker became
//! well. Each pair is an `attempt`, a task of its own, so that a slow worker delays no other.

mod ambiguous;
mod attempt;
mod collect;
mod metrics;
mod receipt;
mod settle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::activity::{Counted, CountedGuard};
use crate::job::{DefaultTerms, JobEvent, JobState};
use crate::pool::{Pool, Slot};
use crate::queue::{AdvanceError, LiveJob, Queue};
use crate::store::Store;
use crate::time::Clock;
use crate::upstream::Upstream;
use crate::worker::trust::Identity;
pub use metrics::DispatchMetrics;

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub struct DispatchConfig {
    /// How long a job stays with a worker that cannot be reached.
    pub worker_lost_after: Duration,
    /// Bytes kept of each log stream.
    pub log_bytes_max: usize,
    /// The longest time a job is thought to run; a worker that may be running one is left alone as long.
    pub longest_job: Duration,
    /// What holds where a job's own terms say nothing.
    pub defaults: DefaultTerms,
    /// How surely a worker must be known: it decides whether a run may come without a receipt.
    pub trust_required: Identity,
}

/// Pairs jobs with workers and runs the attempts.
pub struct Dispatcher {
    pub(crate) queue: Queue,
    pub(crate) pool: Pool,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) upstream: Arc<dyn Upstream>,
    pub(crate) clock: Clock,
    pub(crate) config: DispatchConfig,
    bell: Arc<Notify>,
    stopping: AtomicBool,
    metrics: DispatchMetrics,
    /// Jobs that are on their way to a worker right now.
    pub(crate) sending: Counted,
}

/// The parts that a dispatcher works with.
pub struct Parts {
    pub queue: Queue,
    pub pool: Pool,
    pub store: Arc<dyn Store>,
    pub upstream: Arc<dyn Upstream>,
    pub clock: Clock,
    /// The bell that `queue` and `pool` ring.
    pub bell: Arc<Notify>,
}

impl Dispatcher {
    pub fn new(parts: Parts, config: DispatchConfig) -> Arc<Self> {
        let Parts { queue, pool, store, upstream, clock, bell } = parts;
        Arc::new(Self {
            queue,
            pool,
            store,
            upstream,
            clock,
            config,
            bell,
            stopping: AtomicBool::new(false),
            metrics: DispatchMetrics::new(),
            sending: Counted::default(),
        })
    }

    /// Gives out no more jobs from now on.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub fn metrics(&self) -> &DispatchMetrics {
        &self.metrics
    }

    /// Jobs that are on their way to a worker and have no answer yet.
    pub fn sending(&self) -> usize {
        self.sending.now()
    }

    /// Takes up the jobs that were under way when the pool stopped, and dispatches for ever; ends by being dropped.
    pub async fn run(self: Arc<Self>, under_way: Vec<Arc<LiveJob>>) {
        let mut attempts = JoinSet::new();
        // Their slots are taken before any is given out: a job that the store is slow with is on its worker all the same.
        for job in under_way {
            let slot = job.state().worker().and_then(|worker| self.pool.occupy(worker));
            attempts.spawn(Arc::clone(&self).resume(job, slot));
        }
        loop {
            while let Some((job, slot)) = self.pair() {
                // Counted from here on: a pool that is told to stop waits for it.
                let sending = self.sending.enter();
                attempts.spawn(Arc::clone(&self).begin(job, slot, sending));
            }
            let opening = self.pool.next_opening(self.clock.now());
            tokio::select! {
                // In one order, so that a simulation can be run again.
                biased;
                () = self.bell.notified() => {}
                () = self.clock.reached(opening) => {}
                Some(ended) = attempts.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        // The job's row is whole: it is taken up again when the pool is started again.
                        log::error!("an attempt panicked: {error}");
                    }
                }
            }
        }
    }

    /// The next job and a slot for it.
    fn pair(&self) -> Option<(Arc<LiveJob>, Slot)> {
        if self.stopping.load(Ordering::Acquire) {
            return None;
        }
        let now = self.clock.now();
        self.queue.claim(|class| self.pool.claim(class, now))
    }

    async fn begin(self: Arc<Self>, job: Arc<LiveJob>, slot: Slot, sending: CountedGuard) {
        let worker = slot.worker();
        match self.queue.advance(&job, JobEvent::Assigned { worker }, None).await {
            Ok(state) => self.run_attempt(&job, state, slot, Some(sending)).await,
            // Its client cancelled it, or it waited for too long, since it was claimed.
            Err(AdvanceError::Invalid(_) | AdvanceError::Moved) => {}
            Err(error) => log::error!("job {} cannot be assigned: {error}", job.id()),
        }
    }

    /// `slot` is on the job's worker; there is none when the allowlist no longer names it.
    async fn resume(self: Arc<Self>, job: Arc<LiveJob>, slot: Option<Slot>) {
        let mut state = job.state();
        // Between the intent to send and the answer the pool died: the job may have left.
        if let JobState::Assigned { .. } = state {
            state = match self.queue.advance(&job, died_while_sending(), None).await {
                Ok(state) => state,
                Err(error) => return log::error!("job {} cannot be taken up again: {error}", job.id()),
            };
        }
        let attempt = state.attempt().expect("a job under way has an attempt").clone();
        match slot {
            Some(slot) => self.run_attempt(&job, state, slot, None).await,
            None => self.abandon(&job, &attempt).await,
        }
    }
}

fn died_while_sending() -> JobEvent {
    JobEvent::Unanswered { reason: "the pool was stopped while it was sending".to_owned() }
}
