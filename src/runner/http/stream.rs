//! A job's log while it is written: over a WebSocket, and as server-sent events.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::find;
use crate::api::live_log::{EVENT_STREAM, KEEP_ALIVE, LogEvent, Position};
use crate::runner::follow::{Follower, News};
use crate::runner::job::{Finished, Job, Status};
use crate::runner::refusal::Refusal;
use crate::runner::worker::Worker;

/// How long a client may take to receive one frame. It costs a file descriptor, and nothing of the job.
const SEND_TIME_MAX: Duration = Duration::from_secs(60);

/// A silent log is heard of this often, so that whoever is between can tell it from a dead one.
const KEEP_ALIVE_PERIOD: Duration = Duration::from_secs(15);

/// `GET /stream/{id}`: a WebSocket with the log so far, the status, what is added, and the end.
pub(super) async fn stream(
    State(worker): State<Arc<Worker>>,
    Path(id): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let job = find(&worker, &id)?;
    let upgrade = upgrade.map_err(|error| Refusal::new(error.status(), error.body_text()))?;
    Ok(upgrade.on_upgrade(async move |mut socket| {
        // The client may leave at any time; that is no error of ours.
        if frames(job, &mut socket).await.is_ok() {
            let _ = timeout(SEND_TIME_MAX, socket.send(Message::Close(None))).await;
        }
    }))
}

async fn frames(job: Arc<Job>, socket: &mut WebSocket) -> io::Result<()> {
    let mut follower = Follower::new(job, Position::default());
    loop {
        let news = tokio::select! {
            news = follower.next() => news?,
            message = socket.recv() => match message {
                None | Some(Err(_) | Ok(Message::Close(_))) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Some(Ok(_)) => continue,
            },
        };
        match news {
            Some(News::Text(_, text, _)) => send(socket, text).await?,
            Some(News::Status(status)) => send(socket, format!("[STATUS] {status}")).await?,
            Some(News::End(status, finished, _)) => send(socket, done(status, &finished)).await?,
            None => return Ok(()),
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

async fn send(socket: &mut WebSocket, text: String) -> io::Result<()> {
    match timeout(SEND_TIME_MAX, socket.send(Message::Text(text.into()))).await {
        Ok(sent) => sent.map_err(io::Error::other),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// `GET /logs/{id}?follow=1`: the log from where `Last-Event-ID` says, and what is added until the job ends.
pub(super) fn events(job: Arc<Job>, headers: &HeaderMap) -> Result<Response, Refusal> {
    let position = match headers.get(HeaderName::from_static("last-event-id")) {
        Some(id) => id.to_str().unwrap_or_default().parse().map_err(Refusal::bad_request)?,
        None => Position::default(),
    };
    let events = futures_util::stream::try_unfold(Follower::new(job, position), async |mut follower| {
        let told = match timeout(KEEP_ALIVE_PERIOD, follower.next()).await {
            Ok(news) => news?.map(|news| event(news).to_string()),
            Err(_) => Some(KEEP_ALIVE.to_owned()),
        };
        io::Result::Ok(told.map(|told| (told, follower)))
    });
    let headers = [(header::CONTENT_TYPE, EVENT_STREAM), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

fn event(news: News) -> LogEvent {
    match news {
        News::Text(stream, text, position) => LogEvent::Text { stream, text, position },
        News::Status(status) => LogEvent::Status(status.to_string()),
        News::End(status, _, position) => LogEvent::End { status: status.to_string(), position },
    }
}
