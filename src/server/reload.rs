//! Reads files again when they have changed, and all of them at SIGHUP.
//!
//! Looking is cheaper than to be told by the kernel: it works on every file system, and through the links that some
//! orchestrators replace instead of the file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::sync::Notify;

/// Between two looks: what is revoked is out after at most this.
const LOOK: Duration = Duration::from_millis(500);

/// Files that are read together, and what is made of them.
pub struct Watched {
    files: Vec<PathBuf>,
    /// Reads the files and puts what they say in force, and says what that is; or why what was in force stays.
    read: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
    seen: Mutex<Vec<Print>>,
}

/// What of a file changes with its content; `None` for one that cannot be looked at.
type Print = Option<(u64, u64, u64, i64, i64)>;

impl Watched {
    /// Reads the files for the first time.
    pub fn begin(
        files: Vec<PathBuf>,
        read: impl Fn() -> Result<String, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        // Taken before the files are read, here as later: a change while they are is seen the next time.
        let seen = Mutex::new(prints(&files));
        // Not within the log's arguments: a log that is less than `info` does not look at them.
        let done = read()?;
        log::info!("read: {done}");
        Ok(Self { files, read: Box::new(read), seen })
    }

    fn has_changed(&self) -> bool {
        let now = prints(&self.files);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *seen, now.clone()) != now
    }

    fn reload(&self) {
        match (self.read)() {
            Ok(done) => log::info!("read again: {done}"),
            Err(error) => log::error!("cannot be read again, what was read before stays in force: {error}"),
        }
    }
}

fn prints(files: &[PathBuf]) -> Vec<Print> {
    let print = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()))
    };
    files.iter().map(print).collect()
}

/// Reads what has changed again.
pub struct Reloading {
    pub watched: Vec<Watched>,
    /// Rung at SIGHUP.
    pub hangup: Arc<Notify>,
}

#[async_trait]
impl BackgroundService for Reloading {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        loop {
            tokio::select! {
                () = self.hangup.notified() => {
                    log::info!("SIGHUP: {} things are read again", self.watched.len());
                    self.watched.iter().for_each(|watched| {
                        watched.has_changed();
                        watched.reload();
                    });
                }
                () = tokio::time::sleep(LOOK) => {
                    self.watched.iter().filter(|watched| watched.has_changed()).for_each(Watched::reload);
                }
                _ = shutdown.changed() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_replaced_or_removed_has_changed_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let watched = Watched::begin(vec![path.clone()], || Ok(String::new())).unwrap();
        assert!(!watched.has_changed());
        let changes: [&dyn Fn(); 3] = [
            &|| fs::write(&path, "one").unwrap(),
            &|| {
                fs::write(directory.path().join("new"), "two").unwrap();
                fs::rename(directory.path().join("new"), &path).unwrap();
            },
            &|| fs::remove_file(&path).unwrap(),
        ];
        for change in changes {
            change();
            assert!(watched.has_changed());
            assert!(!watched.has_changed());
        }
    }
    #[test]
    fn files_are_read_however_little_is_logged() {
        assert!(log::max_level() < log::LevelFilter::Info, "no test of this crate sets up a log");
        let read = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&read);
        Watched::begin(Vec::new(), move || {
            *counted.lock().unwrap() += 1;
            Ok(String::new())
        })
        .unwrap();
        assert_eq!(*read.lock().unwrap(), 1);
    }
}
