//! What is fetched from a worker when a run is over, before the worker forgets it.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};

use super::Dispatcher;
use super::attempt::{LOST_MAX, Lost, Next};
use super::receipt::{self, Given, Need};
use crate::api::listing;
use crate::job::{Attempt, JobEvent, JobState, RemoteId};
use crate::pool::Slot;
use crate::queue::LiveJob;
use crate::store::Results;
use crate::upstream::{Answer, Contact, Patience, Stage, sandrun};
use crate::worker::receipt::Sha256Sum;

/// The worker's slot is held while results are fetched, because a serial worker is silent again once it has the next
/// job; but not longer than this.
const COLLECT_WITH_SLOT: Duration = Duration::from_secs(10);

/// A worker that was reached and gave nothing of use so often has nothing else to give.
const WORDLESS_MAX: u32 = 3;

/// Whether a status is of a run that is over: a client's own status call may have brought an older one since.
fn is_last(status: &str) -> bool {
    sandrun::status(status.as_bytes()).is_ok_and(|status| matches!(status.stage, Stage::Ended(_)))
}

fn given_up<T>(reason: &str) -> Option<T> {
    log::warn!("what a worker knows of a job is given up: {reason}");
    None
}

impl Dispatcher {
    /// Fetches what the worker knows of a run that is over, and ends the job.
    pub(super) async fn collect(
        &self,
        job: &LiveJob,
        attempt: &Attempt,
        remote: &RemoteId,
        slot: &mut Slot,
    ) -> Next {
        let fetched = self.fetch_results(job, attempt, remote);
        tokio::pin!(fetched);
        let results = match tokio::time::timeout(COLLECT_WITH_SLOT, &mut fetched).await {
            Ok(results) => results,
            Err(_) => {
                slot.free();
                fetched.await
            }
        };
        self.conclude(job, attempt, results).await
    }

    /// Ends a job by what its worker said, if that is what the worker has signed.
    pub(super) async fn conclude(&self, job: &LiveJob, attempt: &Attempt, results: Results) -> Next {
        let event = match self.check_receipt(job, attempt, &results).await {
            Ok(()) => JobEvent::Collected,
            Err(reason) => {
                log::warn!("job {} is refused its end on worker {}: {reason}", job.id(), attempt.worker);
                JobEvent::Disproved { reason }
            }
        };
        self.step_with(job, attempt, event, Some(results)).await
    }

    async fn check_receipt(&self, job: &LiveJob, attempt: &Attempt, results: &Results) -> Result<(), String> {
        let id = job.id();
        let work = loop {
            match self.store.work(&id).await {
                Ok(work) => break work,
                Err(error) => log::error!("job {id} cannot be read, trying again: {error}"),
            }
            tokio::time::sleep(LOST_MAX).await;
        };
        // It is kept for as long as the job is not over.
        let Some(work) = work else { return Err("what the job was submitted with is gone".to_owned()) };
        let verdict = match job.state() {
            JobState::Collecting { verdict, .. } => Some(verdict),
            // Its client was faster: how the run ended decides nothing any more.
            _ => None,
        };
        let given = Given {
            job: id,
            attempt: attempt.clone(),
            payload_sha256: Sha256Sum(work.sha256),
            manifest_sha256: Sha256Sum(Sha256::digest(&work.manifest).into()),
        };
        let need = Need::of(self.config.trust_required, self.contact(attempt).as_ref());
        receipt::check(&given, verdict, results, need)
    }

    /// The worker's last word on a run that it has seen to the end, as far as it still has it.
    pub(super) async fn fetch_results<'a>(
        &'a self,
        job: &LiveJob,
        attempt: &Attempt,
        remote: &'a RemoteId,
    ) -> Results {
        let mut results = Results {
            worker_status: job.worker_status().filter(|json| is_last(json)).map(|json| json.to_string()),
            ..Results::default()
        };
        if results.worker_status.is_none() {
            let ask = |at| async move { self.upstream.status(&at, remote, Patience::Now).await }.boxed();
            let status = self.fetch(attempt, ask).await;
            results.worker_status = status.map(|status| status.json.to_string());
        }
        let log_bytes_max = self.config.log_bytes_max;
        let ask = |at| async move { self.upstream.logs(&at, remote, log_bytes_max).await }.boxed();
        results.logs = self.fetch(attempt, ask).await;
        let ask = |at| async move { self.upstream.listing(&at, remote).await }.boxed();
        let listing = self.fetch(attempt, ask).await;
        results.listing = listing.and_then(|text| listing::in_pool_terms(&job.id(), &text));
        results
    }

    /// Asks until the worker answers, says that it does not know, or has been out of reach for too long. What it cannot say
    /// in a few tries is left out.
    async fn fetch<'a, T>(
        &'a self,
        attempt: &Attempt,
        ask: impl Fn(Contact) -> BoxFuture<'a, Answer<T>>,
    ) -> Option<T> {
        let (mut lost, mut wordless) = (Lost::default(), 0);
        let worker_lost = self.worker_lost(attempt);
        tokio::pin!(worker_lost);
        loop {
            let contact = self.contact(attempt)?;
            let asked = async {
                let _turn = match self.pool.gate(attempt.worker) {
                    Some(gate) => Some(gate.enter().await),
                    None => None,
                };
                ask(contact).await
            };
            let answer = tokio::select! {
                biased;
                answer = asked => answer,
                reason = &mut worker_lost => return given_up(&reason),
            };
            let reached = match answer {
                Answer::Known(value) => return Some(value),
                Answer::Gone => return None,
                Answer::Silent | Answer::Unreadable { .. } => true,
                Answer::Unreachable { .. } => false,
            };
            let reason = self.trouble(attempt, answer);
            wordless += u32::from(reached);
            if wordless == WORDLESS_MAX || lost.since() > self.config.worker_lost_after {
                return given_up(&reason);
            }
            lost.pause().await;
        }
    }
}
