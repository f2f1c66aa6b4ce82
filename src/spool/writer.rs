//! A payload while it comes in: in memory as long as it is small, then in a file.

use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::{Spool, check_room, sync_directory};
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
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// All of it is in the buffer.
    Memory,
    /// The rest is in a file, or on its way there.
    File(Writing),
    /// A write failed: there is no payload any more.
    Lost,
}

/// The write under way. Its result owns the file, which is removed with whatever drops it first: the writer, this task, or the
/// runtime that never came to run it.
type Writing = JoinHandle<io::Result<Written>>;

/// A file, and a buffer to be used again.
type Written = (NamedTempFile, Vec<u8>);

impl SpoolWriter {
    pub(super) fn new(spool: Spool) -> Self {
        Self { spool, buffer: Vec::new(), bytes: 0, place: Place::Memory }
    }

    /// Bytes taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes bytes. Waits only when the disk is slower than the source. An error is told by this call or a later one.
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
        let (file, spare) = match self.settle().await? {
            Some((file, spare)) => (Some(file), spare),
            None => (None, Vec::with_capacity(BUFFER_BYTES)),
        };
        let full = std::mem::replace(&mut self.buffer, spare);
        let incoming = self.spool.incoming();
        self.place = Place::File(spawn_blocking(move || append(file, &incoming, full)));
        Ok(())
    }

    /// Makes the payload durable under the name of its job.
    ///
    /// To be awaited to its end: dropped halfway it may leave the file, an orphan until the next sweep.
    pub async fn finish(mut self, job: &JobId) -> io::Result<Payload> {
        let file = self.settle().await?.map(|(file, _)| file);
        let rest = std::mem::take(&mut self.buffer);
        if file.is_none() && rest.len() <= INLINE_BYTES_MAX {
            return Ok(Payload::Inline(Bytes::from(rest)));
        }
        let (spool, target) = (self.spool.clone(), self.spool.path(job));
        let last = move || {
            let (file, _) = append(file, &spool.incoming(), rest)?;
            persist(file, &target, &spool.dir)
        };
        outcome(spawn_blocking(last).await)?;
        Ok(Payload::Spooled { bytes: self.bytes })
    }

    /// Waits for the write under way and takes the file, if there is one. Until it is put back the payload counts as lost, so
    /// that no later write begins another file. To stop waiting is safe.
    async fn settle(&mut self) -> io::Result<Option<Written>> {
        let written = match &mut self.place {
            Place::Memory => return Ok(None),
            Place::File(writing) => writing.await,
            Place::Lost => return Err(io::Error::other("an earlier write of this payload failed")),
        };
        self.place = Place::Lost;
        outcome(written).map(Some)
    }
}

impl Drop for SpoolWriter {
    /// Freeing a large file takes the file system a tenth of a second: not the time of the thread that serves connections.
    fn drop(&mut self) {
        if let (Place::File(writing), Ok(runtime)) =
            (std::mem::replace(&mut self.place, Place::Lost), Handle::try_current())
        {
            runtime.spawn_blocking(move || drop(writing));
        }
    }
}

/// Writes to the file, which is made if there is none, and gives back the emptied buffer.
fn append(file: Option<NamedTempFile>, incoming: &Path, mut buffer: Vec<u8>) -> io::Result<Written> {
    check_room(incoming)?;
    let mut file = match file {
        Some(file) => file,
        None => NamedTempFile::new_in(incoming)?,
    };
    file.write_all(&buffer)?;
    buffer.clear();
    Ok((file, buffer))
}

/// Content first, then the name: a file that bears a job's name is whole.
fn persist(file: NamedTempFile, target: &Path, dir: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(target)?;
    sync_directory(dir).inspect_err(|_| {
        // The name may or may not survive a crash, so nobody may rely on it. If it stays, a sweep finds it.
        let _ = std::fs::remove_file(target);
    })
}

/// A task fails only when it panics or when the runtime is shut down.
fn outcome<T>(joined: Result<io::Result<T>, JoinError>) -> io::Result<T> {
    joined.unwrap_or_else(|cause| Err(io::Error::other(cause)))
}
