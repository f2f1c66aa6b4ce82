//! Work that is done again and again until the world is as it should be.

use std::time::Duration;

use async_trait::async_trait;

use crate::time::{Clock, Timestamp};

/// A piece of work that looks at what is and brings it nearer to what should be. It can be run at any time and any number of times.
#[async_trait]
pub trait Reconciler: Send + Sync {
    fn name(&self) -> &'static str;

    /// One bounded batch; says in words what it did, if it did anything.
    async fn run_once(&self, now: Timestamp) -> Result<Option<String>, String>;
}

/// Runs a reconciler every `period`, and at once as long as it finds something to do; ends by being dropped.
pub async fn run(reconciler: &dyn Reconciler, clock: &Clock, period: Duration) {
    loop {
        match reconciler.run_once(clock.now()).await {
            Ok(Some(done)) => {
                log::info!("{}: {done}", reconciler.name());
                tokio::task::yield_now().await;
                continue;
            }
            Ok(None) => {}
            Err(error) => log::error!("{}: {error}", reconciler.name()),
        }
        tokio::time::sleep(period).await;
    }
}
