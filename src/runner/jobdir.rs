//! The directory of one job. Until its job is accepted, and from when it is forgotten, it lives as long as something
//! refers to it; in between it outlives the process.
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

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::job::{Job, JobId};
use super::logs::{Extent, Extents};
use super::record::{self, Memory, Record};
use super::workdir::WorkDir;

/// The worker's data directory. While this lives, no other process uses it.
#[derive(Debug)]
pub struct DataDir {
    jobs: PathBuf,
    memory: PathBuf,
    _lock: File,
}

/// The directory of one job. Dropping it removes it, in the background where there is a runtime, unless it is kept.
#[derive(Debug)]
pub struct JobDir {
    path: PathBuf,
    kept: AtomicBool,
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
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let dir = JobDir { path, kept: AtomicBool::new(false) };
            let restored = match record::read(&dir.record_path()) {
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
                Err(error) => log::error!("{name}: an earlier process's job cannot be restored: {error}"),
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
        let path = self.jobs.join(id);
        DirBuilder::new().mode(0o700).create(&path)?;
        let dir = JobDir { path, kept: AtomicBool::new(false) };
        for part in [dir.upload(), dir.path.join("work"), dir.tmp(), dir.shm()] {
            fs::create_dir(part)?;
        }
        Ok(dir)
    }
}

impl JobDir {
    /// Lets it outlive this process.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Release);
    }

    /// Lets it go when nothing refers to it any more.
    pub fn release(&self) {
        self.kept.store(false, Ordering::Release);
    }

    /// Puts on record what is known of the job.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn record(&self, record: &Record) -> io::Result<()> {
        record::write(&self.record_path(), record)
    }

    fn record_path(&self) -> PathBuf {
        self.path.join("record.json")
    }

    /// How much of the job's logs is on disk.
    #[must_use]
    pub fn log_extents(&self) -> Extents {
        let length = |name| self.path.join(name).metadata().map_or(0, |metadata| metadata.len());
        let extent = |name| Extent { kept: length(name), written: length(name) };
        Extents { stdout: extent("stdout"), stderr: extent("stderr") }
    }

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

    /// What the job sees as `/tmp`.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// What the job sees as `/dev/shm`.
    #[must_use]
    pub fn shm(&self) -> PathBuf {
        self.path.join("shm")
    }

    /// Removes what is of no use once the job has ended.
    pub fn remove_all_but_results(&self) {
        for part in [self.upload(), self.tmp(), self.shm()].iter().filter(|part| part.exists()) {
            if let Err(error) = remove_tree(part) {
                log::warn!("{} cannot be removed: {error}", part.display());
            }
        }
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
        if *self.kept.get_mut() {
            return;
        }
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

/// Removes a tree, also where a job has taken away its owner's rights to directories, and however deep it has nested
/// them: each directory is moved up before it is emptied, so that neither a path nor a recursion grows with the depth.
fn remove_tree(root: &Path) -> io::Result<()> {
    let owners = || Permissions::from_mode(0o700);
    fs::set_permissions(root, owners())?;
    let aside = make_aside(root)?;
    let mut moved: u64 = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if !path.symlink_metadata()?.is_dir() {
                fs::remove_file(path)?;
            } else if path != aside {
                fs::set_permissions(&path, owners())?;
                let up = aside.join(moved.to_string());
                moved += 1;
                fs::rename(path, &up)?;
                pending.push(up);
            }
        }
        if dir != root {
            fs::remove_dir(dir)?;
        }
    }
    fs::remove_dir(aside)?;
    fs::remove_dir(root)
}

/// Makes a directory with a name that nothing in the tree's root has.
fn make_aside(root: &Path) -> io::Result<PathBuf> {
    let mut number: u64 = 0;
    loop {
        let aside = root.join(format!(".removed-{number}"));
        match fs::create_dir(&aside) {
            Ok(()) => return Ok(aside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn tree_goes_however_deep_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let job = data.create_job("job_1_1").unwrap();
        // Deeper than the longest path.
        let dig = "import os\nfor _ in range(5000): os.mkdir('d'); os.chdir('d')\nopen('.removed-0', 'w')";
        let work = job.work().unwrap();
        fs::create_dir(work.path().join(".removed-0")).unwrap();
        let mut python = std::process::Command::new("python3");
        assert!(python.args(["-c", dig]).current_dir(work.path()).status().unwrap().success());
        assert!(!work.walk().truncated);
        let path = job.path().to_owned();
        drop(job);
        assert!(!path.exists());
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
