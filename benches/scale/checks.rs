//! How evenly 10,000 workers are asked for their health.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use trusted_pool::api::OutputPath;
use trusted_pool::job::{JobId, RemoteId};
use trusted_pool::pool::prober::Prober;
use trusted_pool::store::{Logs, Work};
use trusted_pool::telemetry::audit::AuditLog;
use trusted_pool::time::Clock;
use trusted_pool::upstream::download::Opened;
use trusted_pool::upstream::evidence::Evidence;
use trusted_pool::upstream::{
    Answer, CheckFailure, Contact, HealthReport, KeyAnswer, Patience, RemoteStatus, SendOutcome, Upstream,
};
use trusted_pool::worker::{Dialect, WorkerKey, WorkerSpec};

use crate::decisions::{pool, specs};

const WORKERS: usize = 10_000;

const INTERVAL: Duration = Duration::from_secs(5);

/// What is counted together.
const BUCKET: Duration = Duration::from_millis(100);

/// Rounds that are looked at; the first, when all are asked at once, is not.
const ROUNDS: u32 = 3;

pub async fn measure() {
    let directory = tempfile::tempdir().expect("a directory");
    let audit = AuditLog::open(directory.path().join("audit.log")).expect("a new log");
    let asked = Arc::new(Counted { begun: Instant::now(), at: Mutex::default() });
    let pool = pool(&specs(WORKERS));
    let upstream: Arc<dyn Upstream> = Arc::clone(&asked) as _;
    let prober = Arc::new(Prober::new(pool, upstream, Clock::System, INTERVAL, audit));
    let rounds = INTERVAL * (ROUNDS + 1);
    let _ = tokio::time::timeout(rounds, prober.run()).await;
    let buckets = (rounds.as_millis() / BUCKET.as_millis()) as usize;
    let first = (INTERVAL.as_millis() / BUCKET.as_millis()) as usize;
    let mut counts = vec![0; buckets + 1];
    for at in asked.at.lock().expect("it is not poisoned").iter() {
        counts[((at.as_millis() / BUCKET.as_millis()) as usize).min(buckets)] += 1;
    }
    let mut counts = counts[first..buckets].to_vec();
    counts.sort_unstable();
    let (least, median, most) = (counts[0], counts[counts.len() / 2], counts[counts.len() - 1]);
    println!(
        "\nchecks of {WORKERS} workers every {INTERVAL:?}: in each {BUCKET:?} {least} to {most}, median {median}"
    );
}

/// Answers at once, and notes when it was asked.
struct Counted {
    begun: Instant,
    at: Mutex<Vec<Duration>>,
}

#[async_trait]
impl Upstream for Counted {
    async fn health(&self, spec: &Arc<WorkerSpec>) -> Result<HealthReport, CheckFailure> {
        self.at.lock().expect("it is not poisoned").push(self.begun.elapsed());
        Ok(HealthReport {
            worker_id: Some(spec.key.to_string()),
            dialect: Dialect::V2,
            capacity: Some(4),
            address: None,
            evidence: Evidence::Claimed,
        })
    }

    async fn submit(&self, _: &Contact, _: &JobId, _: u32, _: &Work) -> SendOutcome {
        unreachable!("only health is asked for")
    }

    async fn find_by_key(&self, _: &Contact, _: &str, _: Duration) -> KeyAnswer {
        unreachable!("only health is asked for")
    }

    async fn status(&self, _: &Contact, _: &RemoteId, _: Patience) -> Answer<RemoteStatus> {
        unreachable!("only health is asked for")
    }

    async fn cancel(&self, _: &Contact, _: &RemoteId) -> Answer<()> {
        unreachable!("only health is asked for")
    }

    async fn logs(&self, _: &Contact, _: &RemoteId, _: usize) -> Answer<Logs> {
        unreachable!("only health is asked for")
    }

    async fn listing(&self, _: &Contact, _: &RemoteId) -> Answer<String> {
        unreachable!("only health is asked for")
    }

    async fn open_output(&self, _: &Contact, _: &RemoteId, _: &OutputPath) -> Opened {
        unreachable!("only health is asked for")
    }

    fn forget(&self, _: WorkerKey) {}
}
