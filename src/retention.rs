//! Forgets jobs that ended long ago.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::queue::Queue;
use crate::reconcile::Reconciler;
use crate::store::Store;
use crate::time::Timestamp;

/// Jobs forgotten in one transaction: few enough that a submit does not wait for it.
const BATCH: usize = 500;

/// Forgets finished jobs and what is kept of them, some time after their end.
pub struct Retention {
    pub store: Arc<dyn Store>,
    pub queue: Queue,
    /// How long a job is remembered after its end.
    pub keep: Duration,
}

#[async_trait]
impl Reconciler for Retention {
    fn name(&self) -> &'static str {
        "retention"
    }

    async fn run_once(&self, now: Timestamp) -> Result<Option<String>, String> {
        let before = now.minus(self.keep);
        let forgotten = self.store.forget_finished(before, BATCH).await.map_err(|error| error.to_string())?;
        self.queue.forgot(forgotten);
        Ok((forgotten > 0).then(|| format!("forgot {forgotten} jobs that ended before {before:?}")))
    }
}
