//! How much of the disk a job holds. No quota of the file system is asked for, which few machines have set up: the
//! worker looks, again and again, at what there is.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::job::Job;
use super::limits::Limit;
use super::workdir::{FILES_MAX, WorkDir};

/// Shortest pause between two looks: a disk that takes a gigabyte a second fills by a quarter of one meanwhile.
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// A look that took a while is followed by a pause of so many times that while: at most this part of one processor goes
/// into looking.
const PAUSE_FACTOR: u32 = 10;

/// Free space below which no job runs on. Looking at a job's files misses what it hides (a deleted file that it still
/// holds open); this does not, and leaves the machine room for its logs.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// Waits until a job holds more of the disk than these bytes.
pub async fn overfull(job: Arc<Job>, bytes_max: u64) -> Limit {
    let mut pause = PAUSE_MIN;
    loop {
        tokio::time::sleep(pause).await;
        let since = Instant::now();
        let looking = tokio::task::spawn_blocking({
            let job = Arc::clone(&job);
            move || broken(&job, bytes_max)
        });
        match looking.await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(limit))) => return limit,
            Ok(Err(error)) => log::warn!("{}: its disk space cannot be measured: {error}", job.id),
            Err(error) => log::error!("{}: its disk space cannot be measured: {error}", job.id),
        }
        pause = PAUSE_MIN.max(since.elapsed() * PAUSE_FACTOR);
    }
}

/// The limit that a job's files break now.
///
/// # Errors
/// When its directories are gone or the file system does not tell its free space.
pub fn broken(job: &Job, bytes_max: u64) -> io::Result<Option<Limit>> {
    let dir = &job.dir;
    let mut held = Held::default();
    for part in [dir.work()?, WorkDir::new(&dir.tmp())?, WorkDir::new(&dir.shm())?] {
        if held.add(&part, bytes_max).is_break() {
            return Ok(Some(Limit::Disk));
        }
    }
    let file_system = rustix::fs::statvfs(dir.path())?;
    let free = file_system.f_bavail.saturating_mul(file_system.f_frsize);
    Ok((free < RESERVE_BYTES).then_some(Limit::DiskReserve))
}

/// What has been counted so far.
#[derive(Default)]
struct Held {
    bytes: u64,
    entries: usize,
    /// Files with several names, which count once.
    linked: HashSet<u64>,
}

impl Held {
    /// Counts a directory, and breaks off when there is more than may be.
    fn add(&mut self, dir: &WorkDir, bytes_max: u64) -> ControlFlow<()> {
        dir.visit(|_, metadata| {
            if metadata.is_dir() || metadata.nlink() == 1 || self.linked.insert(metadata.ino()) {
                // A hole counts as what it says it is: whoever reads the file has to read all of it.
                let bytes = metadata.len().max(metadata.blocks().saturating_mul(BLOCK_BYTES));
                self.bytes = self.bytes.saturating_add(bytes);
            }
            self.entries += 1;
            if self.bytes > bytes_max || self.entries > FILES_MAX {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn holes_count_in_full_and_links_once() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        fs::hard_link(dir.path().join("sparse"), dir.path().join("again")).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/file"), "x").unwrap();
        let work = WorkDir::new(dir.path()).unwrap();
        let mut held = Held::default();
        assert!(held.add(&work, u64::MAX).is_continue());
        assert_eq!(held.entries, 4);
        assert!((1 << 40..(1 << 40) + (1 << 20)).contains(&held.bytes), "{}", held.bytes);
        assert!(Held::default().add(&work, 1 << 39).is_break());
    }
}
