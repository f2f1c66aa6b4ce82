//! Unpacks an uploaded archive into a job's work directory, where nothing else writes yet.
//!
//! Files and directories are placed first and links last, so that no entry is ever written *through* a link, whatever
//! order an archive has them in. Nothing leaves the directory: a name that climbs is refused, and so is a link that
//! could lead out.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use super::path::{JobPath, JobPathError};
use super::workdir::WorkDir;

mod tarball;
mod zipball;

/// Deepest entry taken. Directories that a name implies are not counted as entries, so it must not imply thousands.
const DEPTH_MAX: usize = 64;

/// What one job's archives may unpack to, altogether.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// The kinds of archive that are unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// A gzip-compressed tar file.
    TarGz,
    /// A zip file.
    Zip,
}

/// Why an archive was not unpacked.
#[derive(Debug)]
pub enum UnpackError {
    /// The archive is damaged, or not what its name says.
    Damaged(String),
    /// An entry must not be unpacked: its name, and why.
    Entry(String, String),
    /// The archives hold more entries or bytes than a job may have. Names the entry that was one too many.
    TooLarge(String, Limits),
    /// The work directory could not be written.
    Io(io::Error),
}

/// Places entries under a root, counting them against the limits.
pub struct Unpacker {
    /// Canonical: a parent that compares unequal to its canonical self is reached through a link.
    root: PathBuf,
    limits: Limits,
    entries: u64,
    bytes: u64,
    links: Vec<Link>,
}

struct Link {
    path: JobPath,
    target: String,
    kind: LinkKind,
}

#[derive(Clone, Copy)]
enum LinkKind {
    Symbolic,
    Hard,
}

// === impl ArchiveKind ===

impl ArchiveKind {
    /// The kind that a file's name stands for, or `None` for a plain file.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
            Some(Self::TarGz)
        } else {
            name.ends_with(".zip").then_some(Self::Zip)
        }
    }
}

// === impl Unpacker ===

impl Unpacker {
    /// Unpacks into an existing directory.
    #[must_use]
    pub fn new(work: &WorkDir, limits: Limits) -> Self {
        Self { root: work.path().to_owned(), limits, entries: 0, bytes: 0, links: Vec::new() }
    }

    /// Unpacks one archive. Several may be unpacked into one root; a later file replaces an earlier one.
    ///
    /// # Errors
    /// When the archive is damaged, too large, or holds an entry that must not be unpacked.
    pub fn unpack(&mut self, archive: &Path, kind: ArchiveKind) -> Result<(), UnpackError> {
        let file = fs::File::open(archive).map_err(UnpackError::Io)?;
        match kind {
            ArchiveKind::TarGz => tarball::unpack(file, self)?,
            ArchiveKind::Zip => zipball::unpack(file, self)?,
        }
        self.place_links()
    }

    fn count(&mut self, name: &str) -> Result<(), UnpackError> {
        if name.matches('/').count() > DEPTH_MAX {
            return Err(refuse(name, format!("it lies deeper than {DEPTH_MAX} directories")));
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(UnpackError::TooLarge(name.to_owned(), self.limits));
        }
        Ok(())
    }

    fn place_dir(&mut self, name: &str) -> Result<(), UnpackError> {
        self.count(name)?;
        match JobPath::parse(name) {
            // `tar -C dir .` begins with the directory itself.
            Err(JobPathError::Empty) => Ok(()),
            Err(error) => Err(refuse(name, error)),
            Ok(path) => fs::create_dir_all(self.root.join(&path)).map_err(|error| conflict(name, error)),
        }
    }

    fn place_file(&mut self, name: &str, mode: u32, content: &mut dyn Read) -> Result<(), UnpackError> {
        self.count(name)?;
        let full = self.make_room(name)?;
        // The owner must be able to read and replace it; set-id bits and the like are dropped.
        let mode = (mode & 0o777) | 0o600;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(full)
            .map_err(|error| conflict(name, error))?;
        let left = self.limits.bytes - self.bytes;
        let written = io::copy(&mut content.take(left.saturating_add(1)), &mut file).map_err(|error| {
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => UnpackError::Io(error),
                _ => UnpackError::Damaged(format!("entry {name:?}: {error}")),
            }
        })?;
        if written > left {
            return Err(UnpackError::TooLarge(name.to_owned(), self.limits));
        }
        self.bytes += written;
        Ok(())
    }

    fn defer_link(&mut self, name: &str, target: &str, kind: LinkKind) -> Result<(), UnpackError> {
        self.count(name)?;
        let path = JobPath::parse(name).map_err(|error| refuse(name, error))?;
        self.links.push(Link { path, target: target.to_owned(), kind });
        Ok(())
    }

    fn place_links(&mut self) -> Result<(), UnpackError> {
        let links = std::mem::take(&mut self.links);
        // Hard links first: they must find files, not symbolic links.
        for link in links.iter().filter(|link| matches!(link.kind, LinkKind::Hard)) {
            let name = link.path.as_str();
            let target = JobPath::parse(&link.target).map_err(|_| leads_out(link))?;
            let target = self.root.join(target);
            // A second place for a symbolic link would change where it leads.
            if !target.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                return Err(refuse(
                    name,
                    format!("it is a link to {:?}, which is no file of the archive", link.target),
                ));
            }
            fs::hard_link(target, self.make_room(name)?).map_err(|error| conflict(name, error))?;
        }
        for link in links.iter().filter(|link| matches!(link.kind, LinkKind::Symbolic)) {
            if !stays_inside(&link.path, &link.target) {
                return Err(leads_out(link));
            }
            let full = self.make_room(link.path.as_str())?;
            symlink(&link.target, full).map_err(|error| conflict(link.path.as_str(), error))?;
        }
        Ok(())
    }

    /// Makes the parent directories of an entry and removes the file that an earlier entry put in its place.
    fn make_room(&self, name: &str) -> Result<PathBuf, UnpackError> {
        let path = JobPath::parse(name).map_err(|error| refuse(name, error))?;
        let full = self.root.join(&path);
        let parent = full.parent().expect("a path below the root has a parent");
        fs::create_dir_all(parent).map_err(|error| conflict(name, error))?;
        // The links of an earlier archive are in place, and those that were placed just now.
        if parent.canonicalize().map_err(UnpackError::Io)? != parent {
            return Err(refuse(name, "it would be written through a link"));
        }
        match fs::remove_file(&full) {
            Ok(()) => Ok(full),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(full),
            Err(error) => Err(conflict(name, error)),
        }
    }
}

/// Whether a symbolic link can only lead to places below the root: first up, by no more than the link's own depth,
/// then down. A `..` after a name could climb out through another link; without those, each link is safe because the
/// others are.
fn stays_inside(link: &JobPath, target: &str) -> bool {
    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
        return false;
    }
    let mut parts = target.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
    let mut climbs = 0;
    while parts.next_if_eq(&"..").is_some() {
        climbs += 1;
    }
    climbs <= link.as_str().matches('/').count() && !parts.any(|part| part == "..")
}

fn refuse(name: &str, why: impl fmt::Display) -> UnpackError {
    UnpackError::Entry(name.to_owned(), why.to_string())
}

fn leads_out(link: &Link) -> UnpackError {
    refuse(link.path.as_str(), format!("it is a link to {:?}, out of the job's directory", link.target))
}

/// Tells an archive that contradicts itself from a disk that fails.
fn conflict(name: &str, error: io::Error) -> UnpackError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => UnpackError::Io(error),
        _ => refuse(name, error),
    }
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(what) => write!(f, "The archive is damaged or not what its name says: {what}"),
            Self::Entry(name, why) => write!(f, "The archive's entry {name:?} cannot be unpacked: {why}"),
            Self::TooLarge(name, limits) => write!(
                f,
                "The archive unpacks to more than a job may have ({} entries, {} bytes); it passes that at {name:?}",
                limits.entries, limits.bytes
            ),
            Self::Io(_) => f.write_str("The worker cannot write the job's directory"),
        }
    }
}

impl std::error::Error for UnpackError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Damaged(_) | Self::Entry(..) | Self::TooLarge(..) => None,
        }
    }
}

#[cfg(test)]
mod tests;
