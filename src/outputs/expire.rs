//! Lets go of outputs that were kept long enough.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::quota::{self, Quota};
use super::{Outputs, policy};
use crate::reconcile::Reconciler;
use crate::store::Store;
use crate::time::Timestamp;

/// Runs whose outputs go in one go: removing files takes time that others want to use, too.
const BATCH: usize = 64;

/// Removes kept outputs some time after they were fetched, and those that a smaller quota leaves no room for.
pub struct ExpireOutputs {
    pub store: Arc<dyn Store>,
    pub outputs: Outputs,
    pub quota: Arc<Quota>,
    pub keep: Duration,
}

#[async_trait]
impl Reconciler for ExpireOutputs {
    fn name(&self) -> &'static str {
        "kept outputs"
    }

    async fn run_once(&self, now: Timestamp) -> Result<Option<String>, String> {
        let oldest = self.store.oldest_kept(BATCH).await.map_err(|error| error.to_string())?;
        let expired = policy::expired(&oldest, self.keep, now);
        for kept in expired {
            let gone = quota::expire(&*self.store, &self.outputs, &kept.run).await;
            gone.map_err(|error| error.to_string())?;
        }
        self.quota.reserve(0).await.map_err(|error| error.to_string())?;
        let count = expired.len();
        Ok((count > 0).then(|| format!("let go of the outputs of {count} jobs, kept for {:?}", self.keep)))
    }
}
