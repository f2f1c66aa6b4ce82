//! Where a job stands, and the one function that moves it.
//!
//! A job's state is its program counter: every step of an attempt can be entered from the state alone, so a
//! restart, a lost worker and normal progress are the same code. The states form this graph:
//!
//! ```text
//! Queued → Assigned → Running → Collecting → Finished
//!            └→ Unknown → Running | Queued | Finished
//! ```
//!
//! [`apply`] is total over state × event: what is not an edge of the graph is an [`InvalidTransition`], never a guess.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::outcome::{FailureCode, Outcome, Verdict};
use crate::time::Timestamp;
use crate::worker::WorkerKey;

/// A job's name on its worker.
pub type RemoteId = String;

/// One try at running a job: its number (from 1), its worker, and when the worker was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub number: u32,
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

/// Where a job stands, with exactly the data valid there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker. `attempts` counts those that were begun; a `refusal` keeps the job from the
    /// worker that gave it.
    Queued { attempts: u32, refusal: Option<Refusal> },
    /// A worker is chosen, and the job may be on its way to it.
    Assigned { attempt: Attempt, refusal: Option<Refusal> },
    /// The job was sent and no answer came, for this reason: it may be running there.
    Unknown { attempt: Attempt, since: Timestamp, reason: String },
    /// The worker has taken the job.
    Running { attempt: Attempt, remote: RemoteId },
    /// The run is over; what the worker knows of it is being fetched before it forgets.
    Collecting { attempt: Attempt, remote: RemoteId, verdict: Verdict },
    /// Over for good, with this last attempt; `remote` is the job's name there, if the worker is known to have taken it.
    Finished { outcome: Outcome, at: Timestamp, attempt: Attempt, remote: Option<RemoteId> },
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
    /// Nobody can say whether the worker took it, and the policy is not to run it twice.
    GivenUp,
    /// The run is over.
    Ended { verdict: Verdict },
    /// The worker is gone, or has forgotten the job; the reason in words.
    Lost { reason: String },
    /// All that is to be kept of the run is kept.
    Collected,
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
    use JobState::{Assigned, Collecting, Finished, Queued, Running, Unknown};
    Ok(match (state, event) {
        (Queued { attempts, refusal }, JobEvent::Assigned { worker }) => {
            Assigned { attempt: Attempt { number: attempts + 1, worker, since: now }, refusal }
        }
        (Assigned { attempt, refusal }, JobEvent::NotTaken) => {
            Queued { attempts: attempt.number - 1, refusal }
        }
        (
            Assigned { attempt, refusal: None },
            JobEvent::Refused { message, elsewhere: Elsewhere::Possible },
        ) => Queued { attempts: attempt.number, refusal: Some(Refusal { worker: attempt.worker, message }) },
        // The second worker agrees with the first, or there is no second.
        (Assigned { attempt, .. }, JobEvent::Refused { message, .. }) => {
            finished(attempt, None, Outcome::failed(FailureCode::Rejected, message), now)
        }
        (Assigned { attempt, .. } | Unknown { attempt, .. }, JobEvent::Accepted { remote }) => {
            Running { attempt, remote }
        }
        (Assigned { attempt, .. }, JobEvent::Unanswered { reason }) => {
            Unknown { attempt, since: now, reason }
        }
        (Unknown { attempt, .. }, JobEvent::Absent) => Queued { attempts: attempt.number, refusal: None },
        (Unknown { attempt, reason, .. }, JobEvent::GivenUp) => {
            let message = format!(
                "the job was sent to worker {} and may have run there, but the answer was lost ({reason}); \
                 it was not run again",
                attempt.worker
            );
            finished(attempt, None, Outcome::failed(FailureCode::OutcomeUnknown, message), now)
        }
        (Running { attempt, remote }, JobEvent::Ended { verdict }) => Collecting { attempt, remote, verdict },
        (Running { attempt, remote }, JobEvent::Lost { reason }) => {
            finished(attempt, Some(remote), Outcome::failed(FailureCode::WorkerLost, reason), now)
        }
        (Collecting { attempt, remote, verdict }, JobEvent::Collected) => {
            finished(attempt, Some(remote), Outcome::of_run(verdict), now)
        }
        // Spelled out, so that a new state or event is a question here and not a silent refusal.
        (
            state @ (Queued { .. }
            | Assigned { .. }
            | Unknown { .. }
            | Running { .. }
            | Collecting { .. }
            | Finished { .. }),
            event,
        ) => return Err(InvalidTransition { state: Box::new(state), event: Box::new(event) }),
    })
}

fn finished(attempt: Attempt, remote: Option<RemoteId>, outcome: Outcome, at: Timestamp) -> JobState {
    JobState::Finished { outcome, at, attempt, remote }
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
}

impl PoolStatus {
    pub const ALL: [PoolStatus; 5] =
        [Self::Queued, Self::Dispatched, Self::Running, Self::Completed, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

impl JobState {
    pub fn status(&self) -> PoolStatus {
        match self {
            Self::Queued { .. } => PoolStatus::Queued,
            Self::Assigned { .. } | Self::Unknown { .. } => PoolStatus::Dispatched,
            // Until its results are kept a job is not over: whoever sees `completed` finds everything in place.
            Self::Running { .. } | Self::Collecting { .. } => PoolStatus::Running,
            Self::Finished { outcome: Outcome::Completed, .. } => PoolStatus::Completed,
            Self::Finished { outcome: Outcome::Failed(_), .. } => PoolStatus::Failed,
        }
    }

    /// The worker that has the job, or may have it, or had it last.
    pub fn worker(&self) -> Option<WorkerKey> {
        match self {
            Self::Queued { .. } => None,
            Self::Assigned { attempt, .. }
            | Self::Unknown { attempt, .. }
            | Self::Running { attempt, .. }
            | Self::Collecting { attempt, .. }
            | Self::Finished { attempt, .. } => Some(attempt.worker),
        }
    }

    /// Where the job's bytes are, once a worker has taken it.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Queued { .. } | Self::Assigned { .. } | Self::Unknown { .. } => None,
            Self::Running { attempt, remote } | Self::Collecting { attempt, remote, .. } => {
                Some(Place { worker: attempt.worker, remote: remote.clone() })
            }
            Self::Finished { attempt, remote, .. } => {
                remote.clone().map(|remote| Place { worker: attempt.worker, remote })
            }
        }
    }

    /// Attempts begun so far.
    pub fn attempts(&self) -> u32 {
        match self {
            Self::Queued { attempts, .. } => *attempts,
            Self::Assigned { attempt, .. }
            | Self::Unknown { attempt, .. }
            | Self::Running { attempt, .. }
            | Self::Collecting { attempt, .. }
            | Self::Finished { attempt, .. } => attempt.number,
        }
    }

    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Finished { .. })
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queued { .. } => f.write_str("queued"),
            Self::Assigned { attempt, .. } => write!(f, "assigned to worker {}", attempt.worker),
            Self::Unknown { attempt, .. } => write!(f, "perhaps running on worker {}", attempt.worker),
            Self::Running { attempt, remote } => {
                write!(f, "running on worker {} as {remote}", attempt.worker)
            }
            Self::Collecting { attempt, .. } => {
                write!(f, "over on worker {}, its results being fetched", attempt.worker)
            }
            Self::Finished { outcome, .. } => outcome.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
