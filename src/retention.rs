//! Forgets jobs that ended long ago, and before that the payloads of those that can no longer be retried.

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
