//! A job's status and logs, and the list of jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::{find, stream, url};
use crate::runner::job::{Job, Phase, Verdict};
use crate::runner::logs::{KEPT_BYTES_MAX, Stream};
use crate::runner::outputs::{Outputs, file_type};
use crate::runner::refusal::Refusal;
use crate::runner::registry::IdempotencyKey;
use crate::runner::usage::Usage;
use crate::runner::worker::Worker;

/// Longest wait that a status request may ask for, in seconds: below the timeouts of usual proxies.
const WAIT_SECONDS_MAX: u64 = 60;

/// `GET /jobs`, of one idempotency key with `?key=`; and for how long the worker has forgotten none.
pub(super) async fn list(State(worker): State<Arc<Worker>>, uri: Uri) -> Result<Json<Value>, Refusal> {
    let jobs = match url::query_value(uri.query(), "key") {
        Some(key) => worker.registry.find_by_key(&IdempotencyKey::parse(&key)?)?.into_iter().collect(),
        None => worker.registry.all(),
    };
    let jobs: Vec<Value> =
        jobs.iter().map(|job| json!({ "job_id": job.id.as_str(), "status": job.phase().status() })).collect();
    // Read after the jobs: one that is forgotten in between must not look as if it had never come.
    Ok(Json(json!({ "jobs": jobs, "remembers_seconds": worker.registry.remembers().as_secs_f64() })))
}

/// `GET /status/{id}`; with `?wait=`, answered when the job has ended or the seconds have passed.
pub(super) async fn status(
    State(worker): State<Arc<Worker>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Value>, Refusal> {
    let job = find(&worker, &id)?;
    if let Some(wait) = url::query_value(uri.query(), "wait") {
        let wait = wait.parse().ok().filter(|seconds| (1..=WAIT_SECONDS_MAX).contains(seconds)).ok_or_else(
            || Refusal::bad_request(format!("wait is 1 to {WAIT_SECONDS_MAX} seconds, not {wait:?}")),
        )?;
        let mut phases = job.watch();
        let end = phases.wait_for(|phase| phase.finished().is_some());
        // Either way the answer is where the job is then.
        let _ = tokio::time::timeout(Duration::from_secs(wait), end).await;
    }
    Ok(Json(status_body(&worker, &job)))
}

fn status_body(worker: &Worker, job: &Job) -> Value {
    let phase = job.phase();
    let none = Outputs::default();
    let (verdict, usage, wall, outputs) = match &phase {
        Phase::Queued(_) => (None, Usage::default(), Duration::ZERO, &none),
        Phase::Running { since, .. } => (None, Usage::default(), since.elapsed(), &none),
        Phase::Finished(end) => (Some(&end.verdict), end.usage, end.wall, &end.outputs),
    };
    let mut body = json!({
        "job_id": job.id.as_str(),
        "status": phase.status(),
        "queue_position": 0,
        "execution_metadata": {
            "cpu_seconds": usage.cpu.as_secs_f64(),
            "memory_peak_bytes": usage.memory_peak_bytes,
            "memory_peak_mb": usage.memory_peak_bytes / (1024 * 1024),
            "wall_time_ms": u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            "exit_code": verdict.map(Verdict::exit_code),
            "environment": job.facts.environment,
            "interpreter": job.facts.interpreter.name(),
        },
        "job_hash": job.facts.hash,
        "output_files": output_files(outputs),
        "worker_metadata": { "worker_id": worker.id(), "signature": null },
    });
    if let Some(receipt) = phase.finished().and_then(|end| end.receipt.as_ref()) {
        body["receipt"] = json!(receipt);
    }
    if let Some(reason) = verdict.and_then(Verdict::reason) {
        body["reason"] = reason.into();
    }
    if let Some(error) = verdict.and_then(Verdict::explanation) {
        body["error"] = error.into();
    }
    if outputs.truncated {
        body["output_files_truncated"] = true.into();
    }
    body
}

fn output_files(outputs: &Outputs) -> Map<String, Value> {
    let entry = |output: &crate::runner::outputs::Output| {
        let path = &output.found.path;
        let body = json!({ "size_bytes": output.found.stamp.size, "sha256": output.sha256, "type": file_type(path) });
        (path.to_string(), body)
    };
    outputs.files.iter().map(entry).collect()
}

/// `POST /cancel/{id}`: answers at once, with where the job is then. A job that has ended stays as it is.
pub(super) async fn cancel(
    State(worker): State<Arc<Worker>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let job = find(&worker, &id)?;
    job.cancel();
    Ok(Json(json!({ "job_id": job.id.as_str(), "status": job.phase().status() })))
}

/// `GET /logs/{id}`; with `?follow=1`, as events while the job writes it.
pub(super) async fn logs(
    State(worker): State<Arc<Worker>>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let job = find(&worker, &id)?;
    match url::query_value(uri.query(), "follow").as_deref() {
        None | Some("0") => {}
        Some("1") => return stream::events(job, &headers),
        Some(other) => return Err(Refusal::bad_request(format!("follow is 0 or 1, not {other:?}"))),
    }
    let extents = *job.logs.watch().borrow();
    let read = tokio::task::spawn_blocking(move || {
        let read = |stream| job.logs.read(stream, 0, KEPT_BYTES_MAX);
        Ok((read(Stream::Stdout)?, read(Stream::Stderr)?))
    });
    let read: std::io::Result<_> = read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    let (stdout, stderr) = read.map_err(|error| Refusal::disk("reading a job's log", &error))?;
    let mut body =
        json!({ "stdout": String::from_utf8_lossy(&stdout), "stderr": String::from_utf8_lossy(&stderr) });
    for (key, stream) in [("stdout_truncated", Stream::Stdout), ("stderr_truncated", Stream::Stderr)] {
        if extents.of(stream).truncated() {
            body[key] = true.into();
        }
    }
    Ok(Json(body).into_response())
}
