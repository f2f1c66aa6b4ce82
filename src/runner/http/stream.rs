//! `GET /stream/{id}`: a job's log over a WebSocket, while it is written.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use tokio::time::timeout;

use super::find;
use crate::runner::job::{Finished, Job, Phase, Status};
use crate::runner::logs::Stream;
use crate::runner::refusal::Refusal;
use crate::runner::worker::Worker;

/// Bytes of log in one frame, at most.
const FRAME_BYTES_MAX: u64 = 64 * 1024;

/// How long a client may take to receive one frame. It costs a file descriptor, and nothing of the job.
const SEND_TIME_MAX: Duration = Duration::from_secs(60);

pub(super) async fn stream(
    State(worker): State<Arc<Worker>>,
    Path(id): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let job = find(&worker, &id)?;
    let upgrade = upgrade.map_err(|error| Refusal::new(error.status(), error.body_text()))?;
    Ok(upgrade.on_upgrade(async move |mut socket| {
        // The client may leave at any time; that is no error of ours.
        if follow(&job, &mut socket).await.is_ok() {
            let _ = timeout(SEND_TIME_MAX, socket.send(Message::Close(None))).await;
        }
    }))
}

/// Sends the log so far, the status, what is added, and the end. Reads from disk, so it never slows the job.
async fn follow(job: &Arc<Job>, socket: &mut WebSocket) -> io::Result<()> {
    let mut extents = job.logs.watch();
    let mut phases = job.watch();
    let mut stdout = Tail::new(Stream::Stdout);
    let mut stderr = Tail::new(Stream::Stderr);
    let mut told = None;
    loop {
        // Before the log is read: when the end has come, there is nothing more to read afterwards.
        let phase = phases.borrow_and_update().clone();
        extents.borrow_and_update();
        stdout.send(job, socket).await?;
        stderr.send(job, socket).await?;
        match &phase {
            Phase::Queued | Phase::Running { .. } if told == Some(phase.status()) => {}
            Phase::Queued | Phase::Running { .. } => {
                told = Some(phase.status());
                send(socket, format!("[STATUS] {}", phase.status())).await?;
            }
            Phase::Finished(finished) => return send(socket, done(phase.status(), finished)).await,
        }
        tokio::select! {
            _ = extents.changed() => {}
            _ = phases.changed() => {}
            message = socket.recv() => match message {
                None | Some(Err(_) | Ok(Message::Close(_))) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Some(Ok(_)) => {}
            },
        }
    }
}

fn done(status: Status, finished: &Finished) -> String {
    format!(
        "[DONE] Job {status} (exit={}, cpu={:.2}s, memory={}MB, time={}ms)",
        finished.verdict.exit_code(),
        finished.usage.cpu.as_secs_f64(),
        finished.usage.memory_peak_bytes / (1024 * 1024),
        finished.wall.as_millis(),
    )
}

/// One stream of the log, as far as it has been sent.
struct Tail {
    stream: Stream,
    offset: u64,
}

impl Tail {
    fn new(stream: Stream) -> Self {
        Self { stream, offset: 0 }
    }

    /// Sends everything that is on disk now.
    async fn send(&mut self, job: &Arc<Job>, socket: &mut WebSocket) -> io::Result<()> {
        loop {
            let (job, stream, offset) = (Arc::clone(job), self.stream, self.offset);
            let read = tokio::task::spawn_blocking(move || job.logs.read(stream, offset, FRAME_BYTES_MAX));
            let content = read.await.map_err(io::Error::other)??;
            let whole = whole_characters(&content);
            if whole == 0 {
                return Ok(());
            }
            self.offset += whole as u64;
            send(socket, String::from_utf8_lossy(&content[..whole]).into_owned()).await?;
        }
    }
}

/// How many of these bytes can be sent as text without cutting a character whose rest is still to come.
fn whole_characters(content: &[u8]) -> usize {
    for cut in 1..=content.len().min(3) {
        let lead = content[content.len() - cut];
        let width = match lead {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        return if width > cut { content.len() - cut } else { content.len() };
    }
    content.len()
}

async fn send(socket: &mut WebSocket, text: String) -> io::Result<()> {
    match timeout(SEND_TIME_MAX, socket.send(Message::Text(text.into()))).await {
        Ok(sent) => sent.map_err(io::Error::other),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        for (bytes, whole) in [
            (&b""[..], 0),
            (b"abc", 3),
            ("aé".as_bytes(), 3),
            (&"aé".as_bytes()[..2], 1),
            (&"a\u{1F980}".as_bytes()[..4], 1),
            (b"a\xff", 2),
            (b"a\x80\x80\x80\x80", 5),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }
}
