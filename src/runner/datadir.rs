//! The worker's data directory.
//!
//! ```text
//! DATA/worker.lock     held by the process that owns the data directory
//! DATA/memory.json     since when it knows all jobs
//! DATA/jobs/ID/record.json  what is known of the job, once it is accepted
//! DATA/jobs/ID/work    what the job sees as its world
//! DATA/jobs/ID/tmp     its /tmp, until it ends
//! DATA/jobs/ID/shm     its /dev/shm, until it ends
//! DATA/jobs/ID/upload  archives, until they are unpacked
//! DATA/jobs/ID/stdout  and stderr
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::job::{Job, JobId};
use super::jobdir::JobDir;
use super::record::{self, Memory};

/// The worker's data directory. While this lives, no other process uses it.
#[derive(Debug)]
pub struct DataDir {
    jobs: PathBuf,
    memory: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens the directory, making it if need be.
    ///
    /// # Errors
    /// When the directory cannot be made or written, or another worker uses it.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let path = path.canonicalize()?;
        let (lock, jobs) = (path.join("worker.lock"), path.join("jobs"));
        // Whatever is called "jobs" in a directory that was never a worker's is not ours to remove.
        if jobs.exists() && !lock.exists() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it has a \"jobs\" that no worker has made",
            ));
        }
        let lock = OpenOptions::new().create(true).write(true).truncate(false).open(lock)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another worker is using it"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&jobs)?;
        let data = Self { jobs, memory: path.join("memory.json"), _lock: lock };
        if !data.memory.exists() {
            data.remember_since(SystemTime::now())?;
        }
        Ok(data)
    }

    /// The jobs of earlier processes, as far as they had been accepted; removes what is left of others.
    ///
    /// # Errors
    /// When the directory cannot be read. A job whose record cannot be made sense of is removed.
    pub fn restore(&self) -> io::Result<Vec<Arc<Job>>> {
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&self.jobs)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let dir = JobDir::at(entry.path());
            let restored = match dir.read_record() {
                Ok(Some(record)) => Job::restore(JobId::of_directory(name.clone()), record, dir),
                // Its upload was not whole when the process ended.
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match restored {
                Ok(job) => {
                    job.dir.keep();
                    jobs.push(Arc::new(job));
                }
                Err(error) => {
                    log::error!("{name}: an earlier process's job cannot be restored: {error}");
                    self.remember_since(SystemTime::now())?;
                }
            }
        }
        Ok(jobs)
    }

    /// Since when all jobs that were accepted are known.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remembers_since(&self) -> io::Result<SystemTime> {
        Ok(record::read::<Memory>(&self.memory)?.map_or_else(SystemTime::now, |memory| memory.since))
    }

    /// Puts on record that jobs from before then may be missing: before they are.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn remember_since(&self, since: SystemTime) -> io::Result<()> {
        record::write(&self.memory, &Memory { since })
    }

    /// Where the jobs' directories are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.jobs
    }

    /// Makes the directory of a new job.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create_job(&self, id: &str) -> io::Result<JobDir> {
        JobDir::create(self.jobs.join(id))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn data_directory_has_one_owner_who_removes_what_became_no_job() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let job = first.create_job("job_1_1").unwrap();
        fs::write(job.work().unwrap().path().join("left"), "").unwrap();
        std::mem::forget(job);
        assert!(DataDir::open(&path).unwrap_err().to_string().contains("another worker"));

        drop(first);
        assert!(DataDir::open(&path).unwrap().restore().unwrap().is_empty());
        assert_eq!(fs::read_dir(path.join("jobs")).unwrap().count(), 0);
    }

    #[test]
    fn directory_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("jobs")).unwrap();
        assert!(DataDir::open(dir.path()).unwrap_err().to_string().contains("no worker"));
        assert!(dir.path().join("jobs").exists());
    }

    #[test]
    fn record_that_makes_no_sense_takes_its_job_along_and_is_not_forgotten_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let before = data.remembers_since().unwrap();
        let job = data.create_job("job_1_1").unwrap();
        fs::write(job.path().join("record.json"), "{}").unwrap();
        std::mem::forget(job);
        assert!(data.restore().unwrap().is_empty());
        assert!(data.remembers_since().unwrap() > before);
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    }
}
