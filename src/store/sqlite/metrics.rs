//! How the store fares, counted since it was opened.

use std::time::Duration;

use prometheus::{Histogram, IntCounter};

use crate::telemetry::metrics::{Metrics, counter, histogram};

/// Upper bounds in seconds: from a disk with a battery to one that is about to fail.
const COMMIT_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What the store counts; clones share it.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    commits: Histogram,
    changes: IntCounter,
    failures: IntCounter,
}

impl StoreMetrics {
    pub(super) fn new() -> Self {
        Self {
            commits: histogram(
                "trusted_pool_store_commit_duration_seconds",
                "Seconds that a commit took to be on the disk; its count is the number of commits.",
                &COMMIT_BUCKETS,
            ),
            changes: counter(
                "trusted_pool_store_changes_total",
                "Changes committed to the store; many share a commit when many come at once.",
            ),
            failures: counter(
                "trusted_pool_store_commit_failures_total",
                "Commits that failed, because the disk was full or broken; nothing of them was acknowledged.",
            ),
        }
    }

    pub fn add_to(&self, metrics: &Metrics) {
        metrics.add(self.commits.clone());
        metrics.add(self.changes.clone());
        metrics.add(self.failures.clone());
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.get_sample_count()
    }

    pub(super) fn committed(&self, changes: usize, took: Duration) {
        self.commits.observe(took.as_secs_f64());
        self.changes.inc_by(changes as u64);
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }
}
