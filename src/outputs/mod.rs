//! Outputs that outlive their worker: fetched when a job has ended, and kept for a while.
//!
//! ```text
//! <dir>/incoming/<random>/<n>     being fetched; swept at start
//! <dir>/<job id>.<version>/<n>    a kept file; its name, size and digest stand in the store
//! ```
//!
//! The outputs of a run are kept all or not at all, and only what the store says to be kept is served: the directory appears whole,
//! before the store says so, and goes after the store has said so. It bears the version of the job's row, so that a
//! job which is retried and ends again never meets what its first run left. Files are named by their place in the store's list
//! and never by their own names, which a stranger chose.

pub mod collect;
pub mod expire;
mod fetch;
pub mod policy;
pub mod quota;
#[cfg(test)]
mod tests;
mod turns;

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::{Builder, TempDir};
use tokio::fs::File;
use tokio::task::spawn_blocking;

use crate::spool::{check_room, sync_directory};
use crate::store::EndedRun;

const INCOMING: &str = "incoming";

/// The directory of kept outputs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outputs {
    dir: Arc<Path>,
}

/// The outputs of a run while they come in. Dropped unpublished, they leave nothing behind.
#[derive(Debug)]
pub struct Incoming {
    outputs: Outputs,
    dir: TempDir,
}

/// What a [`Outputs::sweep`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Collections that were cut off, removed.
    pub incoming: u64,
    /// Outputs that the store does not know as kept, removed.
    pub orphans: u64,
    /// Entries that are none of ours, left alone.
    pub foreign: u64,
}

// === impl Outputs ===

impl Outputs {
    /// Opens the directory, and makes it (mode 0700) where it is missing.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = std::path::absolute(dir.into())?;
        DirBuilder::new().mode(0o700).recursive(true).create(dir.join(INCOMING))?;
        sync_directory(&dir)?;
        if let Some(parent) = dir.parent() {
            sync_directory(parent)?;
        }
        Ok(Self { dir: dir.into() })
    }

    fn incoming(&self) -> PathBuf {
        self.dir.join(INCOMING)
    }

    fn path(&self, run: &EndedRun) -> PathBuf {
        self.dir.join(format!("{}.{}", run.job, run.version))
    }

    /// Whether there is room for more: an error of kind `StorageFull` when there is not.
    fn check_room(&self) -> io::Result<()> {
        check_room(&self.dir)
    }

    fn begin(&self) -> io::Result<Incoming> {
        self.check_room()?;
        let dir = Builder::new().permissions(Permissions::from_mode(0o700)).tempdir_in(self.incoming())?;
        Ok(Incoming { outputs: self.clone(), dir })
    }

    /// Opens a kept file by its place in the store's list.
    pub async fn open_file(&self, run: &EndedRun, index: u32) -> io::Result<File> {
        File::open(self.path(run).join(index.to_string())).await
    }

    /// Removes what is kept of a run, if anything is. What cannot be removed is an orphan, and swept at the next start.
    pub async fn remove(&self, run: &EndedRun) {
        match tokio::fs::remove_dir_all(self.path(run)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("the outputs of job {} cannot be removed: {error}", run.job);
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Removes what a crash left behind: cut-off collections, and outputs of runs that `kept` denies.
    ///
    /// Blocks; for the start of the process, before the first collection.
    pub fn sweep(&self, kept: impl Fn(&EndedRun) -> bool) -> io::Result<Swept> {
        let mut swept = Swept::default();
        for entry in std::fs::read_dir(self.incoming())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
                swept.incoming += 1;
            } else {
                swept.foreign += 1;
            }
        }
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == INCOMING {
                continue;
            }
            let run = name.to_str().and_then(run_of);
            match run.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                None => swept.foreign += 1,
                Some(run) if kept(&run) => {}
                Some(_) => {
                    std::fs::remove_dir_all(entry.path())?;
                    swept.orphans += 1;
                }
            }
        }
        Ok(swept)
    }
}

/// The run that a directory is named after.
fn run_of(name: &str) -> Option<EndedRun> {
    let (job, version) = name.split_once('.')?;
    Some(EndedRun { job: job.parse().ok()?, version: version.parse().ok()? })
}

// === impl Incoming ===

impl Incoming {
    /// Makes a file (mode 0600), empty, also where an earlier try has left one.
    async fn file(&self, index: u32) -> io::Result<File> {
        let path = self.dir.path().join(index.to_string());
        let create =
            move || OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        blocking(create).await.map(File::from_std)
    }

    /// Makes the files, each of which is durable, durable under the name of their run.
    async fn publish(self, run: &EndedRun) -> io::Result<()> {
        let target = self.outputs.path(run);
        blocking(move || {
            sync_directory(self.dir.path())?;
            // What is there was published by a try that the store never heard of.
            match std::fs::remove_dir_all(&target) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            std::fs::rename(self.dir.path(), &target)?;
            let _moved = self.dir.keep();
            sync_directory(&self.outputs.dir)
        })
        .await
    }
}

/// Runs what touches the disk where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|cause| Err(io::Error::other(cause)))
}
