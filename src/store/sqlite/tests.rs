//! What only a store on disk promises.

use std::os::unix::fs::PermissionsExt;
use std::pin::pin;

use futures_util::future::{join, join_all, join3};
use futures_util::poll;
use tempfile::TempDir;

use super::*;
use crate::store::suite::{at, client, finished, id, ids, key, new_job, queued, running, some_results, step};
use crate::store::{Idempotency, Payload};

fn open(directory: &TempDir) -> SqliteStore {
    SqliteStore::open(&directory.path().join("pool.db")).unwrap()
}

/// Lets the file grow by no more than this many pages.
async fn limit_growth(store: &SqliteStore, pages: i64) {
    let limit = move |connection: &Connection| {
        let now: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
        connection.pragma_update_and_check(None, "max_page_count", now + pages, |_| Ok(()))
    };
    store.writer.run(limit).await.unwrap();
}

fn job_with_payload(n: u8, bytes: usize) -> NewJob {
    let job = new_job(n);
    let work = Work { payload: Payload::Inline(vec![n; bytes].into()), ..(*job.work).clone() };
    NewJob { work: work.into(), ..job }
}

/// Holds the writer up while the changes are handed in, so that they share a commit; and says how many commits that took,
/// with that of the hold, which a few of them may have shared.
async fn at_once<T>(store: &SqliteStore, changes: impl Future<Output = T>) -> (T, u64) {
    let before = store.commits();
    let (release, released) = std::sync::mpsc::channel::<()>();
    // Released for good: it may be called again.
    let mut hold = pin!(store.writer.run(move |_| Ok(released.recv().is_err())));
    let mut changes = pin!(changes);
    assert!(poll!(&mut hold).is_pending() && poll!(&mut changes).is_pending());
    drop(release);
    assert!(hold.await.unwrap());
    (changes.await, store.commits() - before)
}

#[tokio::test]
async fn a_reopened_store_knows_everything() {
    let directory = tempfile::tempdir().unwrap();
    let named = |n| {
        let idempotency = Some(Idempotency { key: "mine".into(), valid_since: at(0) });
        NewJob { idempotency, ..new_job(n) }
    };
    let store = open(&directory);
    store.insert(named(1)).await.unwrap();
    store.insert(new_job(2)).await.unwrap();
    store.transition(Transition { results: Some(some_results()), ..step(2, 1, finished(9)) }).await.unwrap();
    let before = store.list(&JobFilter::default(), 10).await.unwrap();
    drop(store);

    let store = open(&directory);
    assert_eq!(store.list(&JobFilter::default(), 10).await.unwrap(), before);
    assert_eq!(ids(&store.unfinished().await.unwrap()), [id(1)]);
    assert_eq!(store.work(&id(1)).await.unwrap().as_ref(), Some(&*new_job(1).work));
    assert_eq!(store.results(&id(2)).await.unwrap(), Some(some_results()));
    assert_eq!(store.insert(named(3)).await.unwrap(), Inserted::Conflict(id(1)));
}

#[tokio::test]
async fn a_sequence_is_not_used_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.insert(new_job(1)).await.unwrap();
    let forgotten = store.job(&id(1)).await.unwrap().unwrap();
    store.transition(step(1, 1, finished(9))).await.unwrap();
    store.forget_finished(at(10), 1).await.unwrap();
    drop(store);
    let Inserted::New(next) = open(&directory).insert(new_job(2)).await.unwrap() else { panic!() };
    assert!(next.sequence > forgotten.sequence);
}

#[tokio::test]
async fn concurrent_changes_share_commits() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let (inserted, commits) = at_once(&store, join_all((0..64).map(|n| store.insert(new_job(n))))).await;
    assert!(inserted.iter().all(Result::is_ok));
    assert!(commits <= 2, "{commits} commits for 64 jobs");
    assert_eq!(store.count().await.unwrap(), 64);
}

#[tokio::test]
async fn a_change_that_fails_is_undone_and_leaves_those_it_shares_a_commit_with() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let half_way = |connection: &Connection| {
        changes::insert(connection, &new_job(2))?;
        changes::insert(connection, &NewJob { id: id(2), ..new_job(4) })
    };
    let failing = store.writer.run(half_way);
    let changes = join3(store.insert(new_job(1)), failing, store.insert(new_job(3)));
    let ((before, failed, after), commits) = at_once(&store, changes).await;
    assert!(matches!(&failed, Err(StoreError::Broken(cause)) if cause.contains("jobs.id")), "{failed:?}");
    assert!(before.is_ok() && after.is_ok());
    assert!(commits <= 2, "they did not share a commit");
    assert_eq!(ids(&store.unfinished().await.unwrap()), [id(1), id(3)]);
    assert_eq!(store.work(&id(2)).await.unwrap(), None);
}

#[tokio::test]
async fn a_full_disk_is_told_and_what_needs_no_room_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for n in 0..8 {
        store.insert(job_with_payload(n, 64 << 10)).await.unwrap();
    }
    limit_growth(&store, 20).await;
    let big = (100..108).map(|n| store.insert(job_with_payload(n, 64 << 10)));
    let changes = join(join_all(big), store.transition(step(1, 1, running(key(1)))));
    let ((inserted, written), _) = at_once(&store, changes).await;
    // One fits, whichever is first, and the others do not.
    assert_eq!(inserted.iter().filter(|inserted| inserted.is_ok()).count(), 1, "{inserted:?}");
    assert!(inserted.iter().all(|inserted| matches!(inserted, Ok(_) | Err(StoreError::Full))));
    assert_eq!(written.unwrap(), Written::Updated { version: 2 });
    assert_eq!(store.count().await.unwrap(), 9);
    // A job that ends gives its room back.
    store.transition(step(1, 2, finished(9))).await.unwrap();
    store.insert(job_with_payload(120, 60 << 10)).await.unwrap();
}

#[tokio::test]
async fn a_check_writes_to_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let log_bytes = || directory.path().join("pool.db-wal").metadata().unwrap().len();
    store.check().await.unwrap();
    let before = log_bytes();
    store.check().await.unwrap();
    assert!(log_bytes() > before);
}

#[test]
fn a_store_belongs_to_no_runtime() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for n in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(store.insert(new_job(n))).unwrap();
        assert_eq!(runtime.block_on(store.count()).unwrap(), u64::from(n) + 1);
    }
}

#[tokio::test]
async fn a_dropped_store_finishes_what_was_handed_in() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut inserts = join_all((0..32).map(|n| store.insert(new_job(n))));
    // Hands all of them in and stays for none.
    assert!(poll!(&mut inserts).is_pending());
    drop(inserts);
    drop(store);
    assert!(!directory.path().join("pool.db-wal").exists(), "the log was not taken into the file");
    assert_eq!(open(&directory).count().await.unwrap(), 32);
}

#[tokio::test]
async fn a_file_of_the_version_before_owners_keeps_its_jobs_and_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.db");
    {
        let store = open(&directory);
        let idempotency = Some(Idempotency { key: "mine".into(), valid_since: at(0) });
        store.insert(NewJob { idempotency, ..new_job(1) }).await.unwrap();
    }
    // What an older program would have left.
    let back = "DROP INDEX jobs_by_client; ALTER TABLE jobs DROP COLUMN client;
        CREATE TABLE old (key TEXT PRIMARY KEY, job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,
            sha256 BLOB NOT NULL, used_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        INSERT INTO old SELECT key, job, sha256, used_at FROM idempotency_keys;
        DROP TABLE idempotency_keys; ALTER TABLE old RENAME TO idempotency_keys; PRAGMA user_version = 2;";
    Connection::open(&path).unwrap().execute_batch(back).unwrap();
    let store = open(&directory);
    assert_eq!(store.job(&id(1)).await.unwrap().unwrap().client, None);
    let idempotency = Some(Idempotency { key: "mine".into(), valid_since: at(0) });
    let again = NewJob { idempotency, ..new_job(2) };
    assert_eq!(store.insert(again).await.unwrap(), Inserted::Conflict(id(1)));
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory));
    let path = directory.path().join("pool.db");
    let version = schema::VERSION + 1;
    Connection::open(&path).unwrap().pragma_update(None, "user_version", version).unwrap();
    let Err(refusal) = SqliteStore::open(&path) else { panic!("it was opened") };
    assert!(refusal.to_string().contains("newer program"), "{refusal}");
    let connection = Connection::open(&path).unwrap();
    let left: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(left, version);
}

#[test]
fn what_is_no_database_or_has_no_directory_is_refused_with_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.db");
    std::fs::write(&path, "not a database, whatever its name may say".repeat(100)).unwrap();
    let Err(refusal) = SqliteStore::open(&path) else { panic!("it was opened") };
    assert!(refusal.to_string().contains("not a database"), "{refusal}");
    let Err(refusal) = SqliteStore::open(&directory.path().join("absent/pool.db")) else { panic!() };
    assert!(refusal.to_string().contains("No such file"), "{refusal}");
}

#[tokio::test]
async fn its_files_are_the_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.insert(new_job(1)).await.unwrap();
    for name in ["pool.db", "pool.db-wal", "pool.db-shm"] {
        let mode = directory.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn commits_are_synced_and_the_log_is_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let settings = |connection: &Connection| {
        let full: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
        let keys: bool = connection.pragma_query_value(None, "foreign_keys", |row| row.get(0))?;
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        Ok((full, keys, mode))
    };
    assert_eq!(store.writer.run(settings).await.unwrap(), (2, true, "wal".to_owned()));
}

#[tokio::test]
async fn no_listing_scans_or_sorts_the_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let (status, worker) = (Some(queued().status()), Some(key(1)));
    let filters = [
        JobFilter::default(),
        JobFilter { status, ..JobFilter::default() },
        JobFilter { worker, before: Some(9), ..JobFilter::default() },
        JobFilter { status, worker, before: Some(9), client: None },
        JobFilter { client: client("a"), ..JobFilter::default() },
        JobFilter { status, client: client("a"), ..JobFilter::default() },
    ];
    let mut statements: Vec<String> = filters.iter().map(queries::list_sql).collect();
    statements.push("SELECT id FROM jobs WHERE finished_at IS NULL ORDER BY sequence".into());
    statements.push(
        "SELECT sequence FROM jobs WHERE finished_at < 9 ORDER BY finished_at, sequence LIMIT 9".into(),
    );
    for (n, statement) in statements.into_iter().enumerate() {
        let explain = format!("EXPLAIN QUERY PLAN {statement}");
        let plan = move |connection: &Connection| {
            let mut statement = connection.prepare(&explain)?;
            let mut rows = statement.raw_query();
            let mut plan = String::new();
            while let Some(row) = rows.next()? {
                plan.push_str(&row.get::<_, String>("detail")?);
            }
            Ok(plan)
        };
        let plan = store.readers.run(plan).await.unwrap();
        // All jobs, newest first, are the table itself, backwards.
        let expected = if n == 0 { "SCAN jobs" } else { "SEARCH jobs USING" };
        assert!(plan.starts_with(expected) && !plan.contains("TEMP B-TREE"), "{n}: {plan}");
    }
}
