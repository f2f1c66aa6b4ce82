//! The store on disk: one SQLite file in write-ahead mode.
//!
//! SQLite has one writer at a time, so one thread writes, and shares each commit among all who wait for one; a few more threads
//! read. They are plain threads with channels, because the store is used from several runtimes and belongs to none of them.

mod changes;
mod metrics;
mod outputs;
mod queries;
mod reader;
mod recent;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::error::Error;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags};

pub use self::metrics::StoreMetrics;
use self::reader::Readers;
use self::recent::Recent;
use self::writer::Writer;
use super::{
    Drain, EndedJob, EndedRun, Inserted, JobFilter, JobRow, KeptRun, NewJob, OutputsPlace, Reopened, Results,
    ResultsText, Settled, Store, StoreError, Transition, Work, Written,
};
use crate::job::{JobId, JobState};
use crate::time::Timestamp;
use crate::worker::WorkerKey;

/// Reading threads: so many that a long listing does not hold up the reads of single jobs.
const READERS: usize = 2;

/// How long to wait for a lock. Within the process nobody waits for one: this is for an administrator's `sqlite3`.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements kept compiled on a connection: all that there are, with room to spare.
const STATEMENTS_MAX: usize = 64;

/// Bytes that the write-ahead log is cut back to after a burst.
const LOG_BYTES_MAX: i64 = 64 << 20;

/// The store on disk. Dropping it waits until every change that was handed in is durable.
pub struct SqliteStore {
    // Dropped in this order: the last connection to close takes the write-ahead log into the file, and only the writer's may.
    readers: Readers,
    writer: Writer,
    recent: Arc<Recent>,
}

impl SqliteStore {
    /// Opens the file, which is made (mode 0600) if it is not there, in a directory that is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path)?;
        let mut connection = connect_writer(path)?;
        schema::apply(&mut connection)?;
        let connections = (0..READERS)
            .map(|_| connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY))
            .collect::<Result<_, _>>()?;
        let (readers, writer) = (Readers::start(connections)?, Writer::start(connection)?);
        Ok(Self { readers, writer, recent: Arc::new(Recent::new()) })
    }

    /// Transactions committed since the store was opened: against the number of changes, how well they share commits.
    pub fn commits(&self) -> u64 {
        self.writer.metrics().commits()
    }

    pub fn metrics(&self) -> &StoreMetrics {
        self.writer.metrics()
    }

    /// Makes a change of one job that has ended.
    async fn change_ended<T, F>(&self, id: &JobId, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (recent, id) = (Arc::clone(&self.recent), id.clone());
        self.writer.run_then(change, move |_| recent.forget([&id])).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn insert(&self, job: NewJob) -> Result<Inserted, StoreError> {
        self.writer.run(move |connection| changes::insert(connection, &job)).await
    }

    async fn transition(&self, step: Transition) -> Result<Written, StoreError> {
        step.assert_sound();
        self.writer.run(move |connection| changes::transition(connection, &step)).await
    }

    async fn reopen(&self, step: Transition) -> Result<Reopened, StoreError> {
        let id = step.id.clone();
        self.change_ended(&id, move |connection| changes::reopen(connection, &step)).await
    }

    async fn drop_work(&self, before: Timestamp, limit: usize) -> Result<Vec<JobId>, StoreError> {
        self.writer.run(move |connection| changes::drop_work(connection, before, limit)).await
    }

    async fn drop_spooled_work(&self, limit: usize) -> Result<Vec<JobId>, StoreError> {
        self.writer.run(move |connection| changes::drop_spooled_work(connection, limit)).await
    }

    async fn spooled(&self) -> Result<Vec<JobId>, StoreError> {
        self.readers.run(queries::spooled).await
    }

    async fn drains(&self) -> Result<Vec<Drain>, StoreError> {
        self.readers.run(queries::drains).await
    }

    async fn drain(&self, drain: Drain) -> Result<(), StoreError> {
        self.writer.run(move |connection| changes::drain(connection, &drain)).await
    }

    async fn resume(&self, worker: WorkerKey) -> Result<(), StoreError> {
        self.writer.run(move |connection| changes::resume(connection, worker)).await
    }

    async fn unfinished(&self) -> Result<Vec<JobRow>, StoreError> {
        self.readers.run(queries::unfinished).await
    }

    async fn job(&self, id: &JobId) -> Result<Option<JobRow>, StoreError> {
        let id = id.clone();
        self.readers.run(move |connection| queries::job(connection, &id)).await
    }

    async fn ended(&self, id: &JobId) -> Result<Option<Arc<EndedJob>>, StoreError> {
        if let Some(job) = self.recent.get(id) {
            return Ok(Some(job));
        }
        let (recent, id) = (Arc::clone(&self.recent), id.clone());
        let read = move |connection: &Connection| {
            let moment = recent.now();
            let job = queries::ended(connection, &id)?.map(Arc::new);
            if let Some(job) = &job {
                recent.keep(job, moment);
            }
            Ok(job)
        };
        self.readers.run(read).await
    }

    async fn work(&self, id: &JobId) -> Result<Option<Work>, StoreError> {
        let id = id.clone();
        self.readers.run(move |connection| queries::work(connection, &id)).await
    }

    async fn results_text(
        &self,
        run: &EndedRun,
        text: ResultsText,
        from: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        let run = run.clone();
        self.readers.run(move |connection| queries::results_text(connection, &run, text, from)).await
    }

    async fn results(&self, id: &JobId) -> Result<Option<Results>, StoreError> {
        let id = id.clone();
        self.readers.run(move |connection| queries::results(connection, &id)).await
    }

    async fn list(&self, filter: &JobFilter, limit: usize) -> Result<Vec<JobRow>, StoreError> {
        let filter = filter.clone();
        self.readers.run(move |connection| queries::list(connection, &filter, limit)).await
    }

    async fn count(&self) -> Result<u64, StoreError> {
        self.readers.run(queries::count).await
    }

    async fn forget_finished(&self, before: Timestamp, limit: usize) -> Result<Vec<EndedRun>, StoreError> {
        let recent = Arc::clone(&self.recent);
        let forget = move |forgotten: &Result<Vec<EndedRun>, StoreError>| match forgotten {
            Ok(runs) => recent.forget(runs.iter().map(|run| &run.job)),
            Err(_) => recent.forget_all(),
        };
        self.writer
            .run_then(move |connection| changes::forget_finished(connection, before, limit), forget)
            .await
    }

    async fn next_to_collect(&self, except: &[WorkerKey]) -> Result<Option<JobRow>, StoreError> {
        let except = except.to_vec();
        self.readers.run(move |connection| outputs::next_to_collect(connection, &except)).await
    }

    async fn has_to_collect(&self, worker: WorkerKey) -> Result<bool, StoreError> {
        self.readers.run(move |connection| outputs::has_to_collect(connection, worker)).await
    }

    async fn settle_outputs(&self, run: &EndedRun, to: OutputsPlace) -> Result<Settled, StoreError> {
        let run = run.clone();
        let id = run.job.clone();
        self.change_ended(&id, move |connection| outputs::settle(connection, &run, &to)).await
    }

    async fn refuse_outputs(
        &self,
        run: &EndedRun,
        end: JobState,
        reason: String,
    ) -> Result<Settled, StoreError> {
        let run = run.clone();
        let id = run.job.clone();
        self.change_ended(&id, move |connection| outputs::refuse(connection, &run, &end, &reason)).await
    }

    async fn oldest_kept(&self, limit: usize) -> Result<Vec<KeptRun>, StoreError> {
        self.readers.run(move |connection| outputs::oldest_kept(connection, limit)).await
    }

    async fn kept_bytes(&self) -> Result<u64, StoreError> {
        self.readers.run(outputs::kept_bytes).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.writer.run(changes::touch).await
    }
}

/// Makes the file, if it is not there; SQLite gives its log and index files the same mode.
fn create_private(path: &Path) -> io::Result<()> {
    // One that is there must not be opened: closing it would take from this process all locks on it.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

fn connect_writer(path: &Path) -> Result<Connection, StoreError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |mode| mode.get(0))?;
    if mode != "wal" {
        let cause = "its file system has no shared memory, as some network file systems have not";
        return Err(StoreError::Broken(format!("{} cannot have a write-ahead log: {cause}", path.display())));
    }
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
    Ok(connection)
}

fn connect(path: &Path, mode: OpenFlags) -> rusqlite::Result<Connection> {
    // Each connection stays on one thread, so that SQLite needs no lock of its own.
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // A failed read of mapped memory would be a SIGBUS and not an error.
    connection.pragma_update(None, "mmap_size", 0)?;
    Ok(connection)
}

impl From<&rusqlite::Error> for StoreError {
    /// SQLite itself turns `ENOSPC` into `SQLITE_FULL`; it is certain then that nothing was changed.
    fn from(error: &rusqlite::Error) -> Self {
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull) { Self::Full } else { broken(error) }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::from(&error)
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull { Self::Full } else { broken(&error) }
    }
}

/// The error and its causes.
fn broken(error: &dyn Error) -> StoreError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    StoreError::Broken(text)
}

/// A thread of the store is gone, which only a panic on it does.
fn stopped() -> StoreError {
    StoreError::Broken("a thread of the store has stopped".to_owned())
}
