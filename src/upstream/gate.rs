//! One call at a time to a worker that answers with one lock.
//!
//! A sandrun worker holds one lock for the whole run of a job; every status, logs and listing call waits for it, in a
//! thread of its own. Calls beyond the first would only pile up there, so they wait here, and a reader that cannot
//! wait learns at once that the worker is busy.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// The gate of one worker.
#[derive(Clone, Debug)]
pub struct Gate {
    one: Arc<Semaphore>,
    taken_at: Arc<Mutex<Option<Instant>>>,
}

/// The right to make a call; dropping it lets the next one through.
#[derive(Debug)]
pub struct Turn {
    taken_at: Arc<Mutex<Option<Instant>>>,
    _permit: OwnedSemaphorePermit,
}

impl Default for Gate {
    fn default() -> Self {
        Self { one: Arc::new(Semaphore::new(1)), taken_at: Arc::default() }
    }
}

impl Gate {
    /// Waits for a turn.
    pub async fn enter(&self) -> Turn {
        let permit =
            Arc::clone(&self.one).acquire_owned().await.expect("the gate's semaphore is never closed");
        *self.taken_at.lock().expect("gate lock") = Some(Instant::now());
        Turn { taken_at: Arc::clone(&self.taken_at), _permit: permit }
    }

    /// Waits for a turn unless the call ahead has been silent for `patience`: what is asked next would be as well.
    pub async fn enter_within(&self, patience: Duration) -> Option<Turn> {
        let now = Instant::now();
        let since = self.taken_at.lock().expect("gate lock").unwrap_or(now);
        timeout_at(since + patience, self.enter()).await.ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.taken_at.lock().expect("gate lock") = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_does_not_wait_behind_a_call_that_hangs() {
        let gate = Gate::default();
        let _hanging = gate.enter().await;
        tokio::time::advance(Duration::from_secs(3)).await;
        let asked = Instant::now();
        assert!(gate.enter_within(Duration::from_secs(2)).await.is_none());
        assert_eq!(asked.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_waits_for_a_call_that_is_answered_in_time() {
        let gate = Gate::default();
        let brief = gate.enter().await;
        let reader = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter_within(Duration::from_secs(2)).await.is_some() }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(brief);
        assert!(reader.await.unwrap());
    }
}
