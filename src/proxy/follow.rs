//! `GET /logs/{job}?follow=1`: a job's log as server-sent events while it is written.
//!
//! A job that a worker has is followed there, and what the worker writes passes through. What is over is told from the
//! store. A job that waits is waited for; if that takes long, the answer ends and names the time after which a client,
//! as server-sent events have it, comes back by itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;
use tokio::time::Instant;

use super::jobs::{Asked, store_problem};
use super::passage::{FollowPassage, Passage};
use super::{Ctx, Front, respond};
use crate::api::live_log::{EVENT_STREAM, LogEvent, LogStream, Position, whole_characters};
use crate::api::{Problem, ProblemCode};
use crate::job::JobId;
use crate::store::{EndedJob, JobRow, ResultsText, TEXT_PIECE_BYTES};
use crate::upstream::peer::Target;
use crate::worker::Dialect;

/// How long a request waits for its job to be taken: less than the proxies and browsers between allow.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// How soon it is seen that a worker has taken it; a look costs a lookup in memory.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// After an answer without an end, a client comes back in so many milliseconds.
const RETRY_MILLISECONDS: u32 = 1000;

/// Where a job's log is.
enum Source {
    Worker(FollowPassage),
    Store(Arc<EndedJob>),
    /// Nobody has begun to write it; the job's status.
    Nowhere(&'static str),
}

/// Whether a request for a log wants it live.
pub(super) fn is_wanted(session: &Session) -> bool {
    let query = session.req_header().uri.query().unwrap_or_default();
    session.req_header().method == Method::GET && query.split('&').any(|pair| pair == "follow=1")
}

impl Front {
    pub(super) async fn follow(&self, session: &mut Session, ctx: &mut Ctx, id: &JobId) -> Result<bool> {
        // It may last as long as the job: no reason for a pool to stop later.
        ctx.under_way = None;
        let position = match position(session) {
            Ok(position) => position,
            Err(problem) => return respond::problem(session, &problem).await.map(|()| true),
        };
        match self.log_source(id).await {
            Ok(Source::Worker(passage)) => {
                ctx.passage = Some(Passage::Follow(passage));
                return Ok(false);
            }
            Ok(Source::Store(ended)) => self.tell_kept(session, &ended.row, position).await,
            Ok(Source::Nowhere(status)) => {
                let event = LogEvent::Status(status.to_owned());
                begin(session).await?;
                let body = format!("retry: {RETRY_MILLISECONDS}\n{event}");
                session.write_response_body(Some(Bytes::from(body)), true).await
            }
            Err(problem) => respond::problem(session, &problem).await,
        }
        .map(|()| true)
    }

    async fn log_source(&self, id: &JobId) -> std::result::Result<Source, Problem> {
        let until = Instant::now() + WAIT_MAX;
        loop {
            let state = match self.asked(id).await? {
                Asked::Finished(ended) => return Ok(Source::Store(ended)),
                Asked::Live(job) => job.state(),
            };
            if let Some(place) = state.place().filter(|_| state.end().is_none()) {
                let to = self.destination(&place)?;
                if to.contact.dialect == Dialect::Sandrun {
                    return Err(not_live());
                }
                let target = Target::plain(format!("/logs/{}?follow=1", place.remote));
                return Ok(Source::Worker(FollowPassage { to, target }));
            }
            if Instant::now() > until || self.shutdown.is_stopping() {
                return Ok(Source::Nowhere(state.status().as_str()));
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    /// Tells what is kept of a finished job. Where the pool has cut a log, it ends there.
    async fn tell_kept(&self, session: &mut Session, row: &JobRow, mut position: Position) -> Result<()> {
        let run = row.run();
        begin(session).await?;
        for (stream, text) in
            [(LogStream::Stdout, ResultsText::Stdout), (LogStream::Stderr, ResultsText::Stderr)]
        {
            loop {
                let piece = self.store.results_text(&run, text, position.of(stream)).await;
                let broken = |error| Error::explain(ErrorType::InternalError, store_problem(&error).message);
                let piece = piece.map_err(broken)?.unwrap_or_default();
                let last = piece.len() < TEXT_PIECE_BYTES;
                let told = if last { &piece[..] } else { &piece[..whole_characters(&piece)] };
                position = position.after(stream, told.len());
                if !told.is_empty() {
                    let text = String::from_utf8_lossy(told).into_owned();
                    write(session, &LogEvent::Text { stream, text, position }).await?;
                }
                if last {
                    break;
                }
            }
        }
        write(session, &LogEvent::End { status: row.state.status().as_str().to_owned(), position }).await?;
        session.write_response_body(None, true).await
    }
}

/// What a client is told whose job is on a worker that tells no log before the end.
pub(super) fn not_live() -> Problem {
    let message =
        "the worker that has this job tells its log only when the job has ended: ask for /logs/{job} then";
    Problem::new(ProblemCode::NotFinished, message)
}

fn position(session: &Session) -> std::result::Result<Position, Problem> {
    let Some(id) = session.req_header().headers.get("last-event-id") else { return Ok(Position::default()) };
    id.to_str().unwrap_or_default().parse().map_err(|error: crate::api::live_log::NoPosition| {
        Problem::new(ProblemCode::BadRequest, error.to_string()).in_field("Last-Event-ID")
    })
}

async fn begin(session: &mut Session) -> Result<()> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(6))?;
    head.insert_header(header::CONTENT_TYPE, EVENT_STREAM)?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    respond::without_length(session, &mut head)?;
    session.write_response_header(Box::new(head), false).await
}

async fn write(session: &mut Session, event: &LogEvent) -> Result<()> {
    session.write_response_body(Some(Bytes::from(event.to_string())), false).await
}
