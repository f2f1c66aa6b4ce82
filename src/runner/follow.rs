//! Follows one job: its log as it grows, its status as it changes, its end. Reads from disk, so that however slow whoever
//! is told may be, the job is not slowed by it.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use super::job::{Finished, Job, Phase, Status};
use super::logs::{Extents, Stream};
use crate::api::live_log::{Position, whole_characters};

/// Bytes of log told at once, at most.
const PIECE_BYTES_MAX: u64 = 64 * 1024;

/// Where in a job one client is.
#[derive(Debug)]
pub struct Follower {
    job: Arc<Job>,
    extents: watch::Receiver<Extents>,
    phases: watch::Receiver<Phase>,
    position: Position,
    told: Option<Status>,
    ended: bool,
}

/// What there is to tell next.
#[derive(Debug)]
pub enum News {
    /// A piece of the log, and where it ends.
    Text(Stream, String, Position),
    /// The job has moved on.
    Status(Status),
    /// It has ended, and its log has been told up to here.
    End(Status, Arc<Finished>, Position),
}

impl Follower {
    /// Begins behind what has been told before.
    #[must_use]
    pub fn new(job: Arc<Job>, position: Position) -> Self {
        let (extents, phases) = (job.logs.watch(), job.watch());
        Self { job, extents, phases, position, told: None, ended: false }
    }

    /// Waits for news; `None` after the end. A call that is given up loses nothing.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn next(&mut self) -> io::Result<Option<News>> {
        if self.ended {
            return Ok(None);
        }
        loop {
            // Before the log is read: when the end has come, there is nothing more to read afterwards.
            let phase = self.phases.borrow_and_update().clone();
            self.extents.borrow_and_update();
            for stream in [Stream::Stdout, Stream::Stderr] {
                let content = self.read(stream).await?;
                let whole = match (whole_characters(&content), &phase) {
                    // The rest of this character never came.
                    (0, Phase::Finished(_)) => content.len(),
                    (whole, _) => whole,
                };
                if whole > 0 {
                    self.position = self.position.after(stream, whole);
                    let text = String::from_utf8_lossy(&content[..whole]).into_owned();
                    return Ok(Some(News::Text(stream, text, self.position)));
                }
            }
            let status = phase.status();
            match phase {
                Phase::Finished(finished) => {
                    self.ended = true;
                    return Ok(Some(News::End(status, finished, self.position)));
                }
                Phase::Queued(_) | Phase::Running { .. } if self.told == Some(status) => {}
                Phase::Queued(_) | Phase::Running { .. } => {
                    self.told = Some(status);
                    return Ok(Some(News::Status(status)));
                }
            }
            tokio::select! {
                _ = self.extents.changed() => {}
                _ = self.phases.changed() => {}
            }
        }
    }

    async fn read(&self, stream: Stream) -> io::Result<Vec<u8>> {
        let (job, offset) = (Arc::clone(&self.job), self.position.of(stream));
        let read = tokio::task::spawn_blocking(move || job.logs.read(stream, offset, PIECE_BYTES_MAX));
        read.await.map_err(io::Error::other)?
    }
}
