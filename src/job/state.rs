//! Where a job stands, and the one function that moves it.
//!
//! A job's state is its program counter: every step of an attempt can be entered from the state alone, so a
//! restart, a lost worker and normal progress are the same code. The states form this graph:
//!
//! ```text
//! Queued → Assigned → Running → Collecting → Finished → Queued (its client retries it)
//!                                               └→ Finished (its outputs disprove it)
//!            └→ Unknown → Running | Queued | Settling | Finished
//! Assigned | Unknown | Running | Collecting → Settling → Finished
//! ```
//!
//! [`apply`] is total over state × event: what is not an edge of the graph is an [`InvalidTransition`], never a guess.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::outcome::{FailureCode, Outcome, Verdict};
use crate::time::Timestamp;
use crate::worker::WorkerKey;

/// A job's name on its worker.
pub type RemoteId = String;

/// How often a job was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// Attempts begun.
    pub attempts: u32,
    /// Attempts lost since its client submitted or retried it.
    pub losses: u32,
}

/// One try at running a job: its number (from 1), the losses before it, its worker, and when the worker was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub number: u32,
    pub losses: u32,
    pub worker: WorkerKey,
    pub since: Timestamp,
}

/// A worker's refusal of a job for the job's own fault, in the worker's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub worker: WorkerKey,
    pub message: String,
}

/// Where a job's bytes are: the worker and the job's name there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub worker: WorkerKey,
    pub remote: RemoteId,
}

/// The worker of a job's last attempt, and the job's name there if the worker is known to have taken it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    pub worker: WorkerKey,
    pub remote: Option<RemoteId>,
}

/// Where a job stands, with exactly the data valid there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker since then. A `refusal` keeps it from the worker that gave it.
    Queued { since: Timestamp, tries: Tries, refusal: Option<Refusal> },
    /// A worker is chosen, and the job, which waited since then, may be on its way to it.
    Assigned { attempt: Attempt, waited_since: Timestamp, refusal: Option<Refusal> },
    /// The job was sent and no answer came, for this reason: it may be running there.
    Unknown { attempt: Attempt, since: Timestamp, reason: String },
    /// The worker has taken the job.
    Running { attempt: Attempt, remote: RemoteId, since: Timestamp },
    /// The run is over; what the worker knows of it is being fetched before it forgets.
    Collecting { attempt: Attempt, remote: RemoteId, verdict: Verdict },
    /// Over for its client, while the worker may still be busy with it: the slot stays taken until it is not.
    Settling { outcome: Outcome, at: Timestamp, attempt: Attempt, remote: Option<RemoteId> },
    /// Over for good.
    Finished { outcome: Outcome, at: Timestamp, attempts: u32, last: Option<Last> },
}

/// What happened to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// A slot on this worker was claimed for it.
    Assigned { worker: WorkerKey },
    /// The worker did not take it and said so, or was not reached before a byte of the job was sent: the job keeps its place in
    /// the queue, and no attempt is counted.
    NotTaken,
    /// The worker refused it for the job's own fault. It is tried on one other worker, if there is one.
    Refused { message: String, elsewhere: Elsewhere },
    /// The worker has it, under this name.
    Accepted { remote: RemoteId },
    /// It was sent and no answer came; the reason in words.
    Unanswered { reason: String },
    /// The worker can tell, and says that it never took it.
    Absent,
    /// Nobody can say whether the worker took it, and the policy is not to run it twice. The worker may still run it.
    GivenUp,
    /// The run is over.
    Ended { verdict: Verdict },
    /// The worker is gone, or has forgotten the job, and that is the job's end; the reason in words.
    Lost { reason: String },
    /// The attempt is lost or its outcome unknown, and the policy is to run the job again.
    Requeued,
    /// The attempt is lost, as were too many before it.
    Exhausted { reason: String },
    /// All that is to be kept of the run is kept.
    Collected,
    /// The run's receipt does not hold, or what came of the run is not what the receipt says; the reason in words.
    Disproved { reason: String },
    /// Its client wants it no more.
    Cancelled,
    /// It took longer than it was allowed to.
    Overdue { deadline: Deadline },
    /// The worker is seen to be free of it.
    Settled,
    /// Its client wants it to run again.
    Retried,
}

/// A time that a job may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    Waiting(Duration),
    Running(Duration),
}

/// Whether the allowlist has another worker that a refused job could be tried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    Possible,
    Impossible,
}

/// The event cannot happen in the state. A programming error, or another writer was first.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidTransition {
    pub state: Box<JobState>,
    pub event: Box<JobEvent>,
}

impl fmt::Display for InvalidTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} cannot happen to a job that is {:?}", self.event, self.state)
    }
}

impl std::error::Error for InvalidTransition {}

/// The state that follows `event`.
pub fn apply(state: JobState, event: JobEvent, now: Timestamp) -> Result<JobState, InvalidTransition> {
    use JobState::{Assigned, Collecting, Finished, Queued, Running, Settling, Unknown};
    Ok(match (state, event) {
        // In the queue.
        (Queued { since, tries, refusal }, JobEvent::Assigned { worker }) => {
            let attempt = Attempt { number: tries.attempts + 1, losses: tries.losses, worker, since: now };
            Assigned { attempt, waited_since: since, refusal }
        }
        (Queued { tries, .. }, JobEvent::Cancelled) => over(Outcome::Cancelled, tries.attempts, None, now),
        (Queued { tries, .. }, JobEvent::Overdue { deadline }) => {
            over(deadline.outcome(), tries.attempts, None, now)
        }

        // On its way.
        (Assigned { attempt, waited_since, refusal }, JobEvent::NotTaken) => {
            let tries = Tries { attempts: attempt.number - 1, losses: attempt.losses };
            Queued { since: waited_since, tries, refusal }
        }
        (
            Assigned { attempt, waited_since, refusal: None },
            JobEvent::Refused { message, elsewhere: Elsewhere::Possible },
        ) => {
            let refusal = Some(Refusal { worker: attempt.worker, message });
            Queued { since: waited_since, tries: attempt.tries(), refusal }
        }
        // The second worker agrees with the first, or there is no second.
        (Assigned { attempt, .. }, JobEvent::Refused { message, .. }) => {
            finished(attempt, None, Outcome::failed(FailureCode::Rejected, message), now)
        }
        (Assigned { attempt, .. } | Unknown { attempt, .. }, JobEvent::Accepted { remote }) => {
            Running { attempt, remote, since: now }
        }
        (Assigned { attempt, .. }, JobEvent::Unanswered { reason }) => {
            Unknown { attempt, since: now, reason }
        }

        // Nobody knows.
        (Unknown { attempt, .. }, JobEvent::Absent) => {
            Queued { since: now, tries: attempt.tries(), refusal: None }
        }
        (Unknown { attempt, reason, .. }, JobEvent::GivenUp) => {
            let message = format!(
                "the job was sent to worker {} and may have run there, but the answer was lost ({reason}); \
                 it was not run again",
                attempt.worker
            );
            settling(attempt, None, Outcome::failed(FailureCode::OutcomeUnknown, message), now)
        }

        // At its worker.
        (Running { attempt, remote, .. }, JobEvent::Ended { verdict }) => {
            Collecting { attempt, remote, verdict }
        }
        (Running { attempt, remote, .. }, JobEvent::Lost { reason }) => {
            finished(attempt, Some(remote), Outcome::failed(FailureCode::WorkerLost, reason), now)
        }
        (Running { attempt, .. } | Unknown { attempt, .. }, JobEvent::Requeued) => {
            let tries = Tries { attempts: attempt.number, losses: attempt.losses + 1 };
            Queued { since: now, tries, refusal: None }
        }
        (Running { attempt, remote, .. }, JobEvent::Exhausted { reason }) => {
            let outcome = exhausted(&attempt, &reason);
            finished(attempt, Some(remote), outcome, now)
        }
        (Unknown { attempt, .. }, JobEvent::Exhausted { reason }) => {
            let outcome = exhausted(&attempt, &reason);
            settling(attempt, None, outcome, now)
        }
        (Running { attempt, remote, .. }, JobEvent::Overdue { deadline }) => {
            settling(attempt, Some(remote), deadline.outcome(), now)
        }
        (Collecting { attempt, remote, verdict }, JobEvent::Collected) => {
            finished(attempt, Some(remote), Outcome::of_run(verdict), now)
        }
        (Collecting { attempt, remote, .. }, JobEvent::Disproved { reason }) => {
            finished(attempt, Some(remote), Outcome::failed(FailureCode::BadReceipt, reason), now)
        }

        // Wanted no more, by its client: the worker may still be busy with it.
        (Assigned { attempt, .. } | Unknown { attempt, .. }, JobEvent::Cancelled) => {
            settling(attempt, None, Outcome::Cancelled, now)
        }
        (Running { attempt, remote, .. } | Collecting { attempt, remote, .. }, JobEvent::Cancelled) => {
            settling(attempt, Some(remote), Outcome::Cancelled, now)
        }
        (Settling { outcome, at, attempt, remote: None }, JobEvent::Accepted { remote }) => {
            Settling { outcome, at, attempt, remote: Some(remote) }
        }
        (state @ Settling { remote: None, .. }, JobEvent::Unanswered { .. }) => state,
        (
            Settling { outcome, at, attempt, remote },
            JobEvent::Settled
            | JobEvent::NotTaken
            | JobEvent::Refused { .. }
            | JobEvent::Absent
            | JobEvent::Ended { .. }
            | JobEvent::Collected
            | JobEvent::Disproved { .. },
        ) => finished(attempt, remote, outcome, at),

        // Its outputs came after its end, and are not those that were signed: what was said of the run counts no more. How a client
        // or a deadline ended it still does.
        (Finished { outcome, at, attempts, last }, JobEvent::Disproved { reason })
            if outcome.is_the_runs() =>
        {
            over(Outcome::failed(FailureCode::BadReceipt, reason), attempts, last, at)
        }
        (Finished { outcome: Outcome::Failed(_) | Outcome::Cancelled, attempts, .. }, JobEvent::Retried) => {
            Queued { since: now, tries: Tries { attempts, losses: 0 }, refusal: None }
        }
        // Spelled out, so that a new state or event is a question here and not a silent refusal.
        (
            state @ (Queued { .. }
            | Assigned { .. }
            | Unknown { .. }
            | Running { .. }
            | Collecting { .. }
            | Settling { .. }
            | Finished { .. }),
            event,
        ) => return Err(InvalidTransition { state: Box::new(state), event: Box::new(event) }),
    })
}

fn over(outcome: Outcome, attempts: u32, last: Option<Last>, at: Timestamp) -> JobState {
    JobState::Finished { outcome, at, attempts, last }
}

fn finished(attempt: Attempt, remote: Option<RemoteId>, outcome: Outcome, at: Timestamp) -> JobState {
    over(outcome, attempt.number, Some(Last { worker: attempt.worker, remote }), at)
}

fn settling(attempt: Attempt, remote: Option<RemoteId>, outcome: Outcome, at: Timestamp) -> JobState {
    JobState::Settling { outcome, at, attempt, remote }
}

fn exhausted(attempt: &Attempt, reason: &str) -> Outcome {
    let message = format!("given up after {} lost attempts; the last: {reason}", attempt.losses + 1);
    Outcome::failed(FailureCode::DispatchExhausted, message)
}

impl Attempt {
    fn tries(&self) -> Tries {
        Tries { attempts: self.number, losses: self.losses }
    }
}

impl Deadline {
    fn outcome(self) -> Outcome {
        let message = match self {
            Self::Waiting(limit) => format!("no worker took the job within its queue_timeout of {limit:?}"),
            Self::Running(limit) => format!("the job ran for longer than its timeout of {limit:?}"),
        };
        Outcome::failed(FailureCode::DeadlineExceeded, message)
    }
}

/// A job's state as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolStatus {
    Queued,
    Dispatched,
    Running,
    Completed,
    Failed,
    Cancelled,
}

impl PoolStatus {
    pub const ALL: [PoolStatus; 6] =
        [Self::Queued, Self::Dispatched, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl JobState {
    /// The state that every job begins in.
    pub fn submitted(at: Timestamp) -> Self {
        Self::Queued { since: at, tries: Tries::default(), refusal: None }
    }

    pub fn status(&self) -> PoolStatus {
        match self {
            Self::Queued { .. } => PoolStatus::Queued,
            Self::Assigned { .. } | Self::Unknown { .. } => PoolStatus::Dispatched,
            // Until its results are kept a job is not over: whoever sees `completed` finds everything in place.
            Self::Running { .. } | Self::Collecting { .. } => PoolStatus::Running,
            Self::Settling { outcome, .. } | Self::Finished { outcome, .. } => match outcome {
                Outcome::Completed => PoolStatus::Completed,
                Outcome::Failed(_) => PoolStatus::Failed,
                Outcome::Cancelled => PoolStatus::Cancelled,
            },
        }
    }

    /// How and when it ended for its client, if it has.
    pub fn end(&self) -> Option<(&Outcome, Timestamp)> {
        match self {
            Self::Settling { outcome, at, .. } | Self::Finished { outcome, at, .. } => Some((outcome, *at)),
            Self::Queued { .. }
            | Self::Assigned { .. }
            | Self::Unknown { .. }
            | Self::Running { .. }
            | Self::Collecting { .. } => None,
        }
    }

    /// The attempt under way.
    pub fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Assigned { attempt, .. }
            | Self::Unknown { attempt, .. }
            | Self::Running { attempt, .. }
            | Self::Collecting { attempt, .. }
            | Self::Settling { attempt, .. } => Some(attempt),
            Self::Queued { .. } | Self::Finished { .. } => None,
        }
    }

    /// The worker that has the job, or may have it, or had it last.
    pub fn worker(&self) -> Option<WorkerKey> {
        match self {
            Self::Finished { last, .. } => last.as_ref().map(|last| last.worker),
            other => other.attempt().map(|attempt| attempt.worker),
        }
    }

    /// Where the job's bytes are, once a worker has taken it.
    pub fn place(&self) -> Option<Place> {
        let remote = match self {
            Self::Queued { .. } | Self::Assigned { .. } | Self::Unknown { .. } => None,
            Self::Running { remote, .. } | Self::Collecting { remote, .. } => Some(remote.clone()),
            Self::Settling { remote, .. } => remote.clone(),
            Self::Finished { last, .. } => last.as_ref().and_then(|last| last.remote.clone()),
        };
        Some(Place { worker: self.worker()?, remote: remote? })
    }

    /// Attempts begun so far.
    pub fn attempts(&self) -> u32 {
        match self {
            Self::Queued { tries, .. } => tries.attempts,
            Self::Finished { attempts, .. } => *attempts,
            other => other.attempt().map_or(0, |attempt| attempt.number),
        }
    }

    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Finished { .. })
    }

    /// Whether its client may have it run again: then its work is kept.
    pub fn may_be_retried(&self) -> bool {
        matches!(self, Self::Finished { outcome: Outcome::Failed(_) | Outcome::Cancelled, .. })
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queued { .. } => f.write_str("queued"),
            Self::Assigned { attempt, .. } => write!(f, "assigned to worker {}", attempt.worker),
            Self::Unknown { attempt, .. } => write!(f, "perhaps running on worker {}", attempt.worker),
            Self::Running { attempt, remote, .. } => {
                write!(f, "running on worker {} as {remote}", attempt.worker)
            }
            Self::Collecting { attempt, .. } => {
                write!(f, "over on worker {}, its results being fetched", attempt.worker)
            }
            Self::Settling { outcome, attempt, .. } => {
                write!(f, "{outcome}; worker {} may still be busy with it", attempt.worker)
            }
            Self::Finished { outcome, .. } => outcome.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
