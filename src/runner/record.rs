//! What outlives the worker's process: a small file in each job's directory, and one for them all.
//!
//! A job's record is on disk before its client hears that the job was taken, and again before anybody hears of its end. So
//! a worker that was killed knows its jobs when it is back: those that had ended with their results, those that ran as
//! lost. The records are files and no database, so that a job and its record can only go together.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Instant, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::job::{Facts, Finished};
use super::logs::Extents;

/// A job as its directory tells it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// What was known from its beginning.
    pub facts: Facts,
    /// How it ended, and how much it had written, if it has.
    pub end: Option<(Finished, Extents)>,
}

/// How far back the worker knows all of its jobs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Memory {
    /// No job that was taken since then is missing.
    pub since: SystemTime,
}

/// Puts a value into a file such that it is there whole or not at all, and after a power failure too.
///
/// # Errors
/// When the disk fails or is full.
pub fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let dir = path.parent().expect("a file is in a directory");
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    File::open(dir)?.sync_all()
}

/// Reads back what [`write()`] has written; `None` where there is none.
///
/// # Errors
/// When it cannot be read, or is of another version.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The moment of this process's clock that a time of the calendar was; one to come counts as now.
#[must_use]
pub fn instant_of(at: SystemTime) -> Instant {
    let now = Instant::now();
    now.checked_sub(at.elapsed().unwrap_or_default()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_what_was_not_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.json");
        assert!(read::<Memory>(&path).unwrap().is_none());
        let since = SystemTime::UNIX_EPOCH;
        write(&path, &Memory { since }).unwrap();
        assert_eq!(read::<Memory>(&path).unwrap().unwrap().since, since);
        fs::write(&path, "{").unwrap();
        assert!(read::<Memory>(&path).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
