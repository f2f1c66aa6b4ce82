//! What happened to jobs, counted since the process started.

use std::time::Duration;

use prometheus::{Histogram, IntCounter};

use crate::job::{FailureCode, JobState, Outcome};
use crate::telemetry::metrics::{Counters, Metrics, counter, histogram};
use crate::time::Timestamp;

/// Upper bounds in seconds: from a job that finds a free worker to one that waits for days.
const WAIT_BUCKETS: [f64; 14] =
    [0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10800.0, 43200.0, 86400.0, 259200.0];

/// Upper bounds in seconds: from a script that prints a line to a job of days.
const RUN_BUCKETS: [f64; 14] =
    [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 10800.0, 43200.0, 86400.0, 259200.0];

const OUTCOMES: usize = FailureCode::ALL.len() + 2;

/// What the queue counts; clones share it.
#[derive(Clone, Debug)]
pub struct QueueMetrics {
    submitted: IntCounter,
    retried: IntCounter,
    ended: Counters<OUTCOMES>,
    waited: Histogram,
    ran: Histogram,
}

impl QueueMetrics {
    pub(super) fn new() -> Self {
        Self {
            submitted: counter(
                "trusted_pool_jobs_submitted_total",
                "Jobs taken in and durable; a repeated submit of the same job is none.",
            ),
            retried: counter(
                "trusted_pool_jobs_retried_total",
                "Jobs that had ended and were queued again by their clients.",
            ),
            ended: Counters::new(
                "trusted_pool_jobs_ended_total",
                "Jobs that ended for their clients, by outcome: completed, cancelled, or why they failed.",
                "outcome",
                outcomes(),
            ),
            waited: histogram(
                "trusted_pool_job_wait_seconds",
                "Seconds from when a job was queued until a worker said that it took it.",
                &WAIT_BUCKETS,
            ),
            ran: histogram(
                "trusted_pool_job_run_seconds",
                "Seconds from when a worker took a job until the run ended, was lost, or was given up.",
                &RUN_BUCKETS,
            ),
        }
    }

    pub fn add_to(&self, metrics: &Metrics) {
        metrics.add(self.submitted.clone());
        metrics.add(self.retried.clone());
        metrics.add(self.ended.family());
        metrics.add(self.waited.clone());
        metrics.add(self.ran.clone());
    }

    pub(super) fn submitted(&self) {
        self.submitted.inc();
    }

    pub(super) fn retried(&self) {
        self.retried.inc();
    }

    /// Counts a step; `elapsed` is the time since a time that the state before bears.
    pub(super) fn stepped(
        &self,
        before: &JobState,
        after: &JobState,
        elapsed: impl Fn(Timestamp) -> Duration,
    ) {
        if let (None, Some((outcome, _))) = (before.end(), after.end()) {
            self.ended.at(place(outcome)).inc();
        }
        match (before, after) {
            (JobState::Assigned { waited_since, .. }, JobState::Running { .. }) => {
                self.waited.observe(elapsed(*waited_since).as_secs_f64());
            }
            (JobState::Running { since, .. }, _) => self.ran.observe(elapsed(*since).as_secs_f64()),
            (_, _) => {}
        }
    }
}

fn outcomes() -> [&'static str; OUTCOMES] {
    std::array::from_fn(|index| match index {
        0 => "completed",
        1 => "cancelled",
        _ => FailureCode::ALL[index - 2].as_str(),
    })
}

fn place(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Completed => 0,
        Outcome::Cancelled => 1,
        Outcome::Failed(failure) => 2 + failure.code as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_own_place() {
        assert_eq!(outcomes()[place(&Outcome::Completed)], "completed");
        assert_eq!(outcomes()[place(&Outcome::Cancelled)], "cancelled");
        for code in FailureCode::ALL {
            assert_eq!(outcomes()[place(&Outcome::failed(code, ""))], code.as_str());
        }
    }
}
