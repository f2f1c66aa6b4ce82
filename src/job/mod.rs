//! What a job is: its id, its state and the one function that moves it, its manifest. Pure.

mod client;
pub mod manifest;
mod outcome;
mod state;
pub mod terms;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use client::{ClientName, InvalidClientName};
pub use manifest::Manifest;
pub use outcome::{Failure, FailureCode, Outcome, Verdict};
pub use state::{
    Attempt, Deadline, Elsewhere, InvalidTransition, JobEvent, JobState, Last, Place, PoolStatus, Refusal,
    RemoteId, Tries, apply,
};
pub use terms::{AfterLoss, DefaultTerms, OnUnknown, OnWorkerLost, Terms};

/// A job's name in the pool: `pool-` and 24 lower-case hexadecimal digits (96 random bits, so that
/// an id cannot be guessed).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Box<str>);

const ID_PREFIX: &str = "pool-";
const ID_DIGITS: std::ops::RangeInclusive<usize> = 16..=64;

impl JobId {
    /// The id made of these random bits.
    pub fn from_random(bits: [u8; 12]) -> Self {
        let mut id = String::from(ID_PREFIX);
        for byte in bits {
            id.push_str(&format!("{byte:02x}"));
        }
        Self(id.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is no job id: `pool-` and 16 to 64 lower-case hexadecimal digits.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidJobId;

impl fmt::Display for InvalidJobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a job id is `pool-` and 16 to 64 lower-case hexadecimal digits")
    }
}

impl std::error::Error for InvalidJobId {}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        let digits = text.strip_prefix(ID_PREFIX).ok_or(InvalidJobId)?;
        let well_formed = ID_DIGITS.contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if well_formed { Ok(Self(text.into())) } else { Err(InvalidJobId) }
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidJobId;

    fn try_from(text: String) -> Result<Self, InvalidJobId> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How soon a waiting job is taken: all of a higher priority go before any of a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    // In the order in which they are taken: `Ord` is the queue's order.
    High,
    #[default]
    Normal,
    Low,
}

/// The text names no priority.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidPriority;

impl fmt::Display for InvalidPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a priority is `high`, `normal` or `low`")
    }
}

impl std::error::Error for InvalidPriority {}

impl FromStr for Priority {
    type Err = InvalidPriority;

    fn from_str(text: &str) -> Result<Self, InvalidPriority> {
        match text {
            "high" => Ok(Self::High),
            "normal" => Ok(Self::Normal),
            "low" => Ok(Self::Low),
            _ => Err(InvalidPriority),
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_nothing_else_passes() {
        let id = JobId::from_random([0xab; 12]);
        assert_eq!(id.as_str(), "pool-abababababababababababab");
        assert_eq!(id.as_str().parse(), Ok(id));
        for wrong in
            ["", "pool-", "pool-abc", "job_1_1", "pool-ABABABABABABABABABABABAB", "pool-../../../etc/passwd"]
        {
            assert_eq!(wrong.parse::<JobId>(), Err(InvalidJobId), "{wrong}");
        }
    }

    #[test]
    fn priorities_sort_in_the_order_in_which_they_are_taken() {
        assert!(Priority::High < Priority::Normal && Priority::Normal < Priority::Low);
        assert_eq!("low".parse(), Ok(Priority::Low));
        assert_eq!("urgent".parse::<Priority>(), Err(InvalidPriority));
    }
}
