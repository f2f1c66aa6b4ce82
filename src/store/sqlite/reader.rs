//! The threads that read. They see the last commit, and neither wait for the writer nor keep it waiting.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::stopped;
use crate::store::StoreError;

/// Queries that may wait for a thread; past that, callers wait to hand theirs in.
const QUEUE_MAX: usize = 512;

/// A handle to the reading threads. Dropping it waits for the queries that were handed in.
pub struct Readers {
    queries: Option<mpsc::Sender<Query>>,
    threads: Vec<JoinHandle<()>>,
}

/// Reads, and tells the caller.
type Query = Box<dyn FnOnce(&Connection) + Send>;

impl Readers {
    /// Starts a thread for each connection.
    pub fn start(connections: Vec<Connection>) -> io::Result<Self> {
        let (queries, queue) = mpsc::channel::<Query>(QUEUE_MAX);
        let queue = Arc::new(Mutex::new(queue));
        let mut readers = Self { queries: Some(queries), threads: Vec::new() };
        for connection in connections {
            let queue = Arc::clone(&queue);
            let work = move || {
                while let Some(query) = next(&queue) {
                    query(&connection);
                }
            };
            readers.threads.push(thread::Builder::new().name("store-reader".to_owned()).spawn(work)?);
        }
        Ok(readers)
    }

    pub async fn run<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let query: Query = Box::new(move |connection| {
            // Whoever asked may be gone.
            let _ = caller.send(query(connection).map_err(StoreError::from));
        });
        let queries = self.queries.as_ref().expect("the queue is closed on drop only");
        queries.send(query).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queries = None;
        for thread in self.threads.drain(..) {
            // A panic of the thread was told to its caller already.
            let _ = thread.join();
        }
    }
}

/// The next query; one idle thread waits for it, the others for the lock.
fn next(queue: &Mutex<mpsc::Receiver<Query>>) -> Option<Query> {
    queue.lock().expect("receiving does not panic").blocking_recv()
}
