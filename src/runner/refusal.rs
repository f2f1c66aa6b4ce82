//! Answers that say no.

use std::fmt;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Seconds after which a busy worker may be asked again: jobs often take no longer.
const BUSY_RETRY_SECONDS: u32 = 1;

/// An error answer: a status, and a sentence that a person can act on.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    sentence: String,
    retry_seconds: Option<u32>,
}

impl Refusal {
    /// An answer with this status.
    pub fn new(status: StatusCode, sentence: impl fmt::Display) -> Self {
        Self { status, sentence: sentence.to_string(), retry_seconds: None }
    }

    /// The request cannot be carried out as it is, now or later.
    pub fn bad_request(sentence: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }

    /// There is no such job (any more).
    #[must_use]
    pub fn job_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Job not found")
    }

    /// The same request may be accepted a little later.
    pub fn busy(sentence: impl fmt::Display) -> Self {
        Self::retry_later(StatusCode::SERVICE_UNAVAILABLE, sentence)
    }

    /// An answer that will be another one a little later.
    pub fn retry_later(status: StatusCode, sentence: impl fmt::Display) -> Self {
        Self { retry_seconds: Some(BUSY_RETRY_SECONDS), ..Self::new(status, sentence) }
    }

    /// The worker's disk failed; the log says how.
    #[must_use]
    pub fn disk(doing: &str, error: &std::io::Error) -> Self {
        log::error!("{doing}: {error}");
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "The worker's disk is full")
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("The worker failed at {doing}")),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.sentence });
        if let Some(seconds) = self.retry_seconds {
            body["retry_after"] = seconds.into();
        }
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
