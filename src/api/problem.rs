//! Errors as clients see them: one mapping from what went wrong to a status, a machine word and a sentence.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

/// The machine words of `code` in an error answer, each with its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProblemCode {
    /// The request makes no sense; the sentence names the field.
    BadRequest,
    /// It is not known who makes the request.
    Unauthorized,
    /// It is known, and may not.
    Forbidden,
    NotFound,
    JobNotFound,
    OutputNotFound,
    WorkerNotFound,
    /// The worker has signed nothing of the job's run.
    NoReceipt,
    /// What it has signed cannot be checked.
    Unverifiable,
    MethodNotAllowed,
    RequestTimeout,
    /// The idempotency key was used for something else.
    IdempotencyConflict,
    /// No worker has the job yet.
    NotDispatched,
    /// The job has not ended.
    NotFinished,
    /// The job's state forbids it.
    WrongState,
    /// What would be sent for the job is no longer kept.
    PayloadExpired,
    /// The worker had it and has forgotten it.
    OutputExpired,
    TooLarge,
    TargetTooLong,
    HeadersTooLarge,
    Internal,
    /// The worker answered, and not as it should.
    WorkerError,
    WorkerUnreachable,
    /// The worker is silent while it runs a job.
    WorkerBusy,
    /// The client asks for more than its share.
    RateLimited,
    ClientQueueFull,
    /// A bound of the pool is reached.
    QueueFull,
    TooManyUploads,
    ShuttingDown,
    StorageFull,
}

impl ProblemCode {
    pub const ALL: [ProblemCode; 30] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::JobNotFound,
        Self::OutputNotFound,
        Self::WorkerNotFound,
        Self::NoReceipt,
        Self::Unverifiable,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::IdempotencyConflict,
        Self::NotDispatched,
        Self::NotFinished,
        Self::WrongState,
        Self::PayloadExpired,
        Self::OutputExpired,
        Self::TooLarge,
        Self::TargetTooLong,
        Self::HeadersTooLarge,
        Self::Internal,
        Self::WorkerError,
        Self::WorkerUnreachable,
        Self::WorkerBusy,
        Self::RateLimited,
        Self::ClientQueueFull,
        Self::QueueFull,
        Self::TooManyUploads,
        Self::ShuttingDown,
        Self::StorageFull,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::JobNotFound => "job_not_found",
            Self::OutputNotFound => "output_not_found",
            Self::WorkerNotFound => "worker_not_found",
            Self::NoReceipt => "no_receipt",
            Self::Unverifiable => "unverifiable",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::NotDispatched => "not_dispatched",
            Self::NotFinished => "not_finished",
            Self::WrongState => "wrong_state",
            Self::PayloadExpired => "payload_expired",
            Self::OutputExpired => "output_expired",
            Self::TooLarge => "too_large",
            Self::TargetTooLong => "target_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::Internal => "internal",
            Self::WorkerError => "worker_error",
            Self::WorkerUnreachable => "worker_unreachable",
            Self::WorkerBusy => "worker_busy",
            Self::RateLimited => "rate_limited",
            Self::ClientQueueFull => "client_queue_full",
            Self::QueueFull => "queue_full",
            Self::TooManyUploads => "too_many_uploads",
            Self::ShuttingDown => "shutting_down",
            Self::StorageFull => "storage_full",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound | Self::JobNotFound | Self::OutputNotFound | Self::WorkerNotFound => {
                StatusCode::NOT_FOUND
            }
            Self::NoReceipt | Self::Unverifiable => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::IdempotencyConflict | Self::NotDispatched | Self::NotFinished | Self::WrongState => {
                StatusCode::CONFLICT
            }
            Self::OutputExpired | Self::PayloadExpired => StatusCode::GONE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::WorkerError | Self::WorkerUnreachable => StatusCode::BAD_GATEWAY,
            Self::WorkerBusy | Self::QueueFull | Self::TooManyUploads | Self::ShuttingDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::RateLimited | Self::ClientQueueFull => StatusCode::TOO_MANY_REQUESTS,
            Self::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    /// How long a client should wait before it tries again, where waiting helps.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::NotDispatched | Self::NotFinished | Self::WorkerBusy | Self::TooManyUploads => {
                Some(Duration::from_secs(2))
            }
            Self::RateLimited => Some(Duration::from_secs(1)),
            Self::WorkerUnreachable | Self::QueueFull | Self::ClientQueueFull | Self::ShuttingDown => {
                Some(Duration::from_secs(10))
            }
            Self::StorageFull => Some(Duration::from_secs(60)),
            Self::BadRequest
            | Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::JobNotFound
            | Self::OutputNotFound
            | Self::WorkerNotFound
            | Self::NoReceipt
            | Self::Unverifiable
            | Self::MethodNotAllowed
            | Self::RequestTimeout
            | Self::IdempotencyConflict
            | Self::WrongState
            | Self::PayloadExpired
            | Self::OutputExpired
            | Self::TooLarge
            | Self::TargetTooLong
            | Self::HeadersTooLarge
            | Self::Internal
            | Self::WorkerError => None,
        }
    }
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: ProblemCode,
    /// A sentence that the reader can act on.
    pub message: String,
    /// The part of the request that is at fault.
    pub field: Option<String>,
    /// How long to wait, where it is known better than for the code in general.
    pub wait: Option<Duration>,
}

impl Problem {
    pub fn new(code: ProblemCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, wait: None }
    }

    pub fn in_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub fn after(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// How long a client should wait before it tries again, where waiting helps.
    pub fn retry_after(&self) -> Option<Duration> {
        self.wait.or_else(|| self.code.retry_after())
    }

    pub fn job_not_found() -> Self {
        // The words of the sandrun worker, which its clients look for.
        Self::new(ProblemCode::JobNotFound, "Job not found")
    }

    pub fn worker_not_found() -> Self {
        Self::new(
            ProblemCode::WorkerNotFound,
            "the allowlist names no such worker; a key in a path is base64url",
        )
    }

    pub fn body(&self) -> Value {
        let mut body = json!({ "error": self.message, "code": self.code.as_str() });
        if let Some(field) = &self.field {
            body["field"] = json!(field);
        }
        if let Some(wait) = self.retry_after() {
            body["retry_after"] = json!(wait.as_secs());
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_code_has_a_word_of_its_own_and_an_error_status() {
        let words: BTreeSet<_> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ProblemCode::ALL.len());
        assert!(ProblemCode::ALL.iter().all(|code| code.status().as_u16() >= 400));
    }

    #[test]
    fn where_waiting_helps_the_body_says_how_long() {
        let body = Problem::new(ProblemCode::WorkerBusy, "busy").body();
        assert_eq!(body, json!({"error": "busy", "code": "worker_busy", "retry_after": 2}));
        let body = Problem::new(ProblemCode::BadRequest, "no").in_field("manifest").body();
        assert_eq!(body, json!({"error": "no", "code": "bad_request", "field": "manifest"}));
    }
}
