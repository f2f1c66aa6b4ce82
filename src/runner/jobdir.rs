//! The directory of one job. Until its job is accepted, and from when it is forgotten, it lives as long as something
//! refers to it; in between it outlives the process.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::logs::{Extent, Extents};
use super::record::{self, Record};
use super::workdir::WorkDir;

/// The directory of one job. Dropping it removes it, in the background where there is a runtime, unless it is kept.
#[derive(Debug)]
pub struct JobDir {
    path: PathBuf,
    kept: AtomicBool,
}

impl JobDir {
    /// A directory that is there.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, kept: AtomicBool::new(false) }
    }

    /// Makes the directory of a new job.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(&path)?;
        let dir = Self::at(path);
        for part in [dir.upload(), dir.path.join("work"), dir.tmp(), dir.shm()] {
            fs::create_dir(part)?;
        }
        Ok(dir)
    }

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

    /// What is on record, if the job was ever accepted.
    ///
    /// # Errors
    /// When it cannot be made sense of.
    pub fn read_record(&self) -> io::Result<Option<Record>> {
        record::read(&self.record_path())
    }

    /// Has the directory itself outlast a power failure, and not only what is in it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync_name(&self) -> io::Result<()> {
        let jobs = self.path.parent().expect("a job's directory is in another");
        File::open(jobs)?.sync_all()
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
    use super::super::datadir::DataDir;
    use super::*;

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
