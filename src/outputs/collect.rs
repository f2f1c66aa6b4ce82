//! Fetches the outputs of jobs that have ended, before their workers forget them.
//!
//! A job's row says whether its outputs are to be collected, so a collection that a crash cuts off is begun again by the next
//! start. All this runs beside the dispatcher and takes nothing from it: a worker whose downloads are slow is given its next job
//! all the same.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Outputs;
use super::fetch::{Source, Trouble};
use super::policy::{self, KeepConfig, Plan, Wanted};
use super::quota::{Quota, Reserved};
use super::turns::{Turns, Went};
use crate::job::{JobEvent, Place, apply};
use crate::pool::Pool;
use crate::store::{JobRow, OutputsPlace, Settled, Store, StoreError};
use crate::time::Clock;
use crate::upstream::{Contact, Upstream};
use crate::worker::WorkerKey;
use crate::worker::receipt::Evidence;

/// Jobs whose outputs are fetched at once, each from another worker: enough that a few slow workers hold up no other.
const COLLECTIONS_MAX: usize = 4;

/// Between two looks for work that nobody rang the bell for.
const PERIOD: Duration = Duration::from_secs(60);

/// One job's outputs are fetched within this time or stay where they are: a worker that trickles holds up others.
const COLLECTION_TIME_MAX: Duration = Duration::from_secs(3600);

/// Collects outputs.
pub struct Collector {
    pub store: Arc<dyn Store>,
    pub outputs: Outputs,
    pub quota: Arc<Quota>,
    pub pool: Pool,
    pub upstream: Arc<dyn Upstream>,
    pub clock: Clock,
    pub config: KeepConfig,
    /// How long a worker may be out of reach before its outputs are given up.
    pub worker_lost_after: Duration,
    /// Rung when a job has ended.
    pub bell: Arc<Notify>,
}

/// What one collection came to.
enum Collected {
    /// The outputs are there from now on.
    Settled(OutputsPlace),
    Away {
        reason: String,
    },
    /// The pool has no room for them now.
    Hindered {
        reason: String,
    },
    /// They are not as the worker says.
    Disproved {
        reason: String,
    },
}

impl Collector {
    /// Collects for ever; ends by being dropped.
    pub async fn run(self: Arc<Self>) {
        if self.config.keep.is_zero() {
            return;
        }
        let (mut turns, mut collections) = (Turns::default(), JoinSet::new());
        loop {
            self.begin_collections(&mut turns, &mut collections).await;
            let now = Instant::now();
            let look = turns.next_opening(now).unwrap_or(now + PERIOD).min(now + PERIOD);
            tokio::select! {
                () = self.bell.notified() => {}
                () = tokio::time::sleep_until(look) => {}
                Some(ended) = collections.join_next() => match ended {
                    Ok((worker, went)) => turns.ended(worker, went, Instant::now()),
                    // Its worker is not asked again before the next start: what broke once would break again.
                    Err(error) => log::error!("a collection of outputs panicked: {error}"),
                }
            }
        }
    }

    async fn begin_collections(
        self: &Arc<Self>,
        turns: &mut Turns,
        collections: &mut JoinSet<(WorkerKey, Went)>,
    ) {
        let mut closed = turns.closed(Instant::now());
        while collections.len() < COLLECTIONS_MAX {
            let job = match self.store.next_to_collect(&closed).await {
                Ok(Some(job)) => job,
                Ok(None) => return,
                Err(error) => return log::error!("outputs cannot be collected: {error}"),
            };
            let Some(place) = job.state.place() else {
                return log::error!("job {} has outputs to collect and no worker took it", job.id);
            };
            closed.push(place.worker);
            let away_since = turns.begin(place.worker);
            let this = Arc::clone(self);
            collections.spawn(async move { (place.worker, this.collect(&job, &place, away_since).await) });
        }
    }

    /// Collects one job's outputs, and says how it went for their worker.
    async fn collect(&self, job: &JobRow, place: &Place, away_since: Option<Instant>) -> Went {
        let lost = away_since.is_some_and(|since| since.elapsed() > self.worker_lost_after);
        let mut room = None;
        let (to, went) = match self.try_collect(job, place, &mut room).await {
            Ok(Collected::Settled(to)) => (to, Went::Well),
            Ok(Collected::Away { reason }) if lost => {
                log::warn!("the outputs of job {} are given up: {reason}", job.id);
                (OutputsPlace::Expired, Went::Lost)
            }
            Ok(Collected::Away { reason }) => {
                log::debug!("the outputs of job {} cannot be fetched now: {reason}", job.id);
                return Went::Away;
            }
            Ok(Collected::Hindered { reason }) => {
                log::warn!("the outputs of job {} cannot be kept now: {reason}", job.id);
                return Went::Hindered;
            }
            Ok(Collected::Disproved { reason }) => {
                return self
                    .refuse(job, reason)
                    .await
                    .map_or_else(|error| unwritten(job, &error), |()| Went::Well);
            }
            Err(error) => {
                log::error!("the outputs of job {} cannot be kept now: {error}", job.id);
                return Went::Hindered;
            }
        };
        match self.settle(job, to).await {
            Ok(()) => went,
            Err(error) => unwritten(job, &error),
        }
    }

    /// Leaves the outputs where they are, and has the job fail for them.
    async fn refuse(&self, job: &JobRow, reason: String) -> Result<(), StoreError> {
        log::warn!("the outputs of job {} are refused: {reason}", job.id);
        let disproved = JobEvent::Disproved { reason: reason.clone() };
        // A job that its client cancelled, or that overran, stays what it is.
        let end = apply(job.state.clone(), disproved, self.clock.now()).unwrap_or_else(|_| job.state.clone());
        self.store.refuse_outputs(&job.run(), end, reason).await.map(drop)
    }

    /// `room` is for the caller to hold until the store counts what was fetched.
    async fn try_collect(
        &self,
        job: &JobRow,
        place: &Place,
        room: &mut Option<Reserved>,
    ) -> Result<Collected, StoreError> {
        if let Some((outcome, _)) = job.state.end()
            && outcome.is_disproved()
        {
            let reason = "what the worker says of them is not what it has signed".to_owned();
            return Ok(Collected::Settled(OutputsPlace::OnWorker { reason }));
        }
        let results = self.store.results(&job.id).await?.unwrap_or_default();
        let signed = matches!(
            Evidence::in_status(results.worker_status.as_deref().unwrap_or_default()),
            Evidence::Receipt(_)
        );
        let (files, bytes) = match policy::plan(&results, &self.config) {
            Plan::Collect { files, bytes } => (files, bytes),
            Plan::Stay { reason } => return Ok(Collected::Settled(OutputsPlace::OnWorker { reason })),
            Plan::Expired => return Ok(Collected::Settled(OutputsPlace::Expired)),
        };
        // Only from a worker that is known to be the one it should be.
        let contact = self.pool.contact(place.worker).filter(|_| self.pool.is_healthy(place.worker));
        let Some(contact) = contact else {
            return Ok(Collected::Away { reason: format!("worker {} is down", place.worker) });
        };
        *room = self.quota.reserve(bytes).await?;
        if room.is_none() {
            let reason = "other outputs on their way have taken all room".to_owned();
            return Ok(Collected::Hindered { reason });
        }
        let fetched = self.fetch(job, &contact, place, &files);
        Ok(match tokio::time::timeout(COLLECTION_TIME_MAX, fetched).await {
            Ok(Collected::Disproved { reason }) if !signed => {
                Collected::Settled(OutputsPlace::OnWorker { reason })
            }
            Ok(collected) => collected,
            Err(_) => {
                let reason = format!("they could not be fetched within {COLLECTION_TIME_MAX:?}");
                Collected::Settled(OutputsPlace::OnWorker { reason })
            }
        })
    }

    async fn fetch(&self, job: &JobRow, worker: &Contact, place: &Place, files: &[Wanted]) -> Collected {
        let source = Source { upstream: &*self.upstream, worker, remote: &place.remote };
        let trouble = match source.fetch_all(files, &self.outputs).await {
            Ok((incoming, files)) => match incoming.publish(&job.run()).await {
                Ok(()) => {
                    return Collected::Settled(OutputsPlace::Kept { at: self.clock.now(), files });
                }
                Err(error) => Trouble::Disk(error),
            },
            Err(trouble) => trouble,
        };
        match trouble {
            Trouble::Gone => Collected::Settled(OutputsPlace::Expired),
            Trouble::Away { reason } => Collected::Away { reason },
            Trouble::Flawed { reason } => Collected::Settled(OutputsPlace::OnWorker { reason }),
            Trouble::Wrong { reason } => Collected::Disproved { reason },
            Trouble::Disk(error) => Collected::Hindered { reason: error.to_string() },
        }
    }

    async fn settle(&self, job: &JobRow, to: OutputsPlace) -> Result<(), StoreError> {
        let id = &job.id;
        let text = match &to {
            OutputsPlace::Kept { files, .. } => format!("kept: {} files, {} bytes", files.len(), to.bytes()),
            OutputsPlace::OnWorker { reason } => format!("left on the worker: {reason}"),
            OutputsPlace::Expired => "no longer to be had".to_owned(),
            OutputsPlace::ToCollect => "to be collected".to_owned(),
        };
        match self.store.settle_outputs(&job.run(), to).await? {
            Settled::Done => log::info!("the outputs of job {id} are {text}"),
            Settled::Overtaken => self.outputs.remove(&job.run()).await,
        }
        Ok(())
    }
}

fn unwritten(job: &JobRow, error: &StoreError) -> Went {
    log::error!("where the outputs of job {} are cannot be written: {error}", job.id);
    Went::Hindered
}
