//! What a job writes to stdout and stderr: kept on disk up to a bound, and readable while it grows.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

pub use crate::api::live_log::LogStream as Stream;

/// Bytes kept of each stream. What a job writes beyond is read and thrown away, so that it does not block.
pub const KEPT_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Bytes read at once: a pipe's whole content.
const CHUNK_BYTES: usize = 64 * 1024;

/// How far a stream has come, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extent {
    /// On disk.
    pub kept: u64,
    /// Written by the job.
    pub written: u64,
}

/// How far both streams have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extents {
    /// Of standard output.
    pub stdout: Extent,
    /// Of standard error.
    pub stderr: Extent,
}

/// The logs of one job.
#[derive(Debug)]
pub struct Logs {
    dir: PathBuf,
    extents: watch::Sender<Extents>,
}

impl Extent {
    /// Whether some of what the job wrote was thrown away.
    #[must_use]
    pub fn truncated(self) -> bool {
        self.written > self.kept
    }
}

impl Extents {
    /// The extent of one stream.
    #[must_use]
    pub fn of(&self, stream: Stream) -> Extent {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    fn written(&self) -> u64 {
        self.stdout.written.saturating_add(self.stderr.written)
    }

    fn of_mut(&mut self, stream: Stream) -> &mut Extent {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl Logs {
    /// Logs kept in this directory, so far of these extents.
    #[must_use]
    pub fn new(dir: &Path, extents: Extents) -> Self {
        Self { dir: dir.to_owned(), extents: watch::Sender::new(extents) }
    }

    /// How far the streams have come, and news of them.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Extents> {
        self.extents.subscribe()
    }

    /// Bytes that the job has written to both streams, kept or not.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.extents.borrow().written()
    }

    /// Waits until the job has written more than this to both streams.
    pub async fn outgrow(&self, bytes: u64) {
        let mut extents = self.watch();
        let grown = extents.wait_for(|extents| extents.written() > bytes).await;
        grown.expect("the sender lives as long as these logs");
    }

    /// Copies a stream to its file until the stream ends.
    ///
    /// # Errors
    /// When the stream cannot be read. A file that cannot be written counts as one that is full.
    pub async fn capture(&self, stream: Stream, mut from: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut file = tokio::fs::File::create(self.path(stream)).await.ok();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = from.read(&mut chunk).await?;
            if read == 0 {
                return Ok(());
            }
            let room = KEPT_BYTES_MAX - self.extents.borrow().of(stream).kept;
            let mut kept = read.min(usize::try_from(room).unwrap_or(usize::MAX));
            if let Some(open) = file.as_mut().filter(|_| kept > 0) {
                let written = async { open.write_all(&chunk[..kept]).await.and(open.flush().await) }.await;
                if let Err(error) = written {
                    log::warn!("a job's log cannot be written, the rest is not kept: {error}");
                    file = None;
                }
            }
            if file.is_none() {
                kept = 0;
            }
            self.extents.send_modify(|extents| {
                let extent = extents.of_mut(stream);
                extent.kept += kept as u64;
                extent.written += read as u64;
            });
        }
    }

    /// Reads the part of a stream that is on disk from `offset`, at most `bytes_max` bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, stream: Stream, offset: u64, bytes_max: u64) -> io::Result<Vec<u8>> {
        let kept = self.extents.borrow().of(stream).kept;
        let length = kept.saturating_sub(offset).min(bytes_max);
        let mut content = Vec::new();
        if length > 0 {
            let mut file = File::open(self.path(stream))?;
            file.seek(SeekFrom::Start(offset))?;
            file.take(length).read_to_end(&mut content)?;
        }
        Ok(content)
    }

    fn path(&self, stream: Stream) -> PathBuf {
        self.dir.join(match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn flood_is_kept_to_the_bound_and_drained_beyond_it() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path(), Extents::default());
        logs.capture(Stream::Stderr, tokio::io::repeat(b'x').take(KEPT_BYTES_MAX + 5)).await.unwrap();
        logs.capture(Stream::Stdout, &b"hello"[..]).await.unwrap();

        let extents = *logs.watch().borrow();
        assert_eq!(extents.stderr, Extent { kept: KEPT_BYTES_MAX, written: KEPT_BYTES_MAX + 5 });
        assert!(extents.stderr.truncated() && !extents.stdout.truncated());
        assert_eq!(std::fs::metadata(dir.path().join("stderr")).unwrap().len(), KEPT_BYTES_MAX);
        assert_eq!(logs.read(Stream::Stdout, 1, 3).unwrap(), b"ell");
        assert_eq!(logs.read(Stream::Stdout, 9, 3).unwrap(), b"");
    }
}
