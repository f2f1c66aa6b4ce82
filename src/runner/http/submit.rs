//! `POST /submit`.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::extract::Multipart;
use axum::extract::State;
use axum::extract::multipart::MultipartRejection;
use axum::http::{HeaderMap, header};
use serde_json::{Value, json};

use super::FORM_OVERHEAD_BYTES_MAX;
use crate::runner::job::{Job, Status};
use crate::runner::refusal::Refusal;
use crate::runner::registry::{Admission, IdempotencyKey, Ticket};
use crate::runner::upload::{drain, receive, too_large};
use crate::runner::worker::Worker;

/// Takes a job in and starts it, or answers with the job that the same idempotency key has started before. While the
/// upload of that key is still being received, the answer is 409: the same request will tell its job a little later.
pub(super) async fn submit(
    State(worker): State<Arc<Worker>>,
    headers: HeaderMap,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Json<Value>, Refusal> {
    let mut form = form.map_err(|error| {
        Refusal::bad_request(format!("A multipart form is needed: {}", error.body_text()))
    })?;
    let answer = match admit(&worker, &headers) {
        Ok(Admission::Granted(ticket)) => match take_in(worker, ticket, &mut form).await {
            // Its process is about to start; the protocol's word for that is "queued".
            Ok(job) => return Ok(accepted(&job, Status::Queued)),
            Err(refusal) => Err(refusal),
        },
        Ok(Admission::Existing(job)) => Ok(accepted(&job, job.phase().status())),
        Err(refusal) => Err(refusal),
    };
    // The client is still sending, unless it waits for our leave to begin: reading on would give it.
    if !headers.contains_key(header::EXPECT) {
        drain(form).await;
    }
    answer
}

fn admit(worker: &Worker, headers: &HeaderMap) -> Result<Admission, Refusal> {
    check_announced_length(worker, headers)?;
    worker.registry.admit(IdempotencyKey::from_headers(headers)?)
}

async fn take_in(worker: Arc<Worker>, ticket: Ticket, form: &mut Multipart) -> Result<Arc<Job>, Refusal> {
    let dir = worker.data.create_job(ticket.id().as_str());
    let dir = dir.map_err(|error| Refusal::disk("making a job's directory", &error))?;
    let upload = receive(form, &dir, worker.settings.max_upload).await?;
    // In a task of its own: a client that goes away now cannot leave a job half started. If it comes back with its
    // key, it finds the job.
    let start = tokio::spawn(worker.start(ticket, dir, upload));
    start.await.map_err(|error| Refusal::disk("starting a job", &io::Error::other(error)))?
}

fn accepted(job: &Job, status: Status) -> Json<Value> {
    Json(json!({ "job_id": job.id.as_str(), "status": status }))
}

/// Refuses what is announced as too large before any of it is sent.
fn check_announced_length(worker: &Worker, headers: &HeaderMap) -> Result<(), Refusal> {
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let limit = worker.settings.max_upload;
    match announced {
        Some(length) if length > limit.saturating_add(FORM_OVERHEAD_BYTES_MAX) => Err(too_large(limit)),
        _ => Ok(()),
    }
}
