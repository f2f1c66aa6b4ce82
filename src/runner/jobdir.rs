//! The directory of one job, which lives exactly as long as something refers to the job.
//!
//! ```text
//! DATA/worker.lock     held by the process that owns the data directory
//! DATA/jobs/ID/work    what the job sees as its world
//! DATA/jobs/ID/upload  archives, until they are unpacked
//! DATA/jobs/ID/stdout  and stderr
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::workdir::WorkDir;

/// The worker's data directory. While this lives, no other process uses it.
#[derive(Debug)]
pub struct DataDir {
    jobs: PathBuf,
    _lock: File,
}

/// The directory of one job. Dropping it removes it, in the background where there is a runtime.
#[derive(Debug)]
pub struct JobDir {
    path: PathBuf,
}

impl DataDir {
    /// Opens the directory, making it if need be, and removes what an earlier process left of its jobs.
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
        if jobs.exists() {
            remove_tree(&jobs)?;
        }
        DirBuilder::new().mode(0o700).create(&jobs)?;
        Ok(Self { jobs, _lock: lock })
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
        let path = self.jobs.join(id);
        DirBuilder::new().mode(0o700).create(&path)?;
        let dir = JobDir { path };
        fs::create_dir(dir.upload())?;
        fs::create_dir(dir.path.join("work"))?;
        Ok(dir)
    }
}

impl JobDir {
    /// Where the logs are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where archives wait to be unpacked.
    #[must_use]
    pub fn upload(&self) -> PathBuf {
        self.path.join("upload")
    }

    /// Where the job works.
    ///
    /// # Errors
    /// When it is gone.
    pub fn work(&self) -> io::Result<WorkDir> {
        WorkDir::new(&self.path.join("work"))
    }
}

impl Drop for JobDir {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            if let Err(error) = remove_tree(&path) {
                log::warn!("{} cannot be removed: {error}", path.display());
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Removes a tree, also where a job has taken away its owner's rights to directories.
fn remove_tree(path: &Path) -> io::Result<()> {
    let Err(first) = fs::remove_dir_all(path) else { return Ok(()) };
    if first.kind() != io::ErrorKind::PermissionDenied {
        return Err(first);
    }
    let mut pending = vec![path.to_owned()];
    while let Some(dir) = pending.pop() {
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&dir)?.flatten() {
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    fs::remove_dir_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_directory_has_one_owner_who_starts_clean() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let job = first.create_job("job_1_1").unwrap();
        fs::write(job.work().unwrap().path().join("left"), "").unwrap();
        std::mem::forget(job);
        assert!(DataDir::open(&path).unwrap_err().to_string().contains("another worker"));

        drop(first);
        DataDir::open(&path).unwrap();
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
    fn job_directory_goes_with_its_value_whatever_the_job_did_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let job = data.create_job("job_1_1").unwrap();
        let locked = job.work().unwrap().path().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::write(locked.join("file"), "").unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o000)).unwrap();
        let path = job.path().to_owned();
        drop(job);
        assert!(!path.exists());
    }
}
