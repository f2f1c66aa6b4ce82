//! What the archives of one upload hold together, and the rules for it.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};

/// What archives may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Entries of all archives of one upload.
    pub entries_max: u32,
    /// Bytes that they unpack to.
    pub unpacked_bytes_max: u64,
}

/// What unpacks to no more than this is never called a bomb: small archives of zeros are honest, and their ratio is that of gzip itself.
pub const HARMLESS_BYTES: u64 = 64 << 20;

/// Past it, so many bytes may come out of one that goes in; logs and tables reach a few dozen.
pub const RATIO_MAX: u64 = 200;

/// Symbolic links whose names are remembered, at 8 bytes each.
const LINKS_MAX: usize = 16_384;

/// Counted over the archives of one upload.
pub struct Contents {
    limits: ArchiveLimits,
    entries: u32,
    unpacked: u64,
    packed: u64,
    holes: u64,
    /// Hashes of the paths that are symbolic links; what is below one of them would be unpacked where it points.
    links: HashSet<u64>,
    hashes: RandomState,
}

impl Contents {
    pub fn new(limits: ArchiveLimits) -> Self {
        Self {
            limits,
            entries: 0,
            unpacked: 0,
            packed: 0,
            holes: 0,
            links: HashSet::new(),
            hashes: RandomState::new(),
        }
    }

    pub fn packed(&mut self, bytes: usize) {
        self.packed += bytes as u64;
    }

    /// Counts bytes that unpacking would write.
    pub fn unpacked(&mut self, bytes: u64) -> Result<(), String> {
        self.unpacked = self.unpacked.saturating_add(bytes);
        let limit = self.limits.unpacked_bytes_max;
        if self.unpacked > limit {
            return Err(format!("unpacks to more than the limit of {limit} bytes"));
        }
        if self.unpacked > HARMLESS_BYTES + RATIO_MAX * self.packed {
            return Err(format!("unpacks to more than {RATIO_MAX} times what is sent"));
        }
        Ok(())
    }

    /// Whether so many bytes more could be unpacked: a size that is a lie is refused before it is waited for.
    pub fn check_room(&self, bytes: u64) -> Result<(), String> {
        let limit = self.limits.unpacked_bytes_max;
        if self.unpacked.saturating_add(self.holes).saturating_add(bytes) > limit {
            return Err(format!("would unpack to more than the limit of {limit} bytes"));
        }
        Ok(())
    }

    /// Counts bytes that a sparse file has without having them in the archive. They take no room on most disks, so the ratio says nothing.
    pub fn holes(&mut self, bytes: u64) -> Result<(), String> {
        self.check_room(bytes)?;
        self.holes += bytes;
        Ok(())
    }

    pub fn entry(&mut self) -> Result<(), String> {
        self.entries = self.entries.saturating_add(1);
        let limit = self.limits.entries_max;
        if self.entries > limit {
            return Err(format!("is past the limit of {limit} entries"));
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Whether an entry may be unpacked under this path.
    pub fn check_path(&self, path: &[u8]) -> Result<(), String> {
        let names = names(path)?;
        if self.passes_link(&names[..names.len().saturating_sub(1)]) {
            return Err("lies below a symbolic link of the archive".into());
        }
        Ok(())
    }

    /// Whether a symbolic link may point there. Its `..` must come first and not leave the root: then, because no entry lies below
    /// a link, wherever links lead through each other is inside.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), String> {
        let escapes = || {
            format!(
                "is a link to {:?}, which leaves the job's directory or may",
                String::from_utf8_lossy(target)
            )
        };
        let names = names(path)?;
        let depth = names.len().saturating_sub(1);
        let mut steps = target.split(|byte| *byte == b'/').filter(|step| !matches!(*step, b"" | b"."));
        let up = steps.by_ref().take_while(|step| *step == b"..").count();
        // What ended the run of `..` was taken, and is none.
        if target.starts_with(b"/") || up > depth || steps.any(|step| step == b"..") || target.contains(&0) {
            return Err(escapes());
        }
        if self.links.len() >= LINKS_MAX {
            return Err(format!("is past the limit of {LINKS_MAX} symbolic links"));
        }
        let hash = self.hash(&names);
        self.links.insert(hash);
        Ok(())
    }

    /// Whether a hard link may be to this path. One to a symbolic link would be that link, in another place.
    pub fn check_hard_link(&self, target: &[u8]) -> Result<(), String> {
        let shown = String::from_utf8_lossy(target);
        let names = names(target).map_err(|why| format!("is a link to {shown:?}, which {why}"))?;
        if self.passes_link(&names) {
            return Err(format!("is a hard link to {shown:?}, which is or passes a symbolic link"));
        }
        Ok(())
    }

    /// Whether a path or what is above it is a link.
    fn passes_link(&self, names: &[&[u8]]) -> bool {
        !self.links.is_empty()
            && (1..=names.len()).any(|length| self.links.contains(&self.hash(&names[..length])))
    }

    fn hash(&self, names: &[&[u8]]) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        for name in names {
            hasher.write(name);
            hasher.write_u8(b'/');
        }
        hasher.finish()
    }
}

/// The names that a relative path is made of.
fn names(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    if path.starts_with(b"/") {
        return Err("is an absolute path".into());
    }
    if path.contains(&0) {
        return Err("holds a NUL byte".into());
    }
    let names: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.iter().any(|name| *name == b"..") {
        return Err("holds `..`".into());
    }
    Ok(names)
}
