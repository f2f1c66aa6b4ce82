//! What came of sending jobs to workers, counted since the process started.

use crate::telemetry::metrics::{Counters, Metrics};
use crate::upstream::SendOutcome;

const ANSWERS: [&str; 6] = ["accepted", "refused", "throttled", "unreachable", "unknown", "unreadable"];

/// What the dispatcher counts; clones share it.
#[derive(Clone, Debug)]
pub struct DispatchMetrics {
    sends: Counters<{ ANSWERS.len() }>,
}

impl DispatchMetrics {
    pub(super) fn new() -> Self {
        let help = "Jobs sent to a worker, by what came of it.";
        Self { sends: Counters::new("trusted_pool_dispatches_total", help, "answer", ANSWERS) }
    }

    pub fn add_to(&self, metrics: &Metrics) {
        metrics.add(self.sends.family());
    }

    pub(super) fn sent(&self, outcome: &SendOutcome) {
        let answer = match outcome {
            SendOutcome::Accepted { .. } => 0,
            SendOutcome::Refused { .. } => 1,
            SendOutcome::Throttled { .. } => 2,
            SendOutcome::Unreachable { .. } => 3,
            SendOutcome::Unknown { .. } => 4,
            // The payload that the pool itself keeps.
            SendOutcome::Unreadable { .. } => 5,
        };
        self.sends.at(answer).inc();
    }
}
