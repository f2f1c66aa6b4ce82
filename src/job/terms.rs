//! What a client asks of the pool for one job; whatever it leaves open, the pool's configuration decides.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What becomes of a job that was sent and may or may not have been taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// It fails as `outcome_unknown` and does not run again unless its client says so.
    #[default]
    Hold,
    /// It is queued again, and may run twice.
    Retry,
}

/// What becomes of a job whose worker is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnWorkerLost {
    /// It stays with its worker, however long that is out of reach. A job that its worker has forgotten fails.
    Hold,
    /// It is queued again.
    Retry,
    #[default]
    Fail,
}

/// The text names no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPolicy;

impl FromStr for OnUnknown {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "hold" => Ok(Self::Hold),
            "retry" => Ok(Self::Retry),
            _ => Err(UnknownPolicy),
        }
    }
}

impl FromStr for OnWorkerLost {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "hold" => Ok(Self::Hold),
            "retry" => Ok(Self::Retry),
            "fail" => Ok(Self::Fail),
            _ => Err(UnknownPolicy),
        }
    }
}

impl fmt::Display for OnUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hold => "hold",
            Self::Retry => "retry",
        })
    }
}

impl fmt::Display for OnWorkerLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hold => "hold",
            Self::Retry => "retry",
            Self::Fail => "fail",
        })
    }
}

/// What one job's client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unknown: Option<OnUnknown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_worker_lost: Option<OnWorkerLost>,
    /// Attempts that may be lost before the job fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How long it may wait for a worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<Duration>,
    /// How long it may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_timeout: Option<Duration>,
    /// Labels that its worker must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requires: BTreeMap<String, String>,
}

impl Terms {
    /// Whether a worker with these labels may be given the job.
    pub fn accept(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requires.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

/// What the pool does where a job's own terms say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultTerms {
    pub on_unknown: OnUnknown,
    pub on_worker_lost: OnWorkerLost,
    pub max_attempts: u32,
    pub queue_timeout: Option<Duration>,
}

/// What follows when an attempt is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLoss {
    Fail,
    Requeue,
    /// It would be queued again, had it not been lost too often.
    Exhausted,
}

impl DefaultTerms {
    pub fn on_unknown(&self, terms: &Terms) -> OnUnknown {
        terms.on_unknown.unwrap_or(self.on_unknown)
    }

    pub fn on_worker_lost(&self, terms: &Terms) -> OnWorkerLost {
        terms.on_worker_lost.unwrap_or(self.on_worker_lost)
    }

    pub fn queue_timeout(&self, terms: &Terms) -> Option<Duration> {
        terms.queue_timeout.or(self.queue_timeout)
    }

    /// What follows when the worker did not say whether it took the job; `losses` are those before this one.
    pub fn after_unknown(&self, terms: &Terms, losses: u32) -> AfterLoss {
        match self.on_unknown(terms) {
            OnUnknown::Hold => AfterLoss::Fail,
            OnUnknown::Retry => self.again(terms, losses),
        }
    }

    /// What follows when the job's worker is gone.
    pub fn after_worker_lost(&self, terms: &Terms, losses: u32) -> AfterLoss {
        match self.on_worker_lost(terms) {
            OnWorkerLost::Hold | OnWorkerLost::Fail => AfterLoss::Fail,
            OnWorkerLost::Retry => self.again(terms, losses),
        }
    }

    fn again(&self, terms: &Terms, losses: u32) -> AfterLoss {
        let max_attempts = terms.max_attempts.unwrap_or(self.max_attempts);
        if losses + 1 < max_attempts { AfterLoss::Requeue } else { AfterLoss::Exhausted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: DefaultTerms = DefaultTerms {
        on_unknown: OnUnknown::Hold,
        on_worker_lost: OnWorkerLost::Retry,
        max_attempts: 3,
        queue_timeout: None,
    };

    #[test]
    fn a_job_that_loses_its_workers_ends() {
        let after: Vec<_> =
            (0..4).map(|losses| DEFAULTS.after_worker_lost(&Terms::default(), losses)).collect();
        assert_eq!(
            after,
            [AfterLoss::Requeue, AfterLoss::Requeue, AfterLoss::Exhausted, AfterLoss::Exhausted]
        );
    }

    #[test]
    fn a_jobs_own_terms_win() {
        let terms = Terms {
            on_unknown: Some(OnUnknown::Retry),
            on_worker_lost: Some(OnWorkerLost::Fail),
            max_attempts: Some(2),
            ..Terms::default()
        };
        assert_eq!(DEFAULTS.after_unknown(&Terms::default(), 0), AfterLoss::Fail);
        assert_eq!(DEFAULTS.after_unknown(&terms, 0), AfterLoss::Requeue);
        assert_eq!(DEFAULTS.after_unknown(&terms, 1), AfterLoss::Exhausted);
        assert_eq!(DEFAULTS.after_worker_lost(&terms, 0), AfterLoss::Fail);
    }

    #[test]
    fn a_job_goes_only_where_every_label_it_requires_is() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let terms = Terms { requires: labels(&[("gpu", "a100")]), ..Terms::default() };
        assert!(terms.accept(&labels(&[("gpu", "a100"), ("zone", "b")])));
        assert!(!terms.accept(&labels(&[("gpu", "h100")])) && !terms.accept(&labels(&[])));
        assert!(Terms::default().accept(&labels(&[])));
    }
}
