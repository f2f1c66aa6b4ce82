//! Which job goes to which worker: the time for one decision, and the memory of one waiting job.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use trusted_pool::job::{ClientName, DefaultTerms, JobId, OnUnknown, OnWorkerLost, Priority, Terms};
use trusted_pool::pool::Pool;
use trusted_pool::queue::Queue;
use trusted_pool::store::memory::MemoryStore;
use trusted_pool::store::{NewJob, Payload, Work};
use trusted_pool::time::{Clock, Timestamp};
use trusted_pool::upstream::HealthReport;
use trusted_pool::upstream::evidence::Evidence;
use trusted_pool::worker::identity::SecretKey;
use trusted_pool::worker::trust::Identity;
use trusted_pool::worker::{Dialect, WorkerSpec};

/// Clients, and kinds of workers that jobs ask for.
const CLIENTS: usize = 100;
const KINDS: usize = 16;

/// What a pool has when nobody configures it.
pub const TERMS: DefaultTerms = DefaultTerms {
    on_unknown: OnUnknown::Hold,
    on_worker_lost: OnWorkerLost::Fail,
    max_attempts: 3,
    queue_timeout: None,
};

/// Decisions that are timed.
const DECISIONS: usize = 20_000;

pub async fn measure(sizes: &[usize]) {
    println!("\n| waiting jobs | workers | a decision (mean) | slowest 1 % |\n|---|---|---|---|");
    let largest = sizes[0];
    for jobs in sizes {
        decide(*jobs, 10_000).await;
    }
    for workers in [100, 1000] {
        decide(largest, workers).await;
    }
}

async fn decide(jobs: usize, workers: usize) {
    let pool = pool(&specs(workers));
    let queue = queue(jobs).await;
    let now = Clock::System.now();
    let (mut held, mut times) = (Vec::new(), Vec::new());
    while times.len() < DECISIONS.min(jobs) {
        let begun = Instant::now();
        let Some(claimed) = queue.claim(|class| pool.claim(class, now)) else {
            // Every slot is taken: the jobs there end.
            assert!(!held.is_empty(), "no job has a worker");
            held.clear();
            continue;
        };
        times.push(begun.elapsed());
        held.push(claimed);
    }
    times.sort();
    let mean = times.iter().sum::<Duration>() / times.len() as u32;
    println!("| {jobs} | {workers} | {mean:.1?} | {:.1?} |", times[times.len() * 99 / 100]);
}

/// Workers of all kinds, each with four slots.
pub fn specs(number: usize) -> Vec<WorkerSpec> {
    (0..number)
        .map(|at| WorkerSpec {
            key: SecretKey::generate().public(),
            endpoint: format!("http://w{at}.example:8443").parse().expect("it is an endpoint"),
            max_concurrent_jobs: 4.try_into().ok(),
            labels: labels(at),
        })
        .collect()
}

fn labels(at: usize) -> BTreeMap<String, String> {
    BTreeMap::from([("kind".to_owned(), (at % KINDS).to_string())])
}

/// All of them found healthy.
pub fn pool(specs: &[WorkerSpec]) -> Pool {
    let pool = Pool::new(specs.to_vec(), Vec::new(), Identity::Claimed, Arc::new(Notify::new()));
    for spec in specs {
        let report = HealthReport {
            worker_id: Some(spec.key.to_string()),
            dialect: Dialect::V2,
            capacity: Some(4),
            address: None,
            evidence: Evidence::Claimed,
        };
        pool.observe(spec, Ok(report), Clock::System.now());
    }
    pool
}

async fn queue(jobs: usize) -> Queue {
    let store = Arc::new(MemoryStore::new());
    let queue = Queue::new(store, None, Clock::System, TERMS, Arc::new(Notify::new()));
    for at in 0..jobs {
        queue.submit(job(at)).await.expect("memory takes every job");
    }
    queue
}

/// One of many clients' jobs, for one kind of workers.
pub fn job(at: usize) -> NewJob {
    let client: ClientName = format!("client-{}", at % CLIENTS).parse().expect("it is a name");
    let work = Work {
        manifest: r#"{"entrypoint":"main.sh","interpreter":"sh"}"#.to_owned(),
        boundary: "boundary".to_owned(),
        payload: Payload::Inline(Bytes::from_static(&[0x5a; 100])),
        sha256: [0; 32],
    };
    NewJob {
        id: JobId::from_random(rand::random()),
        client: Some(client),
        priority: Priority::Normal,
        submitted_at: Timestamp::from_micros(1_800_000_000_000_000 + at as i64),
        terms: Arc::new(Terms { requires: labels(at), ..Terms::default() }),
        work: Arc::new(work),
        idempotency: None,
    }
}
