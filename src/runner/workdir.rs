//! A job's work directory, read from outside while the job may still be writing to it.
//!
//! A job can put a symbolic link, a pipe or a device where a file was a moment ago. So nothing is decided by looking
//! at a path and then opening it: a file is opened first, and the kernel is then asked (through `/proc/self/fd`) what
//! was really opened. Only the very path that was asked for will do, which rules out every link on the way.

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::path::JobPath;

/// Linux's `O_NONBLOCK`: without it, opening a named pipe that a job left there would wait for ever.
const O_NONBLOCK: i32 = 0o4000;

/// Most files and directories looked at in one job: past it the listing says that it is cut.
pub const FILES_MAX: usize = 100_000;

/// A job's work directory.
#[derive(Debug, Clone)]
pub struct WorkDir {
    /// Canonical, so that it compares equal to what the kernel reports.
    root: PathBuf,
}

/// A regular file of a job, open for reading.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub file: File,
    /// Its metadata, of the open file and not of the path.
    pub metadata: Metadata,
}

/// Why a file is not given out.
#[derive(Debug)]
pub enum OpenError {
    /// There is no such file.
    Missing,
    /// The path leads through a symbolic link, or may not be read.
    Forbidden,
    /// The disk failed.
    Io(io::Error),
}

/// A regular file found in the directory.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Found {
    /// Where it is.
    pub path: JobPath,
    /// What it was when it was seen.
    pub stamp: Stamp,
}

/// What tells one state of a file from another without reading it. The change time cannot be set back by a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// All regular files of the directory, sorted by path.
#[derive(Debug, Default)]
pub struct Walk {
    /// The files.
    pub files: Vec<Found>,
    /// Whether there are more than were looked at.
    pub truncated: bool,
}

impl WorkDir {
    /// Takes an existing directory.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn new(root: &Path) -> io::Result<Self> {
        Ok(Self { root: root.canonicalize()? })
    }

    /// The directory's canonical path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Opens a regular file of the directory; never through a link.
    ///
    /// # Errors
    /// When there is no such file, or it must not be read.
    pub fn open(&self, path: &JobPath) -> Result<OpenFile, OpenError> {
        let full = self.root.join(path);
        let file = open_exactly(&full)?;
        let metadata = file.metadata().map_err(OpenError::Io)?;
        if !metadata.is_file() {
            return Err(OpenError::Missing);
        }
        Ok(OpenFile { file, metadata })
    }

    /// Finds the regular files. Links, pipes and the like are passed over, as are names that are not UTF-8 (no URL of
    /// ours could name them) and directories that cannot be read.
    #[must_use]
    pub fn walk(&self) -> Walk {
        let mut walk = Walk::default();
        let mut seen = 0;
        let visited = self.visit(|path, metadata| {
            if let Some(path) = path.to_str().filter(|_| metadata.is_file()) {
                let path = JobPath::parse(path).expect("a directory entry's name is a plain part");
                walk.files.push(Found { path, stamp: Stamp::of(metadata) });
            }
            seen += 1;
            if seen < FILES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        walk.truncated = visited.is_break();
        walk.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        walk
    }

    /// Visits all that is in the directory, however deep, with its path from here; never through a link.
    pub(super) fn visit(
        &self,
        mut entry_found: impl FnMut(&Path, &Metadata) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut pending = vec![PathBuf::new()];
        while let Some(dir) = pending.pop() {
            let Ok(handle) = open_exactly(&self.root.join(&dir)) else { continue };
            // Read through the open directory: by its path, it could meanwhile be a link to another.
            let Ok(entries) = fs::read_dir(descriptor_path(&handle)) else { continue };
            for entry in entries.flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                let path = dir.join(entry.file_name());
                entry_found(&path, &metadata)?;
                if metadata.is_dir() {
                    pending.push(path);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

impl Stamp {
    /// The stamp of a file with this metadata.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl fmt::Display for Stamp {
    /// Text that differs whenever the stamp does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, inode, modified, changed } = self;
        write!(f, "{size:x}-{inode:x}-{:x}.{:x}-{:x}.{:x}", modified.0, modified.1, changed.0, changed.1)
    }
}

/// Opens a path and makes sure that it led nowhere else.
fn open_exactly(full: &Path) -> Result<File, OpenError> {
    let file = match OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(full) {
        Ok(file) => file,
        Err(error) => return Err(explain(full, error)),
    };
    match fs::read_link(descriptor_path(&file)) {
        Ok(opened) if opened == full => Ok(file),
        // Somewhere else, or already unlinked (the kernel then adds " (deleted)").
        Ok(_) if full.symlink_metadata().is_err() => Err(OpenError::Missing),
        Ok(_) => Err(OpenError::Forbidden),
        Err(error) => Err(OpenError::Io(error)),
    }
}

fn explain(full: &Path, error: io::Error) -> OpenError {
    match (full.symlink_metadata(), error.kind()) {
        (Ok(metadata), _) if metadata.is_symlink() => OpenError::Forbidden,
        (Ok(metadata), _) if !metadata.is_file() && !metadata.is_dir() => OpenError::Missing,
        (_, io::ErrorKind::PermissionDenied) => OpenError::Forbidden,
        (_, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename) => {
            OpenError::Missing
        }
        _ => OpenError::Io(error),
    }
}

fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn job_path(text: &str) -> JobPath {
        JobPath::parse(text).unwrap()
    }

    #[test]
    fn only_regular_files_reached_without_a_link_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/a b.txt"), "x").unwrap();
        symlink(outside.path(), root.join("escape")).unwrap();
        symlink("real", root.join("alias")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        UnixListener::bind(root.join("socket")).unwrap();
        let work = WorkDir::new(root).unwrap();

        assert_eq!(work.open(&job_path("real/a b.txt")).unwrap().metadata.len(), 1);
        for forbidden in ["escape", "alias/a b.txt", "loop"] {
            assert!(matches!(work.open(&job_path(forbidden)), Err(OpenError::Forbidden)), "{forbidden}");
        }
        for missing in ["nothing", "real", "real/a b.txt/x", "socket", &"n".repeat(300)] {
            assert!(matches!(work.open(&job_path(missing)), Err(OpenError::Missing)), "{missing}");
        }
        let found: Vec<String> = work.walk().files.into_iter().map(|found| found.path.to_string()).collect();
        assert_eq!(found, ["real/a b.txt"]);
    }

    #[test]
    fn named_pipe_does_not_block_the_reader() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let work = WorkDir::new(dir.path()).unwrap();
        assert!(matches!(work.open(&job_path("pipe")), Err(OpenError::Missing)));
    }
}
