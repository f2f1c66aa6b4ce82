//! One attempt at running a job: send, watch, collect, finish.
//!
//! Each step reads where the job stands from its state and leaves it one state further, so an attempt can be entered at any step: a restart
//! begins where the last process stopped. A cancel or crash between two steps loses nothing but the work of the step that was under way.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::Dispatcher;
use crate::activity::CountedGuard;
use crate::job::{Attempt, Elsewhere, JobEvent, JobState, RemoteId, Verdict};
use crate::pool::Slot;
use crate::queue::LiveJob;
use crate::store::Results;
use crate::upstream::{Answer, Contact, Patience, RemoteStatus, SendOutcome, Stage};
use crate::worker::Dialect;

/// Pauses between status calls to a worker that answers at once: short at first, because most jobs are.
const POLL_FIRST: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_secs(1);

/// How long a worker that can wait for news is asked to wait.
const LONG_POLL: Duration = Duration::from_secs(30);

/// Pauses between calls to a worker that cannot be reached.
const LOST_FIRST: Duration = Duration::from_millis(250);
const LOST_MAX: Duration = Duration::from_secs(10);

/// A worker silent for this long while it has a job runs one job at a time.
const SERIAL_AFTER: Duration = Duration::from_secs(1);

/// The worker's slot is held while results are fetched, because a serial worker is silent again once it has the next
/// job; but not longer than this.
const COLLECT_WITH_SLOT: Duration = Duration::from_secs(10);

/// What a step leaves to be done.
pub(super) enum Next {
    Continue,
    Over,
}

impl Dispatcher {
    /// Runs an attempt from where the job stands until it is over or the job is back in the queue.
    pub(super) async fn run_attempt(&self, job: &LiveJob, slot: Slot, mut sending: Option<CountedGuard>) {
        let mut slot = Some(slot);
        loop {
            let step = match job.state() {
                JobState::Queued { .. } | JobState::Finished { .. } => return,
                JobState::Assigned { attempt, .. } => self.send(job, &attempt, sending.take()).await,
                JobState::Unknown { attempt, since, .. } => {
                    self.resolve(job, &attempt, since, &mut slot).await
                }
                JobState::Running { attempt, remote } => self.watch(job, &attempt, &remote).await,
                JobState::Collecting { attempt, remote, verdict } => {
                    self.collect(job, &attempt, &remote, verdict, &mut slot).await
                }
            };
            match step {
                Next::Continue => {}
                Next::Over => return,
            }
        }
    }

    /// Records what happened; the attempt goes on unless somebody else has moved the job.
    pub(super) async fn step(&self, job: &LiveJob, event: JobEvent) -> Next {
        self.step_with(job, event, None).await
    }

    async fn step_with(&self, job: &LiveJob, event: JobEvent, results: Option<Results>) -> Next {
        match self.queue.advance(job, event, results).await {
            Ok(state) => {
                log::info!("job {} is {}", job.id(), state);
                Next::Continue
            }
            Err(error) => {
                log::error!("job {}: {error}", job.id());
                Next::Over
            }
        }
    }

    pub(super) fn contact(&self, attempt: &Attempt) -> Option<Contact> {
        self.pool.contact(attempt.worker)
    }

    async fn send(&self, job: &LiveJob, attempt: &Attempt, _sending: Option<CountedGuard>) -> Next {
        let id = job.id();
        let Some(contact) = self.contact(attempt) else { return self.step(job, JobEvent::NotTaken).await };
        let work = match self.store.work(&id).await {
            Ok(Some(work)) => work,
            Ok(None) => {
                let message = "the job's payload is gone from the store".to_owned();
                return self.step(job, JobEvent::Refused { message, elsewhere: Elsewhere::Impossible }).await;
            }
            Err(error) => {
                log::error!("job {id} cannot be read: {error}");
                tokio::time::sleep(LOST_MAX).await;
                return self.step(job, JobEvent::NotTaken).await;
            }
        };
        let begun = Instant::now();
        let outcome = self.upstream.submit(&contact, &id, attempt.number, &work).await;
        // It took its time while it had another job to run.
        if contact.dialect == Dialect::Sandrun
            && begun.elapsed() > SERIAL_AFTER
            && self.pool.active(attempt.worker) > 1
            && matches!(outcome, SendOutcome::Accepted { .. })
        {
            self.pool.seen_serial(attempt.worker);
        }
        self.sent(job, attempt, outcome).await
    }

    async fn sent(&self, job: &LiveJob, attempt: &Attempt, outcome: SendOutcome) -> Next {
        let worker = attempt.worker;
        let now = self.clock.now();
        match outcome {
            SendOutcome::Accepted { remote } => {
                self.pool.took(worker);
                self.step(job, JobEvent::Accepted { remote }).await
            }
            SendOutcome::Refused { message } => {
                log::info!("worker {worker} refuses job {}: {message}", job.id());
                let another = self.pool.has_another(worker);
                let elsewhere = if another { Elsewhere::Possible } else { Elsewhere::Impossible };
                self.step(job, JobEvent::Refused { message, elsewhere }).await
            }
            SendOutcome::Throttled { message, retry_after } => {
                let pause = self.pool.throttle(worker, retry_after, now);
                log::info!("worker {worker} takes no job for {pause:?}: {message}");
                self.step(job, JobEvent::NotTaken).await
            }
            SendOutcome::Unreachable { reason } => {
                log::warn!("worker {worker} was not reached with job {}: {reason}", job.id());
                self.pool.suspect(worker, reason);
                // Its next check may find it well, and the job still not get through: not more often than this.
                self.pool.throttle(worker, None, now);
                self.step(job, JobEvent::NotTaken).await
            }
            SendOutcome::Unknown { reason } => {
                log::warn!("worker {worker} was sent job {} and gave no answer: {reason}", job.id());
                self.pool.suspect(worker, reason.clone());
                self.step(job, JobEvent::Unanswered { reason }).await
            }
        }
    }

    /// Follows the run to its end, whether or not anybody asks.
    async fn watch(&self, job: &LiveJob, attempt: &Attempt, remote: &RemoteId) -> Next {
        let (mut poll, mut lost) = (POLL_FIRST, Lost::default());
        loop {
            let Some(contact) = self.contact(attempt) else {
                return self
                    .lost(job, format!("worker {} is no longer in the allowlist", attempt.worker))
                    .await;
            };
            match self.ask_status(&contact, remote, Patience::Until(LONG_POLL)).await {
                Answer::Known(RemoteStatus { stage, json }) => {
                    lost = Lost::default();
                    job.saw_worker_status(json);
                    if let Stage::Ended(verdict) = stage {
                        return self.step(job, JobEvent::Ended { verdict }).await;
                    }
                    if contact.dialect == Dialect::Sandrun {
                        // Cut short when a client's own status call brought news.
                        let _ = tokio::time::timeout(poll, job.news.notified()).await;
                        poll = (poll * 3 / 2).min(POLL_MAX);
                    }
                }
                Answer::Gone => {
                    return self
                        .lost(job, format!("worker {} no longer knows the job", attempt.worker))
                        .await;
                }
                // It runs a job. That is what it is for.
                Answer::Silent => {}
                Answer::Failed { reason } => {
                    self.pool.suspect(attempt.worker, reason.clone());
                    if lost.since() > self.config.worker_lost_after {
                        return self
                            .lost(job, format!("worker {} cannot be reached: {reason}", attempt.worker))
                            .await;
                    }
                    lost.pause().await;
                }
            }
        }
    }

    async fn lost(&self, job: &LiveJob, reason: String) -> Next {
        self.step(job, JobEvent::Lost { reason }).await
    }

    /// One status call; a worker of the sandrun kind gets one at a time, and is known as serial when it is silent.
    pub(super) async fn ask_status(
        &self,
        contact: &Contact,
        remote: &RemoteId,
        patience: Patience,
    ) -> Answer<RemoteStatus> {
        let worker = contact.spec.key;
        let Some(gate) = self.pool.gate(worker) else {
            return self.upstream.status(contact, remote, patience).await;
        };
        let _turn = gate.enter().await;
        let asked = self.upstream.status(contact, remote, patience);
        tokio::pin!(asked);
        match tokio::time::timeout(SERIAL_AFTER, &mut asked).await {
            Ok(answer) => answer,
            Err(_) => {
                self.pool.seen_serial(worker);
                asked.await
            }
        }
    }

    /// Fetches what the worker knows of a run that is over, before it forgets, and ends the job.
    async fn collect(
        &self,
        job: &LiveJob,
        attempt: &Attempt,
        remote: &RemoteId,
        verdict: Verdict,
        slot: &mut Option<Slot>,
    ) -> Next {
        log::debug!("job {} ended: {verdict:?}", job.id());
        let fetched = self.fetch_results(job, attempt, remote);
        tokio::pin!(fetched);
        let results = match tokio::time::timeout(COLLECT_WITH_SLOT, &mut fetched).await {
            Ok(results) => results,
            Err(_) => {
                slot.take();
                fetched.await
            }
        };
        self.step_with(job, JobEvent::Collected, Some(results)).await
    }

    async fn fetch_results<'a>(&'a self, job: &LiveJob, attempt: &Attempt, remote: &'a RemoteId) -> Results {
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

    /// Ends a job whose worker the pool can no longer speak to.
    pub(super) async fn abandon(&self, job: &LiveJob, reason: &str) {
        let _ = match job.state() {
            JobState::Queued { .. } | JobState::Finished { .. } => return,
            JobState::Assigned { .. } => self.step(job, JobEvent::NotTaken).await,
            JobState::Unknown { .. } => self.step(job, JobEvent::GivenUp).await,
            JobState::Running { .. } => self.lost(job, reason.to_owned()).await,
            JobState::Collecting { .. } => {
                self.step_with(job, JobEvent::Collected, Some(Results::default())).await
            }
        };
    }
}

/// How long a worker has been out of reach, and how often it is tried.
#[derive(Default)]
pub(super) struct Lost {
    since: Option<Instant>,
    pause: Option<Duration>,
}

impl Lost {
    /// Time since the first failure in a row; this may be that first one.
    pub(super) fn since(&mut self) -> Duration {
        self.since.get_or_insert_with(Instant::now).elapsed()
    }

    pub(super) async fn pause(&mut self) {
        let pause = self.pause.map_or(LOST_FIRST, |last| (last * 2).min(LOST_MAX));
        self.pause = Some(pause);
        tokio::time::sleep(pause).await;
    }
}
