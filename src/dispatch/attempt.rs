//! One attempt at running a job: send, watch, collect, finish.
//!
//! Each step begins from the job's state and leaves it one state further, so an attempt can be entered at any step: a restart
//! begins where the last process stopped. A cancel or crash between two steps loses nothing but the work of the step that was under way.
//!
//! A client or a deadline may move the job meanwhile. A step that then no longer fits is not made, and the attempt goes on from where the
//! job was moved to, as long as it is still this attempt's.

use std::time::Duration;

use tokio::time::Instant;

use super::Dispatcher;
use crate::activity::CountedGuard;
use crate::job::{AfterLoss, Attempt, Deadline, Elsewhere, JobEvent, JobState, OnWorkerLost, RemoteId};
use crate::pool::Slot;
use crate::queue::{AdvanceError, LiveJob};
use crate::store::Results;
use crate::time::Timestamp;
use crate::upstream::{Answer, Contact, Patience, RemoteStatus, SendOutcome, Stage};
use crate::worker::Dialect;

/// Pauses between status calls to a worker that answers at once: short at first, because most jobs are.
const POLL_FIRST: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_secs(1);

/// How long a worker that can wait for news is asked to wait.
pub(super) const LONG_POLL: Duration = Duration::from_secs(30);

/// Pauses between calls to a worker that cannot be reached.
const LOST_FIRST: Duration = Duration::from_millis(250);
pub(super) const LOST_MAX: Duration = Duration::from_secs(10);

/// A worker silent for this long while it has a job runs one job at a time.
const SERIAL_AFTER: Duration = Duration::from_secs(1);

/// What a worker may take beyond a job's own timeout before the pool ends the job itself.
const RUN_GRACE: Duration = Duration::from_secs(30);

/// Where a step leaves the attempt.
pub(super) enum Next {
    /// The job is in this state, and still this attempt's.
    At(JobState),
    /// The attempt has nothing more to do.
    Over,
}

impl Dispatcher {
    /// Runs an attempt from where the job stands until it is over or the job is back in the queue.
    pub(super) async fn run_attempt(
        &self,
        job: &LiveJob,
        mut state: JobState,
        mut slot: Slot,
        mut sending: Option<CountedGuard>,
    ) {
        loop {
            let next = match state {
                // What happens to it from here on is another attempt's business.
                JobState::Queued { .. } | JobState::Finished { .. } => return,
                JobState::Assigned { attempt, .. } => self.send(job, &attempt, sending.take()).await,
                JobState::Unknown { attempt, since, reason } => {
                    self.resolve(job, &attempt, since, &reason).await
                }
                JobState::Running { attempt, remote, since } => {
                    self.watch(job, &attempt, &remote, since).await
                }
                JobState::Collecting { attempt, remote, .. } => {
                    self.collect(job, &attempt, &remote, &mut slot).await
                }
                JobState::Settling { attempt, remote, at, .. } => {
                    self.settle(job, &attempt, remote.as_ref(), at).await
                }
            };
            match next {
                Next::At(moved) => state = moved,
                Next::Over => return,
            }
        }
    }

    /// Records what happened.
    pub(super) async fn step(&self, job: &LiveJob, attempt: &Attempt, event: JobEvent) -> Next {
        self.step_with(job, attempt, event, None).await
    }

    pub(super) async fn step_with(
        &self,
        job: &LiveJob,
        attempt: &Attempt,
        event: JobEvent,
        results: Option<Results>,
    ) -> Next {
        match self.queue.advance(job, event, results).await {
            Ok(state) => {
                log::info!("job {} is {state}", job.id());
                Next::At(state)
            }
            Err(AdvanceError::Moved) => self.moved(job, attempt),
            // Somebody else moved the job meanwhile: only to where this attempt has something else to do.
            Err(AdvanceError::Invalid(_)) => match self.moved(job, attempt) {
                Next::At(state) if !matches!(state, JobState::Settling { .. }) => {
                    log::error!("job {} is {state}, which its attempt did not expect", job.id());
                    Next::Over
                }
                next => next,
            },
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
        let Some(contact) = self.contact(attempt) else {
            return self.step(job, attempt, JobEvent::NotTaken).await;
        };
        let work = match self.store.work(&id).await {
            Ok(Some(work)) => work,
            Ok(None) => {
                let message = "the job's payload is gone from the store".to_owned();
                let refused = JobEvent::Refused { message, elsewhere: Elsewhere::Impossible };
                return self.step(job, attempt, refused).await;
            }
            Err(error) => {
                log::error!("job {id} cannot be read: {error}");
                tokio::time::sleep(LOST_MAX).await;
                return self.step(job, attempt, JobEvent::NotTaken).await;
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
        let event = self.meaning(job, attempt, outcome);
        self.step(job, attempt, event).await
    }

    /// What a worker's answer to a submit means for the job; the pool takes note of what it means for the worker.
    fn meaning(&self, job: &LiveJob, attempt: &Attempt, outcome: SendOutcome) -> JobEvent {
        let worker = attempt.worker;
        let now = self.clock.now();
        self.metrics.sent(&outcome);
        match outcome {
            SendOutcome::Accepted { remote } => {
                self.pool.took(worker);
                JobEvent::Accepted { remote }
            }
            SendOutcome::Refused { message } => {
                log::info!("worker {worker} refuses job {}: {message}", job.id());
                let another = self.pool.could_run(&job.terms().requires, Some(worker));
                let elsewhere = if another { Elsewhere::Possible } else { Elsewhere::Impossible };
                JobEvent::Refused { message, elsewhere }
            }
            SendOutcome::Throttled { message, retry_after } => {
                let pause = self.pool.throttle(worker, retry_after, now);
                log::info!("worker {worker} takes no job for {pause:?}: {message}");
                JobEvent::NotTaken
            }
            SendOutcome::Unreachable { reason } => {
                log::warn!("worker {worker} was not reached with job {}: {reason}", job.id());
                self.pool.suspect(worker, reason);
                // Its next check may find it well, and the job still not get through: not more often than this.
                self.pool.pause(worker, None, now);
                JobEvent::NotTaken
            }
            SendOutcome::Unreadable { reason } => {
                log::error!("job {}: {reason}", job.id());
                JobEvent::Refused { message: reason, elsewhere: Elsewhere::Impossible }
            }
            SendOutcome::Unknown { reason } => {
                log::warn!("worker {worker} was sent job {} and gave no answer: {reason}", job.id());
                self.pool.suspect(worker, reason.clone());
                JobEvent::Unanswered { reason }
            }
        }
    }

    /// Follows the run to its end, whether or not anybody asks.
    async fn watch(&self, job: &LiveJob, attempt: &Attempt, remote: &RemoteId, since: Timestamp) -> Next {
        let limit = job.terms().run_timeout;
        let deadline = limit.map(|limit| {
            let ran = job.made_at(since).map_or_else(|| self.clock.now().since(since), |made| made.elapsed());
            Instant::now() + (limit + RUN_GRACE).saturating_sub(ran)
        });
        // What is dropped here has only looked: the step is made below, and to its end.
        let event = tokio::select! {
            biased;
            () = job.moved.notified() => return self.moved(job, attempt),
            event = self.end_of_run(job, attempt, remote) => event,
            reason = self.worker_lost(attempt), if !self.holds(job) => self.loss(job, attempt, &reason),
            () = reached(deadline) => {
                let limit = limit.expect("there is no deadline without a limit");
                JobEvent::Overdue { deadline: Deadline::Running(limit) }
            }
        };
        self.step(job, attempt, event).await
    }

    /// Where the attempt goes on after somebody else moved the job.
    pub(super) fn moved(&self, job: &LiveJob, attempt: &Attempt) -> Next {
        let state = job.state();
        if state.attempt().map(|of| of.number) == Some(attempt.number) { Next::At(state) } else { Next::Over }
    }

    async fn end_of_run(&self, job: &LiveJob, attempt: &Attempt, remote: &RemoteId) -> JobEvent {
        let (mut poll, mut lost) = (POLL_FIRST, Lost::default());
        loop {
            let Some(contact) = self.contact(attempt) else {
                return self.loss(job, attempt, &no_longer_listed(attempt));
            };
            let asked = Instant::now();
            match self.ask_status(&contact, remote, Patience::Until(LONG_POLL)).await {
                Answer::Known(RemoteStatus { stage, json }) => {
                    lost = Lost::default();
                    job.saw_worker_status(json);
                    match stage {
                        Stage::Active => {}
                        Stage::Ended(verdict) => return JobEvent::Ended { verdict },
                        Stage::Lost => {
                            let reason =
                                format!("worker {} was stopped while it ran the job", attempt.worker);
                            return self.loss(job, attempt, &reason);
                        }
                    }
                    // A worker that can wait until there is news answers late; one that does not is asked less and less often.
                    if contact.dialect == Dialect::Sandrun || asked.elapsed() < poll {
                        // Cut short when a client's own status call brought news.
                        let _ = tokio::time::timeout(poll, job.news.notified()).await;
                        poll = (poll * 3 / 2).min(POLL_MAX);
                    }
                }
                Answer::Gone => {
                    let reason = format!("worker {} no longer knows the job", attempt.worker);
                    return self.loss(job, attempt, &reason);
                }
                // It runs a job. That is what it is for.
                Answer::Silent if contact.dialect == Dialect::Sandrun => {}
                trouble => {
                    let reason = self.trouble(attempt, trouble);
                    if !self.holds(job) && lost.since() > self.config.worker_lost_after {
                        return self.loss(job, attempt, &reason);
                    }
                    lost.pause().await;
                }
            }
        }
    }

    /// What a worker's failure to answer is, in words; the pool takes note where it says something of the worker's health.
    pub(super) fn trouble<T>(&self, attempt: &Attempt, answer: Answer<T>) -> String {
        let worker = attempt.worker;
        match answer {
            Answer::Known(_) | Answer::Gone => unreachable!("an answer is no trouble"),
            Answer::Silent => format!("worker {worker} does not answer"),
            Answer::Unreadable { reason } => {
                log::warn!("worker {worker} cannot be understood: {reason}");
                format!("worker {worker} cannot be understood: {reason}")
            }
            Answer::Unreachable { reason } => {
                self.pool.suspect(worker, reason.clone());
                format!("worker {worker} cannot be reached: {reason}")
            }
        }
    }

    /// Whether the job stays with its worker however long that is away.
    fn holds(&self, job: &LiveJob) -> bool {
        self.config.defaults.on_worker_lost(&job.terms()) == OnWorkerLost::Hold
    }

    /// Returns when the worker has failed its checks for too long, whatever becomes of the calls to it; the reason in words.
    pub(super) async fn worker_lost(&self, attempt: &Attempt) -> String {
        let (worker, lost_after) = (attempt.worker, self.config.worker_lost_after);
        let mut down: Option<(Timestamp, Instant)> = None;
        loop {
            let since = self.pool.down_since(worker);
            down = since.map(|since| match down {
                Some((same, seen)) if same == since => (same, seen),
                Some(_) | None => (since, Instant::now()),
            });
            if down.is_some_and(|(_, seen)| seen.elapsed() > lost_after) {
                return format!("worker {worker} has been down for longer than {lost_after:?}");
            }
            tokio::time::sleep(LOST_MAX.min(lost_after)).await;
        }
    }

    /// What follows when the job's worker is gone, or the job is gone from it.
    fn loss(&self, job: &LiveJob, attempt: &Attempt, reason: &str) -> JobEvent {
        log::warn!("job {}: {reason}", job.id());
        match self.config.defaults.after_worker_lost(&job.terms(), attempt.losses) {
            AfterLoss::Fail => JobEvent::Lost { reason: reason.to_owned() },
            AfterLoss::Requeue => JobEvent::Requeued,
            AfterLoss::Exhausted => JobEvent::Exhausted { reason: reason.to_owned() },
        }
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

    /// Ends a job whose worker the allowlist no longer names.
    pub(super) async fn abandon(&self, job: &LiveJob, attempt: &Attempt) {
        let reason = no_longer_listed(attempt);
        let _ = match job.state() {
            JobState::Queued { .. } | JobState::Finished { .. } => return,
            JobState::Assigned { .. } => self.step(job, attempt, JobEvent::NotTaken).await,
            JobState::Unknown { .. } => match self.give_up(job, attempt, &reason).await {
                Next::At(JobState::Settling { .. }) => self.step(job, attempt, JobEvent::Settled).await,
                next => next,
            },
            JobState::Running { .. } => self.step(job, attempt, self.loss(job, attempt, &reason)).await,
            JobState::Collecting { .. } => self.conclude(job, attempt, Results::default()).await,
            JobState::Settling { .. } => self.step(job, attempt, JobEvent::Settled).await,
        };
    }
}

/// When a limit is over that began at a time in the job's state. One that began before this process did begins anew: how long the
/// pool was away nobody knows for sure, and a slot that is held for too long costs less than one that is free too soon.
pub(super) fn limit_over(job: &LiveJob, from: Timestamp, limit: Duration) -> Instant {
    job.made_at(from).unwrap_or_else(Instant::now) + limit
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn no_longer_listed(attempt: &Attempt) -> String {
    format!("worker {} is no longer in the allowlist", attempt.worker)
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
