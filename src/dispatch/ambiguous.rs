//! What to do when a job was sent and no answer came.
//!
//! A worker that knows keys is asked by the attempt's key until it says whether it has the job. A sandrun worker cannot say, nor can
//! one that was started anew since, with the job perhaps: then the job's policy decides, and the worker's slot stays taken until the
//! worker is seen to be free.

use std::time::Duration;

use tokio::time::Instant;

use super::Dispatcher;
use super::attempt::{Lost, Next, limit_over};
use crate::job::{AfterLoss, Attempt, JobEvent};
use crate::queue::LiveJob;
use crate::time::Timestamp;
use crate::upstream::{KeyAnswer, attempt_key};

/// A request that was cut off may still arrive: a worker has never taken a job when it says so twice, this far apart.
const ABSENT_AGAIN: Duration = Duration::from_secs(1);

impl Dispatcher {
    pub(super) async fn resolve(
        &self,
        job: &LiveJob,
        attempt: &Attempt,
        since: Timestamp,
        reason: &str,
    ) -> Next {
        let key = attempt_key(&job.id(), attempt.number);
        let mut lost = Lost::default();
        let lost_at = limit_over(job, since, self.config.worker_lost_after);
        loop {
            match self.find(job, attempt, &key).await {
                Some(KeyAnswer::Found { remote }) => {
                    return self.step(job, attempt, JobEvent::Accepted { remote }).await;
                }
                Some(KeyAnswer::Absent) => return self.step(job, attempt, JobEvent::Absent).await,
                Some(KeyAnswer::CannotSay) | None => return self.give_up(job, attempt, reason).await,
                Some(KeyAnswer::Unanswered) => {
                    if Instant::now() > lost_at {
                        return self.give_up(job, attempt, reason).await;
                    }
                    tokio::select! {
                        biased;
                        () = job.moved.notified() => return self.moved(job, attempt),
                        () = lost.pause() => {}
                    }
                }
            }
        }
    }

    /// Asks a worker for an attempt; `None` when the allowlist no longer names it. What it says twice it never took.
    pub(super) async fn find(&self, job: &LiveJob, attempt: &Attempt, key: &str) -> Option<KeyAnswer> {
        match self.find_once(job, attempt, key).await {
            Some(KeyAnswer::Absent) => {
                tokio::time::sleep(ABSENT_AGAIN).await;
                self.find_once(job, attempt, key).await
            }
            other => other,
        }
    }

    async fn find_once(&self, job: &LiveJob, attempt: &Attempt, key: &str) -> Option<KeyAnswer> {
        let contact = self.contact(attempt)?;
        // What a worker speaks is known once it was checked; until then nobody can say what it could say.
        if self.pool.is_healthy(attempt.worker) {
            let by_the_wall = || self.clock.now().since(attempt.since);
            let sent_within = job.made_at(attempt.since).map_or_else(by_the_wall, |made| made.elapsed());
            Some(self.upstream.find_by_key(&contact, key, sent_within).await)
        } else {
            Some(KeyAnswer::Unanswered)
        }
    }

    /// Nobody can say whether the worker took the job.
    pub(super) async fn give_up(&self, job: &LiveJob, attempt: &Attempt, reason: &str) -> Next {
        match self.config.defaults.after_unknown(&job.terms(), attempt.losses) {
            AfterLoss::Fail => self.step(job, attempt, JobEvent::GivenUp).await,
            AfterLoss::Exhausted => {
                self.step(job, attempt, JobEvent::Exhausted { reason: reason.to_owned() }).await
            }
            AfterLoss::Requeue => {
                let next = self.step(job, attempt, JobEvent::Requeued).await;
                // The job may be running here while it waits for another worker: the slot stays taken as long.
                self.wait_until_free(attempt, Instant::now() + self.config.longest_job).await;
                next
            }
        }
    }
}
