//! A job that is over for its client while its worker may still be busy with it: the slot stays taken until the worker is free.

use std::time::Duration;

use tokio::time::Instant;

use super::Dispatcher;
use super::attempt::{LONG_POLL, Lost, Next, limit_over};
use crate::job::{Attempt, JobEvent, RemoteId};
use crate::queue::LiveJob;
use crate::time::Timestamp;
use crate::upstream::{Answer, KeyAnswer, Patience, Stage, attempt_key};
use crate::worker::Dialect;

/// A sandrun worker starts a waiting job within a second; one that answers twice this far apart runs none.
const FREE_AFTER: Duration = Duration::from_secs(3);

/// A job id that no worker gives: asking for its status only tells whether the worker answers.
const NO_JOB: &str = "job_0_0";

/// For this long the results of a job that was stopped are asked for; its client has its outcome already.
const RESULTS_TIME: Duration = Duration::from_secs(10);

/// Between two calls to a worker that answers at once.
const POLL: Duration = Duration::from_secs(1);

impl Dispatcher {
    /// Waits until the worker is free of the job, which it is asked to stop if it knows how; `at` is when the job was over.
    pub(super) async fn settle(
        &self,
        job: &LiveJob,
        attempt: &Attempt,
        remote: Option<&RemoteId>,
        at: Timestamp,
    ) -> Next {
        match remote {
            Some(remote) => self.settle_there(job, attempt, remote, at).await,
            None => self.settle_somewhere(job, attempt, at).await,
        }
    }

    async fn settle_there(&self, job: &LiveJob, attempt: &Attempt, remote: &RemoteId, at: Timestamp) -> Next {
        let mut lost = Lost::default();
        let mut asked_to_stop = false;
        let over = limit_over(job, at, self.config.longest_job);
        while Instant::now() < over {
            let Some(contact) = self.contact(attempt) else { break };
            if contact.dialect == Dialect::V2 && !asked_to_stop {
                let asked = self.upstream.cancel(&contact, remote).await;
                asked_to_stop = !matches!(asked, Answer::Silent | Answer::Unreachable { .. });
            }
            match self.ask_status(&contact, remote, Patience::Until(LONG_POLL)).await {
                Answer::Known(status) => {
                    lost = Lost::default();
                    job.saw_worker_status(status.json);
                    if status.stage != Stage::Active {
                        let results = self.fetch_results(job, attempt, remote);
                        let results = tokio::time::timeout(RESULTS_TIME, results).await.ok();
                        return self.step_with(job, attempt, JobEvent::Settled, results).await;
                    }
                    if contact.dialect == Dialect::Sandrun {
                        tokio::time::sleep(POLL).await;
                    }
                }
                Answer::Gone => break,
                Answer::Silent if contact.dialect == Dialect::Sandrun => {}
                trouble => {
                    self.trouble(attempt, trouble);
                    if lost.since() > self.config.worker_lost_after {
                        break;
                    }
                    lost.pause().await;
                }
            }
        }
        self.step(job, attempt, JobEvent::Settled).await
    }

    /// It is not known whether the worker has the job at all.
    async fn settle_somewhere(&self, job: &LiveJob, attempt: &Attempt, at: Timestamp) -> Next {
        let key = attempt_key(&job.id(), attempt.number);
        let mut lost = Lost::default();
        let lost_at = limit_over(job, at, self.config.worker_lost_after);
        while Instant::now() <= lost_at {
            match self.find(job, attempt, &key).await {
                Some(KeyAnswer::Found { remote }) => {
                    return self.step(job, attempt, JobEvent::Accepted { remote }).await;
                }
                Some(KeyAnswer::Absent) => return self.step(job, attempt, JobEvent::Absent).await,
                Some(KeyAnswer::CannotSay) => {
                    let over = limit_over(job, at, self.config.longest_job);
                    self.wait_until_free(attempt, over).await;
                    break;
                }
                Some(KeyAnswer::Unanswered) => lost.pause().await,
                None => break,
            }
        }
        self.step(job, attempt, JobEvent::Settled).await
    }

    /// Waits until a sandrun worker is seen to run nothing, or until `over`: it is silent while it runs a job.
    pub(super) async fn wait_until_free(&self, attempt: &Attempt, over: Instant) {
        let mut answered_at: Option<Instant> = None;
        let mut lost = Lost::default();
        while Instant::now() < over {
            let Some(contact) = self.contact(attempt) else { return };
            match self.ask_status(&contact, &RemoteId::from(NO_JOB), Patience::Now).await {
                Answer::Known(_) | Answer::Gone => {
                    if answered_at.is_some_and(|first| first.elapsed() >= FREE_AFTER) {
                        return;
                    }
                    answered_at.get_or_insert_with(Instant::now);
                    tokio::time::sleep(FREE_AFTER).await;
                }
                Answer::Silent => answered_at = None,
                Answer::Unreadable { .. } | Answer::Unreachable { .. } => {
                    answered_at = None;
                    lost.pause().await;
                }
            }
        }
    }
}
