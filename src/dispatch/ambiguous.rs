//! What to do when a job was sent and no answer came.
//!
//! A worker that knows keys is asked by the attempt's key until it says whether it has the job. A sandrun worker cannot say: the job fails as
//! `outcome_unknown` rather than run twice, and the worker's slot stays taken until the worker is seen to be free.

use std::time::Duration;

use tokio::time::Instant;

use super::Dispatcher;
use super::attempt::{Lost, Next};
use crate::job::{Attempt, JobEvent, RemoteId};
use crate::pool::Slot;
use crate::queue::LiveJob;
use crate::time::Timestamp;
use crate::upstream::{Answer, KeyAnswer, Patience, attempt_key};

/// A sandrun worker starts a waiting job within a second; one that answers twice this far apart has none of ours.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// A job id that no worker gives: asking for its status only tells whether the worker answers.
const NO_JOB: &str = "job_0_0";

impl Dispatcher {
    pub(super) async fn resolve(
        &self,
        job: &LiveJob,
        attempt: &Attempt,
        since: Timestamp,
        slot: &mut Option<Slot>,
    ) -> Next {
        let key = attempt_key(&job.id(), attempt.number);
        let mut lost = Lost::default();
        loop {
            let Some(contact) = self.contact(attempt) else { return self.step(job, JobEvent::GivenUp).await };
            // What a worker speaks is known once it was checked; until then nobody can say what it could say.
            let answer = if self.pool.is_healthy(attempt.worker) {
                self.upstream.find_by_key(&contact, &key).await
            } else {
                KeyAnswer::Unanswered
            };
            match answer {
                KeyAnswer::Found { remote } => return self.step(job, JobEvent::Accepted { remote }).await,
                KeyAnswer::Absent => return self.step(job, JobEvent::Absent).await,
                KeyAnswer::CannotSay => {
                    let next = self.step(job, JobEvent::GivenUp).await;
                    self.settle(attempt).await;
                    slot.take();
                    return next;
                }
                KeyAnswer::Unanswered if self.clock.now().since(since) > self.config.worker_lost_after => {
                    return self.step(job, JobEvent::GivenUp).await;
                }
                KeyAnswer::Unanswered => lost.pause().await,
            }
        }
    }

    /// Waits until a sandrun worker is seen to run nothing that the pool does not know of: it is silent while it runs a job.
    async fn settle(&self, attempt: &Attempt) {
        let begun = Instant::now();
        let mut answered_at: Option<Instant> = None;
        let mut lost = Lost::default();
        while begun.elapsed() < self.config.longest_job {
            let Some(contact) = self.contact(attempt) else { return };
            match self.ask_status(&contact, &RemoteId::from(NO_JOB), Patience::Now).await {
                Answer::Known(_) | Answer::Gone => match answered_at {
                    Some(first) if first.elapsed() >= SETTLED_AFTER => return,
                    Some(_) => tokio::time::sleep(SETTLED_AFTER).await,
                    None => {
                        answered_at = Some(Instant::now());
                        tokio::time::sleep(SETTLED_AFTER).await;
                    }
                },
                Answer::Silent => answered_at = None,
                Answer::Failed { .. } => {
                    answered_at = None;
                    lost.pause().await;
                }
            }
        }
    }
}
