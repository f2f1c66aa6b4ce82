//! What clients and operators ask the pool to do: cancel and retry a job, drain and resume a worker.

use std::time::Duration;

use http::StatusCode;
use pingora::Result;
use pingora_proxy::Session;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::jobs::store_problem;
use super::{Front, respond};
use crate::api::{Problem, ProblemCode};
use crate::auth::Caller;
use crate::job::{ClientName, JobId};
use crate::queue::{Cancelled, Retried};
use crate::store::{Drain, JobRow};
use crate::telemetry::audit::{Entry, Event};
use crate::worker::WorkerKey;

/// Longest reason for a drain, and the longest body that carries one.
const REASON_BYTES_MAX: usize = 1000;
const BODY_BYTES_MAX: usize = 8 << 10;

/// For the whole of that body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

type Done = std::result::Result<Value, Problem>;

impl Front {
    /// Records in the audit log what was done; what was refused changed nothing.
    pub(super) fn note(&self, session: &Session, caller: &Caller, event: Event, done: &Done) {
        let Ok(about) = done else { return };
        let remote = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip());
        let caller = caller.name().map(ClientName::as_str);
        self.audit.record(Entry::new(event, about.clone()).by(caller, remote));
    }

    /// `POST /cancel/{job}`.
    pub(super) async fn cancel(&self, session: &mut Session, caller: &Caller, id: &JobId) -> Result<()> {
        let done = match self.queue.cancel(id).await {
            Ok(Cancelled::Done(row)) => Ok(state_of(&row)),
            Ok(Cancelled::Ended(row)) => Err(wrong_state(&row, "and cannot be cancelled any more")),
            Ok(Cancelled::Absent) => Err(Problem::job_not_found()),
            Err(error) => Err(store_problem(&error)),
        };
        self.note(session, caller, Event::Cancel, &done);
        answer(session, done).await
    }

    /// `POST /retry/{job}`.
    pub(super) async fn retry(&self, session: &mut Session, caller: &Caller, id: &JobId) -> Result<()> {
        let done = match self.queue.retry(id).await {
            Ok(Retried::Queued { row, left }) => {
                self.outputs.remove(&left).await;
                Ok(state_of(&row))
            }
            Ok(Retried::NotNow(row)) if row.state.is_finished() => {
                Err(wrong_state(&row, "and is not run again; submit it anew"))
            }
            Ok(Retried::NotNow(row)) if row.state.end().is_some() => {
                Err(wrong_state(&row, "but its worker may still be busy with it; try again a little later"))
            }
            Ok(Retried::NotNow(row)) => Err(wrong_state(&row, "and has not ended")),
            Ok(Retried::WorkGone) => {
                let message = "what the job was submitted with is no longer kept; submit it anew";
                Err(Problem::new(ProblemCode::PayloadExpired, message))
            }
            Ok(Retried::Absent) => Err(Problem::job_not_found()),
            Err(error) => Err(store_problem(&error)),
        };
        self.note(session, caller, Event::Retry, &done);
        answer(session, done).await
    }

    /// `POST /workers/{worker}/drain`: no new jobs there, durably.
    pub(super) async fn drain(
        &self,
        session: &mut Session,
        caller: &Caller,
        worker: WorkerKey,
    ) -> Result<()> {
        let done = match reason(session).await {
            Ok(reason) => self.drain_worker(worker, reason).await,
            Err(problem) => Err(problem),
        };
        self.note(session, caller, Event::Drain, &done);
        answer(session, done).await
    }

    async fn drain_worker(&self, worker: WorkerKey, reason: String) -> Done {
        self.pool.contact(worker).ok_or_else(Problem::worker_not_found)?;
        let drain = Drain { worker, reason, since: self.clock.now() };
        self.store.drain(drain.clone()).await.map_err(|error| store_problem(&error))?;
        log::info!("worker {worker} is drained: {}", drain.reason);
        let reason = drain.reason.clone();
        self.pool.drain(drain);
        Ok(
            json!({ "worker_id": worker, "reason": reason, "draining": true, "active_jobs": self.pool.active(worker) }),
        )
    }

    /// `POST /workers/{worker}/resume`.
    pub(super) async fn resume(
        &self,
        session: &mut Session,
        caller: &Caller,
        worker: WorkerKey,
    ) -> Result<()> {
        let done = self.resume_worker(worker).await;
        self.note(session, caller, Event::Resume, &done);
        answer(session, done).await
    }

    async fn resume_worker(&self, worker: WorkerKey) -> Done {
        self.pool.contact(worker).ok_or_else(Problem::worker_not_found)?;
        self.store.resume(worker).await.map_err(|error| store_problem(&error))?;
        log::info!("worker {worker} gets jobs again");
        self.pool.resume(worker);
        Ok(json!({ "worker_id": worker, "draining": false, "active_jobs": self.pool.active(worker) }))
    }
}

async fn answer(session: &mut Session, done: Done) -> Result<()> {
    match done {
        Ok(body) => respond::json(session, StatusCode::OK, &body).await,
        Err(problem) => respond::problem(session, &problem).await,
    }
}

fn state_of(row: &JobRow) -> Value {
    let status = row.state.status().as_str();
    json!({ "job_id": row.id, "status": status, "pool_status": status })
}

fn wrong_state(row: &JobRow, why: &str) -> Problem {
    Problem::new(ProblemCode::WrongState, format!("the job is {} {why}", row.state.status().as_str()))
}

async fn small_body(session: &mut Session) -> std::result::Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    while let Some(chunk) = session
        .read_request_body()
        .await
        .map_err(|_| Problem::new(ProblemCode::BadRequest, "the body did not come whole").in_field("body"))?
    {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(
                Problem::new(ProblemCode::TooLarge, "the body is longer than 8192 bytes").in_field("body")
            );
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The `reason` in the body of a drain, which may be empty.
async fn reason(session: &mut Session) -> std::result::Result<String, Problem> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        reason: Option<String>,
    }
    let bad = |message: &str| Problem::new(ProblemCode::BadRequest, message).in_field("body");
    let body = match timeout(BODY_TIMEOUT, small_body(session)).await {
        Ok(body) => body?,
        Err(_) => {
            // Where it ends is not known, so nothing that follows may be taken for a request.
            session.set_keepalive(None);
            let message = "the body came too slowly";
            return Err(Problem::new(ProblemCode::RequestTimeout, message).in_field("body"));
        }
    };
    if body.is_empty() {
        return Ok(String::new());
    }
    let body: Body =
        serde_json::from_slice(&body).map_err(|_| bad("the body is {\"reason\": \"...\"} or empty"))?;
    let reason = body.reason.unwrap_or_default();
    if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
        let message = "`reason` is at most 1000 bytes without control characters";
        return Err(Problem::new(ProblemCode::BadRequest, message).in_field("reason"));
    }
    Ok(reason)
}
