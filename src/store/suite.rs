//! The promises of [`Store`], held against every store.

use std::sync::Arc;

use bytes::Bytes;

use super::memory::MemoryStore;
use super::sqlite::SqliteStore;
use super::*;
use crate::job::{Attempt, FailureCode, Last, Outcome, Terms};

mod agreement;
mod idempotency;
mod listing;
mod outputs;
mod writing;

/// Runs each rule on a fresh store of each kind.
macro_rules! every_store_holds {
    ($($rule:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $rule() { super::$rule($crate::store::suite::memory_store()).await })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $rule() {
                let directory = tempfile::tempdir().unwrap();
                super::$rule($crate::store::suite::sqlite_store(&directory)).await
            })*
        }
    };
}
use every_store_holds;

pub use outputs::kept;

pub type Any = Arc<dyn Store>;

fn memory_store() -> Any {
    Arc::new(MemoryStore::new())
}

fn sqlite_store(directory: &tempfile::TempDir) -> Any {
    Arc::new(SqliteStore::open(&directory.path().join("pool.db")).unwrap())
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

pub fn id(n: u8) -> JobId {
    JobId::from_random([n; 12])
}

pub fn key(n: u8) -> WorkerKey {
    WorkerKey::for_tests(n)
}

/// The `n`th job, submitted at second `n`.
pub fn new_job(n: u8) -> NewJob {
    let work = Work {
        manifest: format!(r#"{{"entrypoint":"job{n}.py"}}"#),
        boundary: format!("boundary{n}"),
        payload: Payload::Inline(Bytes::from(vec![n; 500])),
        sha256: [n; 32],
    };
    NewJob {
        id: id(n),
        client: None,
        priority: Priority::Low,
        submitted_at: at(n.into()),
        terms: Arc::new(Terms { max_attempts: Some(n.into()), ..Terms::default() }),
        work: Arc::new(work),
        idempotency: None,
    }
}

pub fn client(name: &str) -> Option<ClientName> {
    Some(name.parse().unwrap())
}

pub fn step(n: u8, version: i64, state: JobState) -> Transition {
    Transition { id: id(n), version, state, results: None }
}

pub fn queued() -> JobState {
    JobState::submitted(at(1))
}

/// Ended at this second so that it may be retried.
pub fn cancelled(second: i64) -> JobState {
    JobState::Finished { outcome: Outcome::Cancelled, at: at(second), attempts: 0, last: None }
}

fn attempt(worker: WorkerKey) -> Attempt {
    Attempt { number: 1, losses: 0, worker, since: at(50) }
}

pub fn assigned(worker: WorkerKey) -> JobState {
    JobState::Assigned { attempt: attempt(worker), waited_since: at(1), refusal: None }
}

pub fn running(worker: WorkerKey) -> JobState {
    JobState::Running { attempt: attempt(worker), remote: "job_1_1".into(), since: at(51) }
}

/// Over at this second, on worker 1.
pub fn finished(second: i64) -> JobState {
    let last = Some(Last { worker: key(1), remote: Some("job_1_1".into()) });
    JobState::Finished { outcome: Outcome::Completed, at: at(second), attempts: 1, last }
}

pub fn some_results() -> Results {
    let logs = Logs { stdout: "hello\n\0🦀".into(), stderr: String::new(), truncation: Truncation::Cut };
    Results { worker_status: Some(r#"{"status":"completed"}"#.into()), logs: Some(logs), listing: None }
}

/// Takes the `n`th job in, and moves it to `state`.
pub async fn with_job(store: &Any, n: u8, state: JobState) -> JobRow {
    with(store, n, new_job(n), state).await
}

/// The same, with a payload that is a file of the spool.
pub async fn with_spooled_job(store: &Any, n: u8, state: JobState) -> JobRow {
    let mut job = new_job(n);
    Arc::make_mut(&mut job.work).payload = Payload::Spooled { bytes: 1 << 40 };
    with(store, n, job, state).await
}

async fn with(store: &Any, n: u8, job: NewJob, state: JobState) -> JobRow {
    let Inserted::New(row) = store.insert(job).await.unwrap() else { panic!("job {n} is not new") };
    let written = store.transition(step(n, row.version, state.clone())).await.unwrap();
    let Written::Updated { version } = written else { panic!("{written:?}") };
    JobRow { version, state, ..row }
}

/// The `n`th job as it is asked about when it is over.
pub fn ended_job(n: u8) -> EndedJob {
    let row = JobRow { state: finished(n.into()), ..new_job(n).row(n.into()) };
    EndedJob { row, outputs: Some(OutputsPlace::ToCollect), short_status: None }
}

pub fn ids(rows: &[JobRow]) -> Vec<JobId> {
    rows.iter().map(|row| row.id.clone()).collect()
}
