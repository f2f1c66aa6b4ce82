//! A payload while it comes in: in memory as long as it is small, then in a file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::NamedTempFile;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Spool, sync_directory};
use crate::job::JobId;
use crate::store::Payload;

/// Longest payload in bytes that is kept in the job's row: about what SQLite reads and writes faster than a file system does.
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// Bytes handed to the disk at once: enough that the hand-over to a thread costs nothing beside the write. An upload holds
/// two such buffers, one being filled while the other is written.
const BUFFER_BYTES: usize = 512 << 10;

/// A payload being written. Dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct SpoolWriter {
    spool: Spool,
    /// What is not yet on its way to the file.
    buffer: Vec<u8>,
    bytes: u64,
    file: Option<Writing>,
}

/// The write under way. Its result owns the file, which is removed with whatever drops it first: the writer, this task, or the
/// runtime that never came to run it.
type Writing = JoinHandle<io::Result<(NamedTempFile, Vec<u8>)>>;

impl SpoolWriter {
    pub(super) fn new(spool: Spool) -> Self {
        Self { spool, buffer: Vec::new(), bytes: 0, file: None }
    }

    /// Bytes taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes bytes. Waits only when the disk is slower than the source. After an error the writer is of no more use.
    pub async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.buffer.len() == BUFFER_BYTES {
                self.flush().await?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Sends the full buffer on its way, once the one before it has arrived.
    async fn flush(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(writing) => Some(written(writing.await)?),
            None => None,
        };
        let incoming = self.spool.incoming();
        let (file, spare) = match file {
            Some((file, spare)) => (Some(file), spare),
            None => (None, Vec::with_capacity(BUFFER_BYTES)),
        };
        let full = std::mem::replace(&mut self.buffer, spare);
        self.file = Some(spawn_blocking(move || append(file, &incoming, full)));
        Ok(())
    }

    /// Makes the payload durable under the name of its job.
    ///
    /// To be awaited to its end: dropped halfway it may leave the file, an orphan until the next sweep.
    pub async fn finish(mut self, job: &JobId) -> io::Result<Payload> {
        let rest = std::mem::take(&mut self.buffer);
        if self.bytes <= INLINE_BYTES_MAX as u64 {
            return Ok(Payload::Inline(Bytes::from(rest)));
        }
        let file = match self.file.take() {
            Some(writing) => Some(written(writing.await)?.0),
            None => None,
        };
        let (incoming, target, dir) = (self.spool.incoming(), self.spool.path(job), self.spool.dir.clone());
        let place = move || append(file, &incoming, rest).and_then(|(file, _)| persist(file, target, &dir));
        written(spawn_blocking(place).await)?;
        Ok(Payload::Spooled { bytes: self.bytes })
    }
}

/// Writes to the file, which is made if there is none, and gives back the emptied buffer.
fn append(
    file: Option<NamedTempFile>,
    incoming: &Path,
    mut buffer: Vec<u8>,
) -> io::Result<(NamedTempFile, Vec<u8>)> {
    let mut file = match file {
        Some(file) => file,
        None => NamedTempFile::new_in(incoming)?,
    };
    file.write_all(&buffer)?;
    buffer.clear();
    Ok((file, buffer))
}

/// Content first, then the name: a file that bears a job's name is whole.
fn persist(file: NamedTempFile, target: PathBuf, dir: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(&target)?;
    sync_directory(dir).inspect_err(|_| {
        // The name may or may not survive a crash, so nobody may rely on it. If it stays, a sweep finds it.
        let _ = std::fs::remove_file(&target);
    })
}

/// A task fails only when it panics or when the runtime is shut down.
fn written<T>(outcome: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    outcome.unwrap_or_else(|cause| Err(io::Error::other(cause)))
}
