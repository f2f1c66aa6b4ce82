//! What clients ask about jobs: `/status`, `/logs`, `/stream`, `/jobs`.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use pingora::Result;
use pingora_proxy::Session;
use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;

use super::passage::{Destination, Passage, StatusPassage, StreamPassage, unreachable_problem};
use super::results::Section;
use super::subprotocols::Subprotocols;
use super::{Ctx, Front, respond};
use crate::api::bodies::{self, StatusBody};
use crate::api::{Problem, ProblemCode};
use crate::auth::Caller;
use crate::job::{JobId, Place, PoolStatus};
use crate::queue::{LiveJob, Lookup, explain};
use crate::store::{EndedJob, JobFilter, JobRow, Logs, ResultsText, StoreError, TEXT_PIECE_BYTES};
use crate::upstream::peer::Target;
use crate::upstream::{Answer, gate::Turn};

/// Jobs in one page of `/jobs`.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

/// A job that a request is about.
pub(super) enum Asked {
    Live(Arc<LiveJob>),
    Finished(Arc<EndedJob>),
}

impl Front {
    /// The job that a request is about, or what to say instead.
    pub(super) async fn asked(&self, id: &JobId) -> std::result::Result<Asked, Problem> {
        match self.queue.lookup(id).await {
            Ok(Lookup::Live(job)) => Ok(Asked::Live(job)),
            Ok(Lookup::Finished(ended)) => Ok(Asked::Finished(ended)),
            Ok(Lookup::Absent) => Err(Problem::job_not_found()),
            Err(error) => Err(store_problem(&error)),
        }
    }

    /// Where a worker is that holds a job; the problem when it cannot be told.
    pub(super) fn destination(&self, place: &Place) -> std::result::Result<Destination, Problem> {
        let contact = self.pool.contact(place.worker).ok_or_else(|| {
            let message = "the worker that holds this job is no longer in the allowlist";
            Problem::new(ProblemCode::WorkerUnreachable, message)
        })?;
        let address = self.pool.address(place.worker).ok_or_else(unreachable_problem)?;
        Ok(Destination { contact, address })
    }

    /// Waits for a turn at a worker that answers one call at a time; a worker that is silent is busy.
    pub(super) async fn turn(&self, place: &Place) -> std::result::Result<Option<Turn>, Problem> {
        let Some(gate) = self.pool.gate(place.worker) else { return Ok(None) };
        match gate.enter_within(self.config.status_timeout).await {
            Some(turn) => Ok(Some(turn)),
            None => Err(busy_problem()),
        }
    }

    /// `GET /status/{job}`. A job that a worker has is asked after there; everything else is known here.
    pub(super) async fn status(&self, session: &mut Session, ctx: &mut Ctx, id: &JobId) -> Result<bool> {
        let body = match self.asked(id).await {
            Ok(Asked::Live(job)) => match self.status_passage(session, &job).await {
                Some(passage) => {
                    ctx.passage = Some(Passage::Status(passage));
                    return Ok(false);
                }
                None => self.known_status(&job),
            },
            Ok(Asked::Finished(ended)) => return self.final_status(session, &ended).await.map(|()| true),
            Err(problem) => return respond::problem(session, &problem).await.map(|()| true),
        };
        respond::text(session, StatusCode::OK, body).await.map(|()| true)
    }

    /// The way to a worker that has the job and may answer now.
    async fn status_passage(&self, session: &Session, job: &Arc<LiveJob>) -> Option<StatusPassage> {
        let state = job.state();
        let place = state.place().filter(|_| state.end().is_none())?;
        // A body would have to go along, and only a GET has an answer to wrap.
        if session.req_header().method != Method::GET || !self.pool.is_healthy(place.worker) {
            return None;
        }
        let to = self.destination(&place).ok()?;
        let turn = self.turn(&place).await.ok()?;
        let target = Target::plain(format!("/status/{}", place.remote));
        let patience = self.config.status_timeout;
        let deadline = tokio::time::Instant::now() + patience;
        Some(StatusPassage { job: Arc::clone(job), to, target, patience, deadline, body: Vec::new(), turn })
    }

    async fn final_status(&self, session: &mut Session, ended: &EndedJob) -> Result<()> {
        let body = StatusBody::new(&ended.row).with_outputs(ended.outputs.as_ref());
        if let Some(status) = ended.short_status.as_deref().and_then(|json| std::str::from_utf8(json).ok()) {
            return respond::text(session, StatusCode::OK, body.whole(Some(status))).await;
        }
        let sections = [
            Section::Said(body.begin()),
            Section::Kept { text: ResultsText::WorkerStatus, from: 0, absent: "null" },
            Section::Said(bodies::STATUS_END.to_owned()),
        ];
        self.send_results(session, &ended.row.run(), sections).await
    }

    /// What the pool itself knows of a job that is not finished.
    pub(super) fn known_status(&self, job: &LiveJob) -> String {
        let row = job.row();
        let mut body = StatusBody::new(&row);
        if let Some(ahead) = self.queue.position(job) {
            let reason = explain::reason(&job.class(), ahead, &self.pool.view(), self.clock.now());
            body = body.waiting(ahead, reason);
        }
        body.whole(job.worker_status().as_deref())
    }

    /// `GET /logs/{job}`.
    pub(super) async fn logs(&self, session: &mut Session, id: &JobId) -> Result<()> {
        let job = match self.asked(id).await {
            Ok(Asked::Live(job)) => job,
            Ok(Asked::Finished(ended)) => return self.kept_logs(session, &ended.row).await,
            Err(problem) => return respond::problem(session, &problem).await,
        };
        let answer = match job.state().place() {
            None => Ok((bodies::logs(&Logs::default()), None)),
            Some(place) => self.logs_there(&place).await,
        };
        match answer {
            Ok((body, _large)) => respond::json(session, StatusCode::OK, &body).await,
            Err(problem) => respond::problem(session, &problem).await,
        }
    }

    async fn kept_logs(&self, session: &mut Session, row: &JobRow) -> Result<()> {
        let cut = self.store.results_text(&row.run(), ResultsText::LogsCut, 0).await;
        let end = match cut {
            Ok(Some(_)) => "\",\"truncated\":true}",
            Ok(None) => "\"}",
            Err(error) => return respond::problem(session, &store_problem(&error)).await,
        };
        let sections = [
            Section::Said("{\"stdout\":\"".to_owned()),
            Section::Quoted(ResultsText::Stdout),
            Section::Said("\",\"stderr\":\"".to_owned()),
            Section::Quoted(ResultsText::Stderr),
            Section::Said(end.to_owned()),
        ];
        self.send_results(session, &row.run(), sections).await
    }

    async fn logs_there(
        &self,
        place: &Place,
    ) -> std::result::Result<(Value, Option<SemaphorePermit<'_>>), Problem> {
        let large = self.large_answer().await?;
        let to = self.destination(place)?;
        let turn = self.turn(place).await?;
        let logs = self.upstream.logs(&to.contact, &place.remote, self.config.log_bytes_max);
        let logs = self.in_time(logs).await?;
        drop(turn);
        let small = logs.stdout.len() + logs.stderr.len() <= TEXT_PIECE_BYTES;
        Ok((bodies::logs(&logs), (!small).then_some(large)))
    }

    /// The right to hold one of the answers that may be long whole in memory.
    pub(super) async fn large_answer(&self) -> std::result::Result<SemaphorePermit<'_>, Problem> {
        let waiting = self.large_answers.acquire();
        match tokio::time::timeout(self.config.status_timeout, waiting).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => {
                let message =
                    "too many long answers about jobs that run are being read; ask again a little later";
                Err(Problem::new(ProblemCode::WorkerBusy, message))
            }
        }
    }

    /// A worker's answer, if it comes while a client can wait.
    pub(super) async fn in_time<T>(
        &self,
        asked: impl Future<Output = Answer<T>>,
    ) -> std::result::Result<T, Problem> {
        match tokio::time::timeout(self.config.status_timeout, asked).await {
            Ok(Answer::Known(value)) => Ok(value),
            Ok(Answer::Gone) => {
                Err(Problem::new(ProblemCode::OutputExpired, "the worker no longer knows this job"))
            }
            Ok(Answer::Silent) | Err(_) => Err(busy_problem()),
            Ok(Answer::Unreadable { reason }) => {
                log::warn!("a worker could not be understood: {reason}");
                let message =
                    "the worker that holds the job answered with something that the pool cannot read";
                Err(Problem::new(ProblemCode::WorkerError, message))
            }
            Ok(Answer::Unreachable { reason }) => {
                log::warn!("a worker could not be asked: {reason}");
                Err(unreachable_problem())
            }
        }
    }

    /// `GET /stream/{job}`, a WebSocket to the worker.
    pub(super) async fn stream(&self, session: &mut Session, ctx: &mut Ctx, id: &JobId) -> Result<bool> {
        match self.stream_passage(session, id).await {
            Ok(passage) => {
                // The log of a job may be silent for as long as it runs.
                session.set_read_timeout(Some(STREAM_IDLE));
                ctx.passage = Some(Passage::Stream(passage));
                Ok(false)
            }
            Err(problem) => respond::problem(session, &problem).await.map(|()| true),
        }
    }

    async fn stream_passage(
        &self,
        session: &Session,
        id: &JobId,
    ) -> std::result::Result<StreamPassage, Problem> {
        if !session.is_upgrade_req() {
            let message = "this is a WebSocket; the whole log is at /logs/{job}";
            return Err(Problem::new(ProblemCode::BadRequest, message).in_field("Upgrade"));
        }
        let place = match self.asked(id).await? {
            Asked::Live(job) => job.state().place(),
            Asked::Finished(ended) => ended.row.state.place(),
        };
        let place = place.ok_or_else(not_dispatched)?;
        let to = self.destination(&place)?;
        let protocols = Subprotocols::of(&session.req_header().headers);
        Ok(StreamPassage { to, target: Target::plain(format!("/stream/{}", place.remote)), protocols })
    }

    /// `GET /jobs`, newest first.
    pub(super) async fn jobs(&self, session: &mut Session, caller: &Caller) -> Result<()> {
        match self.page_of_jobs(session.req_header().uri.query().unwrap_or_default(), caller).await {
            Ok(body) => respond::json(session, StatusCode::OK, &body).await,
            Err(problem) => respond::problem(session, &problem).await,
        }
    }

    async fn page_of_jobs(&self, query: &str, caller: &Caller) -> std::result::Result<Value, Problem> {
        let (mut filter, limit) = page_query(query)?;
        filter.client = caller.sees_only().cloned();
        // One more than asked for tells whether there is a next page.
        let mut rows = self.store.list(&filter, limit + 1).await.map_err(|error| store_problem(&error))?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).map(|row| row.sequence.to_string());
        Ok(json!({
            "jobs": rows.iter().map(bodies::job_summary).collect::<Vec<_>>(),
            "next_cursor": next_cursor,
        }))
    }
}

/// A WebSocket whose client sends nothing, not even a ping, is closed after this.
const STREAM_IDLE: Duration = Duration::from_secs(24 * 3600);

/// `status=`, `worker=`, `limit=` and `cursor=` of `/jobs`.
fn page_query(query: &str) -> std::result::Result<(JobFilter, usize), Problem> {
    let (mut filter, mut limit) = (JobFilter::default(), PAGE_DEFAULT);
    let wrong = |field: &str, message: String| Problem::new(ProblemCode::BadRequest, message).in_field(field);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "status" => {
                let status = PoolStatus::ALL.into_iter().find(|status| status.as_str() == value);
                let known: Vec<_> = PoolStatus::ALL.iter().map(|status| status.as_str()).collect();
                filter.status = Some(status.ok_or_else(|| {
                    wrong(name, format!("no status is called {value:?}: {}", known.join(", ")))
                })?);
            }
            "worker" => {
                let key = value.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
                let key = crate::worker::WorkerKey::parse_any(&key);
                filter.worker = Some(key.map_err(|error| wrong(name, error.to_string()))?);
            }
            "limit" => {
                limit = usize::from_str(value)
                    .ok()
                    .filter(|limit| (1..=PAGE_MAX).contains(limit))
                    .ok_or_else(|| wrong(name, format!("a limit is a number from 1 to {PAGE_MAX}")))?;
            }
            "cursor" => {
                let cursor = i64::from_str(value).map_err(|_| {
                    wrong(name, "a cursor is the `next_cursor` of the page before".to_owned())
                })?;
                filter.before = Some(cursor);
            }
            other => {
                let message = format!("there is no parameter {other:?}: status, worker, limit, cursor");
                return Err(wrong(other, message));
            }
        }
    }
    Ok((filter, limit))
}

fn busy_problem() -> Problem {
    Problem::new(
        ProblemCode::WorkerBusy,
        "the worker that holds the job is silent while it runs; ask again when the job has ended",
    )
}

pub(super) fn not_dispatched() -> Problem {
    Problem::new(ProblemCode::NotDispatched, "no worker has taken the job yet")
}

pub(super) fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::Full => {
            Problem::new(ProblemCode::StorageFull, "the pool's disk is full; nothing was changed")
        }
        StoreError::Broken(cause) => {
            log::error!("the store failed: {cause}");
            Problem::new(ProblemCode::Internal, "the pool's store failed")
        }
    }
}
