//! What is fetched from a worker when a run is over, before the worker forgets it.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Dispatcher;
use super::attempt::{Lost, Next};
use crate::job::{Attempt, JobEvent, RemoteId};
use crate::pool::Slot;
use crate::queue::LiveJob;
use crate::store::Results;
use crate::upstream::{Answer, Contact, Patience};

/// The worker's slot is held while results are fetched, because a serial worker is silent again once it has the next
/// job; but not longer than this.
const COLLECT_WITH_SLOT: Duration = Duration::from_secs(10);

impl Dispatcher {
    /// Fetches what the worker knows of a run that is over, and ends the job.
    pub(super) async fn collect(
        &self,
        job: &LiveJob,
        attempt: &Attempt,
        remote: &RemoteId,
        slot: &mut Option<Slot>,
    ) -> Next {
        let fetched = self.fetch_results(job, attempt, remote);
        tokio::pin!(fetched);
        let results = match tokio::time::timeout(COLLECT_WITH_SLOT, &mut fetched).await {
            Ok(results) => results,
            Err(_) => {
                slot.take();
                fetched.await
            }
        };
        self.step_with(job, attempt, JobEvent::Collected, Some(results)).await
    }

    /// The worker's last word on a run that it has seen to the end, as far as it still has it.
    pub(super) async fn fetch_results<'a>(
        &'a self,
        job: &LiveJob,
        attempt: &Attempt,
        remote: &'a RemoteId,
    ) -> Results {
        let mut results =
            Results { worker_status: job.worker_status().map(|json| json.to_string()), ..Results::default() };
        if results.worker_status.is_none() {
            let ask = |at| async move { self.upstream.status(&at, remote, Patience::Now).await }.boxed();
            let status = self.fetch(attempt, ask).await;
            results.worker_status = status.map(|status| status.json.to_string());
        }
        let log_bytes_max = self.config.log_bytes_max;
        let ask = |at| async move { self.upstream.logs(&at, remote, log_bytes_max).await }.boxed();
        results.logs = self.fetch(attempt, ask).await;
        let ask = |at| async move { self.upstream.listing(&at, remote).await }.boxed();
        results.listing = self.fetch(attempt, ask).await;
        results
    }

    /// Asks until the worker answers, says that it does not know, or has been out of reach for too long.
    async fn fetch<'a, T>(
        &'a self,
        attempt: &Attempt,
        ask: impl Fn(Contact) -> BoxFuture<'a, Answer<T>>,
    ) -> Option<T> {
        let mut lost = Lost::default();
        loop {
            let contact = self.contact(attempt)?;
            let turn = match self.pool.gate(attempt.worker) {
                Some(gate) => Some(gate.enter().await),
                None => None,
            };
            let answer = ask(contact).await;
            drop(turn);
            match answer {
                Answer::Known(value) => return Some(value),
                Answer::Gone => return None,
                Answer::Silent => {}
                Answer::Failed { reason } => {
                    self.pool.suspect(attempt.worker, reason);
                    if lost.since() > self.config.worker_lost_after {
                        return None;
                    }
                    lost.pause().await;
                }
            }
        }
    }
}
