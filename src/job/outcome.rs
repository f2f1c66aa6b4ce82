//! How a job ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the worker said at the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The program exited with 0.
    Completed,
    /// It did not; the code where the worker told one.
    Failed { exit_code: Option<i64> },
}

/// How a job ended, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Completed,
    Failed(Failure),
    /// Its client wanted it no more.
    Cancelled,
}

/// Why a job failed: a word for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: FailureCode,
    pub message: String,
}

/// The machine words of `error.code` in a job's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The program ran and exited with another code than 0.
    JobFailed,
    /// The workers refused the job for its own fault.
    Rejected,
    /// The worker that ran the job is gone or has forgotten it.
    WorkerLost,
    /// The job was sent, no answer came, and nobody can say whether it ran.
    OutcomeUnknown,
    /// It waited or ran for longer than it was allowed to.
    DeadlineExceeded,
    /// It was lost with its worker as often as it may be.
    DispatchExhausted,
    /// What the worker says and gives of the run is not what its key has signed.
    BadReceipt,
}

impl FailureCode {
    pub const ALL: [FailureCode; 7] = [
        Self::JobFailed,
        Self::Rejected,
        Self::WorkerLost,
        Self::OutcomeUnknown,
        Self::DeadlineExceeded,
        Self::DispatchExhausted,
        Self::BadReceipt,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::JobFailed => "job_failed",
            Self::Rejected => "rejected",
            Self::WorkerLost => "worker_lost",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::DispatchExhausted => "dispatch_exhausted",
            Self::BadReceipt => "bad_receipt",
        }
    }
}

impl Outcome {
    /// The outcome of a run that its worker saw to the end.
    pub fn of_run(verdict: Verdict) -> Self {
        let message = match verdict {
            Verdict::Completed => return Self::Completed,
            Verdict::Failed { exit_code: Some(code) } => format!("the job exited with code {code}"),
            Verdict::Failed { exit_code: None } => "the worker reports that the job failed".to_owned(),
        };
        Self::failed(FailureCode::JobFailed, message)
    }

    /// Whether this is what the run's worker said, and nobody else.
    pub fn is_the_runs(&self) -> bool {
        match self {
            Self::Completed => true,
            Self::Failed(failure) => failure.code == FailureCode::JobFailed,
            Self::Cancelled => false,
        }
    }

    /// Whether what came of the run is not what its worker has signed.
    pub fn is_disproved(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.code == FailureCode::BadReceipt)
    }

    pub fn failed(code: FailureCode, message: impl Into<String>) -> Self {
        Self::Failed(Failure { code, message: message.into() })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Failed(failure) => write!(f, "failed ({:?}): {}", failure.code, failure.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_same_word_everywhere() {
        for code in FailureCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
