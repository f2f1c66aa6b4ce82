//! Who has asked for what, and who was taken for whom: one line each in `audit.log`, each carrying the hash of the one before.
//!
//! # What is promised
//! A thread of its own writes, so that no request waits for the disk. What is recorded is on disk, synced, some 20 ms later, and a
//! pool that is told to stop waits for that; one that is killed loses the lines of its last moments. A disk that is full
//! or fails holds up nobody: up to [`WAITING_MAX`] lines wait in memory and are written when they can be, and what comes
//! beyond is counted and said by a line of its own.
//!
//! The chain shows that a line was changed, taken out or put in. It does not show that lines were cut off the end, or that all of it was written
//! anew by somebody who may write the file: for that, note the last line's hash elsewhere (`trusted-pool audit verify` prints it).

pub mod chain;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::time::{Clock, Timestamp};

/// The file's name in the data directory.
pub const FILE_NAME: &str = "audit.log";

/// Lines that wait for the disk: some seconds of a busy pool, and less than a MiB.
pub const WAITING_MAX: usize = 4096;

/// Lines written at once, with one sync.
const BATCH_MAX: usize = 1024;

/// How long the first line of a batch waits for others: a sync for each line would hold up those of the store, on the same disk.
const GATHER: Duration = Duration::from_millis(20);

/// Between two tries of a disk that takes nothing.
const RETRY: Duration = Duration::from_secs(1);

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Submit,
    Cancel,
    Retry,
    Drain,
    Resume,
    TokenNew,
    TokenRevoke,
    /// The list of workers is another.
    WorkersChange,
    /// A worker is known more or less surely than it was.
    IdentityChange,
    /// Somebody was not taken for the worker that the allowlist names.
    IdentityRefused,
    /// A line that a crash had cut was taken off.
    TailRepaired,
    /// Lines could not be written while the disk took none.
    LinesLost,
}

/// A line before it has its place.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Unix seconds.
    time: f64,
    event: Event,
    /// The client's name, where the pool knows one.
    caller: Option<String>,
    /// Where the request came from.
    remote: Option<IpAddr>,
    about: Value,
}

impl Entry {
    #[must_use]
    pub fn new(event: Event, about: Value) -> Self {
        let now: Timestamp = Clock::System.now();
        Self { time: now.as_unix_seconds(), event, caller: None, remote: None, about }
    }

    /// Says who asked for it, from where.
    #[must_use]
    pub fn by(mut self, caller: Option<&str>, remote: Option<IpAddr>) -> Self {
        (self.caller, self.remote) = (caller.map(str::to_owned), remote);
        self
    }
}

/// A handle to the log; clones share it.
#[derive(Clone, Debug)]
pub struct AuditLog {
    /// `None` where nothing is recorded, as in simulations.
    writer: Option<Writer>,
}

#[derive(Clone, Debug)]
struct Writer {
    lines: SyncSender<Entry>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    lost: AtomicU64,
}

impl AuditLog {
    /// Records to this file. A line that a crash has cut is repaired at once.
    ///
    /// # Errors
    /// When the file cannot be written, with its path.
    pub fn open(path: PathBuf) -> Result<Self, String> {
        chain::append(&path, &[]).map_err(|error| format!("audit log {}: {error}", path.display()))?;
        let (lines, incoming) = sync_channel(WAITING_MAX);
        let counts = Arc::<Counts>::default();
        let counted = Arc::clone(&counts);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(&path, &incoming, &counted))
            .map_err(|error| format!("the audit log's thread does not start: {error}"))?;
        Ok(Self { writer: Some(Writer { lines, counts }) })
    }

    /// Records nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { writer: None }
    }

    /// Hands a line over; never waits.
    pub fn record(&self, entry: Entry) {
        let Some(Writer { lines, counts }) = &self.writer else { return };
        counts.waiting.fetch_add(1, Ordering::AcqRel);
        if lines.try_send(entry).is_err() {
            counts.waiting.fetch_sub(1, Ordering::AcqRel);
            counts.lost.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether all that was recorded is on disk.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.counts.waiting.load(Ordering::Acquire) == 0)
    }
}

/// Writes until every handle is gone.
fn write(path: &std::path::Path, incoming: &Receiver<Entry>, counts: &Counts) {
    while let Ok(first) = incoming.recv() {
        std::thread::sleep(GATHER);
        let mut batch = vec![first];
        batch.extend(incoming.try_iter().take(BATCH_MAX - 1));
        let taken = batch.len();
        let mut failing = false;
        loop {
            let lost = counts.lost.load(Ordering::Acquire);
            if lost > 0 {
                batch.truncate(taken);
                batch.push(Entry::new(Event::LinesLost, json!({ "lines": lost })));
            }
            match chain::append(path, &batch) {
                Ok(()) => {
                    counts.lost.fetch_sub(lost, Ordering::AcqRel);
                    break;
                }
                Err(error) if !failing => log::error!("the audit log cannot be written, trying on: {error}"),
                Err(_) => {}
            }
            failing = true;
            std::thread::sleep(RETRY);
        }
        if failing {
            log::info!("the audit log is written again");
        }
        counts.waiting.fetch_sub(taken, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_written_by_its_own_thread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let log = AuditLog::open(path.clone()).unwrap();
        for n in 0..1000 {
            let entry = Entry::new(Event::Cancel, json!({ "n": n }));
            log.record(entry.by(Some("ci"), Some(IpAddr::from([127, 0, 0, 1]))));
        }
        while !log.is_written() {
            std::thread::yield_now();
        }
        assert_eq!(chain::verify(&path).unwrap().lines, 1000);
        let text = std::fs::read_to_string(&path).unwrap();
        let line: Value = serde_json::from_str(text.lines().nth(7).unwrap()).unwrap();
        assert_eq!(
            (&line["caller"], &line["remote"], &line["about"]["n"]),
            (&json!("ci"), &json!("127.0.0.1"), &json!(7))
        );
    }

    #[test]
    fn a_disk_that_takes_nothing_holds_up_nobody_and_what_is_lost_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        let log = AuditLog::open(path.clone()).unwrap();
        // A directory in its place cannot be written.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        for n in 0..WAITING_MAX + BATCH_MAX + 100 {
            log.record(Entry::new(Event::Submit, json!({ "n": n })));
        }
        assert!(!log.is_written());
        std::fs::remove_dir(&path).unwrap();
        while !log.is_written() {
            std::thread::yield_now();
        }
        chain::verify(&path).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("\"lines_lost\""));
    }
}
