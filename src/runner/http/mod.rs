//! The worker's HTTP interface: the sandrun protocol, with what a pool can use beside it.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::job::Job;
use super::refusal::Refusal;
use super::upload::DRAIN_BYTES_MAX;
use super::worker::Worker;

mod about;
mod archive;
mod files;
mod jobs;
mod stream;
mod submit;
mod url;

/// What a multipart form may need beside its files: boundaries, headers and the manifest.
const FORM_OVERHEAD_BYTES_MAX: u64 = 1024 * 1024;

/// The worker's routes.
pub fn router(worker: Arc<Worker>) -> Router {
    // The files are counted as they arrive; this bounds what is no file's content, and what is drained.
    let body_bytes_max =
        worker.settings.max_upload.saturating_add(FORM_OVERHEAD_BYTES_MAX).saturating_add(DRAIN_BYTES_MAX);
    let body_limit = DefaultBodyLimit::max(usize::try_from(body_bytes_max).unwrap_or(usize::MAX));
    Router::new()
        .route("/", get(about::service))
        .route("/health", get(about::health))
        .route("/stats", get(about::stats))
        .route("/environments", get(about::environments))
        .route("/submit", post(submit::submit).layer(body_limit))
        .route("/jobs", get(jobs::list))
        .route("/status/{id}", get(jobs::status))
        .route("/cancel/{id}", post(jobs::cancel))
        .route("/logs/{id}", get(jobs::logs))
        .route("/outputs/{id}", get(files::listing))
        .route("/outputs/{id}/{*path}", get(files::download))
        .route("/download/{id}", get(archive::download))
        .route("/download/{id}/{*path}", get(files::download))
        .route("/stream/{id}", get(stream::stream))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(allow_browsers))
        .with_state(worker)
}

/// Finds the job that a request names.
fn find(worker: &Worker, id: &str) -> Result<Arc<Job>, Refusal> {
    worker.registry.find(id).ok_or_else(Refusal::job_not_found)
}

async fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "Not found")
}

async fn method_not_allowed() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
}

/// Lets pages of any origin use the worker, as the sandrun worker does.
async fn allow_browsers(request: axum::extract::Request, next: Next) -> Response {
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers
        .insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("Content-Type, Idempotency-Key, Last-Event-ID, Range"),
    );
    response
}
