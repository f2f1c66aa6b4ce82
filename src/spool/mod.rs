//! Uploads on their way to becoming durable work.
//!
//! The spool keeps the encoded `files` parts of a submit exactly as they will be sent to a worker; the manifest part and the
//! closing boundary are appended when it is sent ([`encode`]). So a dispatch only copies bytes, and its length is known
//! beforehand. Keeping the client's body as it came would also work, but then its boundary, file names and part headers
//! would reach a worker that trusts them.
//!
//! ```text
//! <dir>/incoming/<random>   being written; swept at start
//! <dir>/<job id>            the payload of an acknowledged job
//! ```

mod digest;
pub mod encode;
mod error;
mod file_name;
mod front_end;
mod gate;
mod parts;
mod upload;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::job::JobId;

pub use digest::ContentDigest;
pub use error::UploadError;
pub use gate::{ArchiveLimits, Inspect};
pub use parts::boundary;
pub use upload::{IDEMPOTENCY_KEY_BYTES_MAX, Upload, UploadLimits, parse_upload};
pub use writer::{INLINE_BYTES_MAX, SpoolWriter};

const INCOMING: &str = "incoming";

/// Uploads, and outputs that are kept, leave this much of the disk free. The store beside them must be able to write how running
/// jobs end, and a full disk would keep it from doing even what frees room.
pub const FREE_BYTES_MIN: u64 = 64 << 20;

/// The directory of payloads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool {
    dir: Arc<Path>,
    /// Bytes that all payloads may take up, and do.
    bytes_max: u64,
    used: Arc<AtomicU64>,
}

/// Bytes of the spool that an upload takes up; given back when it is dropped, unless the payload stays.
#[derive(Debug)]
struct Reserved {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Reserved {
    /// The payload stays: its bytes are given back when it is removed.
    fn stay(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What a [`Spool::sweep`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Uploads that were cut off, removed.
    pub incoming: u64,
    /// Payloads of jobs that are not to be kept, removed.
    pub orphans: u64,
    /// Entries that are none of the spool's, left alone.
    pub foreign: u64,
}

impl Spool {
    /// Opens the spool, and makes its directories (mode 0700) where they are missing. All payloads together may take up `bytes_max`;
    /// what is there already counts once it is swept.
    pub fn open(dir: impl Into<PathBuf>, bytes_max: u64) -> io::Result<Self> {
        let dir = std::path::absolute(dir.into())?;
        DirBuilder::new().mode(0o700).recursive(true).create(dir.join(INCOMING))?;
        sync_directory(&dir)?;
        if let Some(parent) = dir.parent() {
            sync_directory(parent)?;
        }
        Ok(Self { dir: dir.into(), bytes_max, used: Arc::default() })
    }

    /// Where the payload of a job is, if it has one here.
    pub fn path(&self, job: &JobId) -> PathBuf {
        self.dir.join(job.as_str())
    }

    fn incoming(&self) -> PathBuf {
        self.dir.join(INCOMING)
    }

    /// Whether there is room for one more upload: an error of kind `StorageFull` when there is not.
    pub fn check_room(&self) -> io::Result<()> {
        check_room(&self.dir)
    }

    /// Bytes that all payloads take up, those that are coming in included.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that all payloads may take up.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Bytes that are free on the disk, for whoever is not root.
    pub fn free_bytes(&self) -> io::Result<u64> {
        free_bytes(&self.dir)
    }

    /// Whether uploads may soon find no room: then payloads that are only kept for a retry should go.
    pub fn is_crowded(&self) -> bool {
        let left = self.bytes_max.saturating_sub(self.used.load(Ordering::Acquire));
        left < self.bytes_max / 4 || self.check_room().is_err()
    }

    fn nothing_reserved(&self) -> Reserved {
        Reserved { used: Arc::clone(&self.used), bytes: 0 }
    }

    /// Takes `bytes` more for an upload: an error of kind `QuotaExceeded` when all payloads together would take up too much.
    fn reserve(&self, reserved: &mut Reserved, bytes: u64) -> io::Result<()> {
        let used = self.used.fetch_add(bytes, Ordering::AcqRel) + bytes;
        reserved.bytes += bytes;
        if used > self.bytes_max {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the spool is full"));
        }
        Ok(())
    }

    /// Begins a payload.
    pub fn begin(&self) -> SpoolWriter {
        SpoolWriter::new(self.clone())
    }

    pub async fn open_payload(&self, job: &JobId) -> io::Result<tokio::fs::File> {
        tokio::fs::File::open(self.path(job)).await
    }

    /// Removes the payload of a job. That there is none is fine.
    pub async fn remove(&self, job: &JobId) -> io::Result<()> {
        let path = self.path(job);
        let bytes = match tokio::fs::metadata(&path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?.len(),
        };
        // Not made durable: a file that comes back after a crash is an orphan, and swept.
        tokio::fs::remove_file(path).await?;
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        Ok(())
    }

    /// Removes what a crash left behind: cut-off uploads, and payloads of jobs that `keep` denies.
    ///
    /// Blocks; for the start of the process, before the first upload.
    pub fn sweep(&self, keep: impl Fn(&JobId) -> bool) -> io::Result<Swept> {
        let mut swept = Swept::default();
        for entry in std::fs::read_dir(self.incoming())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                swept.foreign += 1;
            } else {
                std::fs::remove_file(entry.path())?;
                swept.incoming += 1;
            }
        }
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == INCOMING {
                continue;
            }
            let job = name.to_str().and_then(|name| name.parse::<JobId>().ok());
            match job.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file())) {
                None => swept.foreign += 1,
                Some(job) if keep(&job) => {
                    self.used.fetch_add(entry.metadata()?.len(), Ordering::AcqRel);
                }
                Some(_) => {
                    std::fs::remove_file(entry.path())?;
                    swept.orphans += 1;
                }
            }
        }
        Ok(swept)
    }
}

/// Whether there is room on the disk of a directory: an error of kind `StorageFull` when there is not.
pub fn check_room(dir: &Path) -> io::Result<()> {
    if free_bytes(dir)? < FREE_BYTES_MIN {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "it would use up the disk"));
    }
    Ok(())
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Makes the names in a directory durable.
pub fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
