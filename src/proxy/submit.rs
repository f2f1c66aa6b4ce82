//! `POST /submit`: an upload is taken in while it streams, and answered when it is durable.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, StatusCode, header};
use pingora::Result;
use pingora_proxy::Session;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::jobs::store_problem;
use super::{Front, respond};
use crate::api::{Problem, ProblemCode};
use crate::auth::Caller;
use crate::job::{JobId, Priority};
use crate::spool::{IDEMPOTENCY_KEY_BYTES_MAX, Upload, UploadError, boundary, parse_upload};
use crate::store::{Idempotency, Inserted, JobRow, NewJob, Payload, StoreError};
use crate::telemetry::audit::Event;

/// How long an idempotency key is remembered.
const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(24 * 3600);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PRIORITY: HeaderName = HeaderName::from_static("priority");

/// Why the body of an upload ended before its end.
#[derive(Debug)]
enum BodyError {
    /// Nothing came for too long, or the whole took too long.
    TooSlow,
    /// Its framing is not that of HTTP.
    Malformed,
    /// The client has sent more than it may, and is to wait so long.
    TooMuch(Duration),
    /// The client went away.
    Gone(pingora::BError),
}

/// What the request's header says about the job.
struct SubmitHead {
    /// Bytes of the body, where the client says.
    length: Option<u64>,
    content_type: String,
    priority: Option<Priority>,
    idempotency_key: Option<String>,
}

impl Front {
    pub(super) async fn submit(&self, session: &mut Session, caller: &Caller) -> Result<()> {
        match self.take_in(session, caller).await {
            Ok((row, status)) => {
                let body = json!({ "job_id": row.id, "status": status });
                self.note(session, caller, Event::Submit, &Ok(body.clone()));
                respond::json(session, StatusCode::OK, &body).await
            }
            Err(Refusal::Problem(problem)) => respond::problem(session, &problem).await,
            Err(Refusal::Gone(error)) => Err(error),
        }
    }

    async fn take_in(
        &self,
        session: &mut Session,
        caller: &Caller,
    ) -> std::result::Result<(JobRow, &'static str), Refusal> {
        let head = self.submit_head(session)?;
        self.check_share(caller)?;
        // What is announced counts at once, so that uploads side by side cannot each count on what is left.
        let announced = head.length.unwrap_or(0);
        self.usage.upload(caller.name(), announced, self.clock.now()).map_err(too_much)?;
        let counted = head.length.is_none().then_some(caller);
        let _open = self.uploads.try_acquire().map_err(|_| {
            Problem::new(
                ProblemCode::TooManyUploads,
                "as many uploads are under way as the pool takes at once",
            )
        })?;
        if let Some(error) = boundary(&head.content_type).err() {
            return Err(error.into());
        }
        if expects_continue(session) {
            session.write_continue_response().await.map_err(Refusal::Gone)?;
        }
        let deadline = Instant::now() + self.config.upload_timeout;
        let idle = self.config.upload_idle_timeout;
        let body = stream::unfold(session, |session| async move {
            let chunk = next_chunk(session, deadline, idle).await;
            let chunk = chunk.and_then(|chunk| self.count(counted, chunk));
            chunk.transpose().map(|chunk| (chunk, session))
        });
        let upload = parse_upload(body, &head.content_type, &self.config.uploads, &self.spool).await?;
        self.enqueue(caller, head, upload).await.map_err(Refusal::Problem)
    }

    /// Counts a piece of an upload whose length the client did not say.
    fn count(
        &self,
        uncounted: Option<&Caller>,
        chunk: Option<Bytes>,
    ) -> std::result::Result<Option<Bytes>, BodyError> {
        if let (Some(caller), Some(bytes)) = (uncounted, &chunk) {
            let counted = self.usage.upload(caller.name(), bytes.len() as u64, self.clock.now());
            counted.map_err(BodyError::TooMuch)?;
        }
        Ok(chunk)
    }

    /// Whether a client may have one job more in the queue.
    fn check_share(&self, caller: &Caller) -> std::result::Result<(), Problem> {
        let Some(limit) = self.usage.limits().queued_jobs else { return Ok(()) };
        if self.queue.waiting_jobs_of(&caller.name().cloned()) < limit as usize {
            return Ok(());
        }
        let message = format!("{limit} jobs of this client wait already, which is its limit");
        Err(Problem::new(ProblemCode::ClientQueueFull, message))
    }

    /// What must be right before a byte of the body is read.
    fn submit_head(&self, session: &Session) -> std::result::Result<SubmitHead, Problem> {
        if self.shutdown.is_stopping() {
            return Err(Problem::new(
                ProblemCode::ShuttingDown,
                "the pool is shutting down and takes no more jobs",
            ));
        }
        if self.queue.waiting_jobs() >= self.config.queued_jobs_max {
            let message = format!("{} jobs wait already, which is the limit", self.config.queued_jobs_max);
            return Err(Problem::new(ProblemCode::QueueFull, message));
        }
        self.spool.check_room().map_err(|error| problem_of(error.into()))?;
        let head = session.req_header();
        let text = |name: &HeaderName| match head.headers.get(name).map(|value| value.to_str()) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.to_owned())),
            Some(Err(_)) => Err(bad(name.as_str(), "is not plain text")),
        };
        let limit = self.config.uploads.body_bytes_max;
        let length = text(&header::CONTENT_LENGTH)?.and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit) {
            return Err(too_large("body", limit));
        }
        let content_type = text(&header::CONTENT_TYPE)?.ok_or_else(|| bad("Content-Type", NOT_MULTIPART))?;
        let priority = text(&PRIORITY)?.map(|text| text.parse::<Priority>()).transpose();
        let priority = priority.map_err(|error| bad("Priority", &format!("is not known: {error}")))?;
        let idempotency_key = text(&IDEMPOTENCY_KEY)?;
        if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX)
        {
            return Err(bad("Idempotency-Key", "is 1 to 255 bytes long"));
        }
        Ok(SubmitHead { length, content_type, priority, idempotency_key })
    }

    /// Makes an upload durable, payload first: a row never names a payload that is not there.
    async fn enqueue(
        &self,
        caller: &Caller,
        head: SubmitHead,
        upload: Upload,
    ) -> std::result::Result<(JobRow, &'static str), Problem> {
        // Again: others of the same client may have come in while this one did.
        self.check_share(caller)?;
        let now = self.clock.now();
        let id = JobId::from_random(rand::random());
        let priority = same("priority", head.priority, upload.priority)?.unwrap_or_default();
        let key = same("Idempotency-Key", head.idempotency_key, upload.idempotency_key.clone())?;
        let idempotency = key.map(|key| Idempotency { key, valid_since: now.minus(IDEMPOTENCY_WINDOW) });
        let terms = upload.manifest.terms();
        if !self.pool.could_run(&terms.requires, None) {
            return Err(bad("manifest.requires", "has labels that no worker in the allowlist has all of"));
        }
        let work =
            upload.into_work(&id).await.map_err(|error| problem_of(UploadError::<BodyError>::from(error)))?;
        let spooled = matches!(work.payload, Payload::Spooled { .. });
        let job = NewJob {
            id: id.clone(),
            client: caller.name().cloned(),
            priority,
            submitted_at: now,
            terms: terms.into(),
            work: work.into(),
            idempotency,
        };
        let inserted = self.queue.submit(job).await;
        // Unless the job has come in, or may have, its payload is nobody's.
        let unwanted = match &inserted {
            Ok(Inserted::New(_)) | Err(StoreError::Broken(_)) => false,
            Ok(Inserted::Same(_) | Inserted::Conflict(_)) | Err(StoreError::Full) => true,
        };
        if spooled
            && unwanted
            && let Err(error) = self.spool.remove(&id).await
        {
            log::warn!("a payload that nobody wants cannot be removed: {error}");
        }
        match inserted {
            Ok(Inserted::New(row)) => {
                log::info!("job {id} is queued");
                let status = row.state.status().as_str();
                Ok((row, status))
            }
            Ok(Inserted::Same(row)) => {
                let status = row.state.status().as_str();
                Ok((row, status))
            }
            Ok(Inserted::Conflict(first)) => {
                let message = format!(
                    "this key was used for another upload, job {first}; use a new key for new content"
                );
                Err(Problem::new(ProblemCode::IdempotencyConflict, message).in_field("Idempotency-Key"))
            }
            Err(error) => Err(store_problem(&error)),
        }
    }
}

/// What Pingora calls an error in the framing of a body.
const MALFORMED_CHUNK: &str = "InvalidChunk";

const NOT_MULTIPART: &str = "must be multipart/form-data with a boundary; `curl -F` sends it so";

async fn next_chunk(
    session: &mut Session,
    deadline: Instant,
    idle: Duration,
) -> std::result::Result<Option<Bytes>, BodyError> {
    // Pingora has no time limit of its own for HTTP/2 bodies.
    let until = deadline.min(Instant::now() + idle);
    let error = match timeout_at(until, session.as_mut().read_request_body()).await {
        Ok(Ok(chunk)) => return Ok(chunk),
        Ok(Err(error)) if error.etype().as_str() == MALFORMED_CHUNK => BodyError::Malformed,
        Ok(Err(error)) => BodyError::Gone(error.into_down()),
        Err(_) => BodyError::TooSlow,
    };
    // Where this body ends is not known, so nothing that follows may be taken for a request.
    session.set_keepalive(None);
    Err(error)
}

fn expects_continue(session: &Session) -> bool {
    session
        .get_header(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A value that may come in the header and in the form, but not as two.
fn same<T: PartialEq>(
    field: &str,
    in_header: Option<T>,
    in_form: Option<T>,
) -> std::result::Result<Option<T>, Problem> {
    match (in_header, in_form) {
        (Some(header), Some(form)) if header != form => {
            Err(bad(field, "is given in the header and in the form, and they differ; give it once"))
        }
        (value, other) => Ok(value.or(other)),
    }
}

/// Why a submit came to nothing.
enum Refusal {
    Problem(Problem),
    /// There is nobody to answer.
    Gone(pingora::BError),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<UploadError<BodyError>> for Refusal {
    fn from(error: UploadError<BodyError>) -> Self {
        match error {
            UploadError::Body(BodyError::Gone(error)) => Self::Gone(error),
            error => Self::Problem(problem_of(error)),
        }
    }
}

fn problem_of(error: UploadError<BodyError>) -> Problem {
    match error {
        UploadError::BadRequest { field, message } => bad(&field, &message),
        UploadError::TooLarge { field, limit } => too_large(&field, limit),
        UploadError::DiskFull => {
            Problem::new(ProblemCode::StorageFull, "the pool's disk is full; nothing was taken in")
        }
        UploadError::SpoolFull => {
            let message = "the payloads of waiting jobs take up all of max_spool_bytes; nothing was taken in";
            Problem::new(ProblemCode::QueueFull, message)
        }
        UploadError::Spool(cause) => {
            log::error!("the spool failed: {cause}");
            Problem::new(ProblemCode::Internal, "the pool's spool failed; nothing was taken in")
        }
        UploadError::Body(BodyError::Malformed) => Problem::new(
            ProblemCode::BadRequest,
            "the chunks of the body are malformed; nothing was taken in",
        )
        .in_field("body"),
        UploadError::Body(BodyError::TooMuch(wait)) => too_much(wait),
        UploadError::Body(BodyError::TooSlow | BodyError::Gone(_)) => {
            Problem::new(ProblemCode::RequestTimeout, "the upload came too slowly; nothing was taken in")
                .in_field("body")
        }
    }
}

fn too_much(wait: Duration) -> Problem {
    let message = "this client uploads more than it may; nothing was taken in";
    Problem::new(ProblemCode::RateLimited, message).in_field("body").after(wait)
}

fn bad(field: &str, message: &str) -> Problem {
    Problem::new(ProblemCode::BadRequest, format!("`{field}` {message}")).in_field(field)
}

fn too_large(field: &str, limit: u64) -> Problem {
    Problem::new(ProblemCode::TooLarge, format!("`{field}` is longer than the limit of {limit} bytes"))
        .in_field(field)
}
