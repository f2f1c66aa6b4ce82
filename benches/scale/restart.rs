//! A store with many jobs is opened again: the time until the queue knows them, and the memory that it takes.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use tokio::sync::Notify;
use trusted_pool::job::{JobState, Last, Outcome};
use trusted_pool::queue::Queue;
use trusted_pool::store::sqlite::SqliteStore;
use trusted_pool::store::{Inserted, Store, Transition};
use trusted_pool::time::Clock;
use trusted_pool::worker::WorkerKey;
use trusted_pool::worker::identity::SecretKey;

use crate::decisions::{TERMS, job};

/// Writers at once, so that commits are shared.
const WRITERS: usize = 512;

/// Of so many jobs one is not finished.
const FINISHED_SHARE: usize = 10;

pub async fn measure(sizes: &[usize]) {
    println!(
        "\n| jobs in the store | waiting | until the queue knows them | memory of a waiting job |\n|---|---|---|---|"
    );
    for jobs in sizes {
        restart(*jobs, FINISHED_SHARE).await;
    }
    restart(sizes[0], 1).await;
}

/// Of the jobs, one in `share` waits.
async fn restart(jobs: usize, share: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pool.db");
    fill(Arc::new(SqliteStore::open(&path).expect("a new store")), jobs, share).await;
    let (before, begun) = (memory(), Instant::now());
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&path).expect("the store"));
    let queue = Queue::new(Arc::clone(&store), None, Clock::System, TERMS, Arc::new(Notify::new()));
    queue.recover().await.expect("the store reads");
    store.spooled().await.expect("the store reads");
    store.oldest_kept(usize::MAX).await.expect("the store reads");
    let took = begun.elapsed();
    // Memory that is free goes back to the system a little later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let waiting = queue.waiting_jobs();
    let each = memory().saturating_sub(before) / waiting.max(1) as u64;
    println!("| {jobs} | {waiting} | {took:.2?} | {each} B |");
}

async fn fill(store: Arc<SqliteStore>, jobs: usize, share: usize) {
    let worker = SecretKey::generate().public();
    stream::iter(0..jobs)
        .map(|at| {
            let store = Arc::clone(&store);
            async move {
                let inserted = store.insert(job(at)).await.expect("there is room");
                let Inserted::New(row) = inserted else { panic!("no two ids are the same") };
                if at % share != 0 {
                    let step =
                        Transition { id: row.id, version: row.version, state: over(worker), results: None };
                    store.transition(step).await.expect("there is room");
                }
            }
        })
        .buffer_unordered(WRITERS)
        .collect::<()>()
        .await;
}

fn over(worker: WorkerKey) -> JobState {
    let last = Some(Last { worker, remote: Some("job-1".into()) });
    JobState::Finished { outcome: Outcome::Completed, at: Clock::System.now(), attempts: 1, last }
}

/// Resident, in bytes.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or_default() << 10
}
