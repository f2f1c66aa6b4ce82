//! Forgets jobs that ended long ago, and before that the payloads of those that can no longer be retried, or whose room is needed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::outputs::Outputs;
use crate::queue::Queue;
use crate::reconcile::Reconciler;
use crate::spool::Spool;
use crate::store::Store;
use crate::time::Timestamp;

/// Jobs forgotten in one transaction: few enough that a submit does not wait for it.
const BATCH: usize = 500;

/// Payloads removed in one go to make room: each may be large, and one may be room enough.
const ROOM_BATCH: usize = 4;

/// Forgets finished jobs and what is kept of them, some time after their end.
pub struct Retention {
    pub store: Arc<dyn Store>,
    pub queue: Queue,
    pub spool: Arc<Spool>,
    pub outputs: Outputs,
    /// How long a job is remembered after its end.
    pub keep: Duration,
    /// How long it can be retried.
    pub retry_keep: Duration,
}

#[async_trait]
impl Reconciler for Retention {
    fn name(&self) -> &'static str {
        "retention"
    }

    async fn run_once(&self, now: Timestamp) -> Result<Option<String>, String> {
        // Never later than the job itself: its payload must not outlive the row that names it.
        let before = now.minus(self.retry_keep.min(self.keep));
        let dropped = self.store.drop_work(before, BATCH).await.map_err(|error| error.to_string())?;
        for job in &dropped {
            // What is left by a crash here is swept at the next start.
            self.spool.remove(job).await.map_err(|error| error.to_string())?;
        }
        if dropped.len() == BATCH {
            return Ok(Some(format!("dropped {BATCH} payloads")));
        }
        let before = now.minus(self.keep);
        let forgotten = self.store.forget_finished(before, BATCH).await.map_err(|error| error.to_string())?;
        self.queue.forgot(forgotten.len());
        for run in &forgotten {
            self.outputs.remove(run).await;
        }
        let (dropped, forgotten) = (dropped.len(), forgotten.len());
        Ok((dropped + forgotten > 0).then(|| format!("dropped {dropped} payloads, forgot {forgotten} jobs")))
    }
}

/// Keeps room for uploads: the payloads of jobs that have ended are kept for a retry only as long as nobody else needs their room.
pub struct UploadRoom {
    pub store: Arc<dyn Store>,
    pub spool: Arc<Spool>,
}

#[async_trait]
impl Reconciler for UploadRoom {
    fn name(&self) -> &'static str {
        "room for uploads"
    }

    async fn run_once(&self, _now: Timestamp) -> Result<Option<String>, String> {
        if !self.spool.is_crowded() {
            return Ok(None);
        }
        let dropped = self.store.drop_spooled_work(ROOM_BATCH).await.map_err(|error| error.to_string())?;
        for job in &dropped {
            self.spool.remove(job).await.map_err(|error| error.to_string())?;
        }
        let jobs: Vec<_> = dropped.iter().map(|job| job.as_str()).collect();
        Ok((!jobs.is_empty()).then(|| format!("dropped the payloads of {}", jobs.join(", "))))
    }
}
