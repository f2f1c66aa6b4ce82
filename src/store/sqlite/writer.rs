//! The one thread that writes, and commits many changes at once.
//!
//! A commit costs an fsync, which takes a disk about as long for one change as for hundreds. So the thread takes all the changes
//! that came while it was busy with the last commit, and commits them together. Nobody waits for a batch to fill: a lone
//! change is committed at once, and the more callers there are, the more share a commit.

use std::io;
use std::slice;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::metrics::StoreMetrics;
use super::stopped;
use crate::store::StoreError;

/// Changes of one commit at most: far past the point where its fsync is a small part of the cost of each, and few enough
/// to keep the first from waiting long for the last.
const BATCH_MAX: usize = 512;

/// Changes that may wait for the thread: the next batch. Past that, callers wait to hand theirs in.
const QUEUE_MAX: usize = BATCH_MAX;

/// A handle to the writing thread. Dropping it waits until what was handed in is committed.
pub struct Writer {
    changes: Option<mpsc::Sender<Box<dyn Change>>>,
    thread: Option<JoinHandle<()>>,
    metrics: StoreMetrics,
}

/// A change and its caller.
trait Change: Send {
    /// Makes the change; it may be called again when the transaction came to nothing.
    fn make(&mut self, connection: &Connection) -> rusqlite::Result<()>;

    /// The change was not made, or may not have been.
    fn fail(&mut self, error: StoreError);

    /// Does what follows, and tells the caller, who may be gone.
    fn answer(self: Box<Self>);
}

struct Pending<T, F, G> {
    change: F,
    then: G,
    outcome: Option<Result<T, StoreError>>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

// === impl Writer ===

impl Writer {
    pub fn start(mut connection: Connection) -> io::Result<Self> {
        let (changes, mut queue) = mpsc::channel::<Box<dyn Change>>(QUEUE_MAX);
        let metrics = StoreMetrics::new();
        let counted = metrics.clone();
        let thread = thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            let mut batch = Vec::with_capacity(BATCH_MAX);
            while queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
                commit(&mut connection, &mut batch, &counted);
                batch.drain(..).for_each(Change::answer);
            }
        })?;
        Ok(Self { changes: Some(changes), thread: Some(thread), metrics })
    }

    /// Makes a change, and returns when it is durable. A caller that goes away does not stop it.
    pub async fn run<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.run_then(change, |_| ()).await
    }

    /// The same; when it is known what became of the change, and before anybody is told, `then` is done.
    pub async fn run_then<T, F, G>(&self, change: F, then: G) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        G: FnOnce(&Result<T, StoreError>) + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let changes = self.changes.as_ref().expect("the queue is closed on drop only");
        changes
            .send(Box::new(Pending { change, then, outcome: None, caller }))
            .await
            .map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    pub fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was told to its callers already.
            let _ = thread.join();
        }
    }
}

/// Commits the batch; afterwards every change of it knows what became of it.
fn commit(connection: &mut Connection, batch: &mut [Box<dyn Change>], metrics: &StoreMetrics) {
    match try_commit(connection, batch, metrics) {
        Ok(()) => {}
        // Nothing of the batch was made. Alone, those that need little room, or free some, still succeed.
        Err(error) if batch.len() > 1 && matches!(StoreError::from(&error), StoreError::Full) => {
            for change in batch {
                commit(connection, slice::from_mut(change), metrics);
            }
        }
        Err(error) => {
            metrics.failed();
            batch.iter_mut().for_each(|change| change.fail(StoreError::from(&error)));
        }
    }
}

/// Makes all changes in one transaction; one that fails is undone and leaves the others.
fn try_commit(
    connection: &mut Connection,
    batch: &mut [Box<dyn Change>],
    metrics: &StoreMetrics,
) -> rusqlite::Result<()> {
    let mut made = 0;
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for change in batch {
        let savepoint = transaction.savepoint()?;
        match change.make(&savepoint) {
            Ok(()) => {
                savepoint.commit()?;
                made += 1;
            }
            // Some failures, a full disk among them, may undo the whole transaction and not the statement alone.
            Err(error) if savepoint.is_autocommit() => return Err(error),
            Err(error) => {
                savepoint.finish()?;
                change.fail(StoreError::from(&error));
            }
        }
    }
    let begun = Instant::now();
    transaction.commit()?;
    metrics.committed(made, begun.elapsed());
    Ok(())
}

// === impl Pending ===

impl<T, F, G> Change for Pending<T, F, G>
where
    T: Send,
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    G: FnOnce(&Result<T, StoreError>) + Send,
{
    fn make(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.outcome = Some(Ok((self.change)(connection)?));
        Ok(())
    }

    fn fail(&mut self, error: StoreError) {
        self.outcome = Some(Err(error));
    }

    fn answer(self: Box<Self>) {
        let outcome =
            self.outcome.expect("a batch that was committed has made or failed each of its changes");
        (self.then)(&outcome);
        let _ = self.caller.send(outcome);
    }
}
