//! The control path to a worker over HTTP: health, submit, and what is asked of a job.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use reqwest::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use tokio_util::io::ReaderStream;

use super::clients::{Clients, shown_leaf};
use super::download::{self, Opened};
use super::evidence::Inquiry;
use super::logs::LogScanner;
use super::tls::{Dialer, TlsFailure, tls_failure};
use super::{
    Answer, CheckFailure, Contact, HealthReport, KeyAnswer, Patience, RemoteStatus, SendOutcome, Upstream,
    attempt_key, sandrun,
};
use crate::api::{OutputPath, listing};
use crate::job::{JobId, Manifest, RemoteId};
use crate::spool::{Spool, encode};
use crate::store::{Logs, Payload, Work};
use crate::worker::proof::{CHALLENGE_HEADER, POOL_HEADER};
use crate::worker::{Dialect, WorkerKey, WorkerSpec};

/// A listing, a status or an error is read up to this size; a listing of 10,000 files takes about 2 MiB.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What a sandrun worker takes in one request (its `MAX_REQUEST_SIZE`), less room for the request's own header. It refuses a longer one at
/// once and resets the connection: were the body on its way by then, the refusal could not be told from a crash.
const SANDRUN_BODY_BYTES_MAX: u64 = (100 << 20) - (16 << 10);

/// How long the body of such a request is held back, so that the refusal is read first.
const REFUSAL_TIME: Duration = Duration::from_millis(500);

/// A worker that is not silent while it runs a job has answered a question, to the last byte, within this time.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Payload bytes read from disk at a time.
const PAYLOAD_CHUNK_BYTES: usize = 256 << 10;

/// Time limits of the control path.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// One health check, from the connection to the last byte.
    pub health: Duration,
    /// A submit or status call; longer than the longest job, because a sandrun worker is silent while it runs one.
    pub longest_job: Duration,
}

/// Speaks HTTP/1.1 to workers.
pub struct HttpUpstream {
    clients: Clients,
    spool: Arc<Spool>,
    timeouts: Timeouts,
}

impl HttpUpstream {
    pub fn new(spool: Arc<Spool>, dialer: Dialer, timeouts: Timeouts) -> Result<Self, reqwest::Error> {
        Ok(Self { clients: Clients::new(dialer)?, spool, timeouts })
    }

    fn get(&self, spec: &WorkerSpec, path: &str, timeout: Duration) -> RequestBuilder {
        self.clients.of(spec).get(url(spec, path)).header(CONNECTION, "close").timeout(timeout)
    }

    /// The body of a submit, its length, and whether any of it was handed to the connection.
    async fn body(&self, to: &Contact, job: &JobId, work: &Work) -> io::Result<(Body, u64, Arc<AtomicBool>)> {
        let tail = encode::manifest_part(&work.boundary, &work.manifest);
        let length = encode::content_length(&work.payload, &tail);
        let tail = stream::once(async move { Ok(Bytes::from(tail)) });
        let too_long = to.dialect == Dialect::Sandrun && length > SANDRUN_BODY_BYTES_MAX;
        let held_back = too_long.then_some(REFUSAL_TIME);
        let begun = Arc::new(AtomicBool::new(false));
        let body = match &work.payload {
            Payload::Inline(bytes) => {
                let head = bytes.clone();
                tracked(stream::once(async move { Ok(head) }).chain(tail), held_back, &begun)
            }
            Payload::Spooled { .. } => {
                let file = self.spool.open_payload(job).await?;
                tracked(ReaderStream::with_capacity(file, PAYLOAD_CHUNK_BYTES).chain(tail), held_back, &begun)
            }
        };
        Ok((body, length, begun))
    }
}

fn tracked(
    bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    held_back: Option<Duration>,
    begun: &Arc<AtomicBool>,
) -> Body {
    let begun = Arc::clone(begun);
    let wait = stream::iter(held_back).then(tokio::time::sleep).filter_map(|()| async { None });
    Body::wrap_stream(wait.chain(bytes.inspect(move |_| begun.store(true, Ordering::Release))))
}

#[async_trait]
impl Upstream for HttpUpstream {
    async fn health(&self, spec: &Arc<WorkerSpec>) -> Result<HealthReport, CheckFailure> {
        let request = self.get(spec, "/health", self.timeouts.health);
        let (response, inquiry) = if spec.endpoint.is_tls() {
            let response = request.send().await.map_err(|error| check_failure(&error))?;
            let leaf = shown_leaf(spec, &response).map_err(CheckFailure::NotTheWorker)?;
            (response, Inquiry::Encrypted(leaf))
        } else {
            let (inquiry, challenge) = Inquiry::challenge(spec, self.clients.dialer().pool_key());
            let request = request
                .header(CHALLENGE_HEADER, challenge.to_string())
                .header(POOL_HEADER, self.clients.dialer().pool_key().to_string());
            (request.send().await.map_err(|error| reason(&error))?, inquiry)
        };
        let status = response.status();
        if status != StatusCode::OK {
            return Err(format!("its /health answered {status}").into());
        }
        let address = response.remote_addr();
        Ok(HealthReport { address, ..sandrun::health(&read_bounded(response).await?, inquiry)? })
    }

    async fn submit(&self, to: &Contact, job: &JobId, attempt: u32, work: &Work) -> SendOutcome {
        if let Some(reason) = to.unproven() {
            return SendOutcome::Unreachable { reason };
        }
        if to.dialect == Dialect::Sandrun
            && let Some(message) = unfit_for_sandrun(work)
        {
            return SendOutcome::Refused { message };
        }
        let (body, length, begun) = match self.body(to, job, work).await {
            Ok(body) => body,
            Err(error) => {
                return SendOutcome::Unreadable {
                    reason: format!("the job's payload cannot be read: {error}"),
                };
            }
        };
        let sent = self
            .clients
            .of(&to.spec)
            .post(url(&to.spec, "/submit"))
            .header(CONNECTION, "close")
            .header(CONTENT_TYPE, encode::content_type(&work.boundary))
            .header(CONTENT_LENGTH, length)
            .header("idempotency-key", attempt_key(job, attempt))
            .timeout(self.timeouts.longest_job)
            .body(body)
            .send()
            .await;
        match sent {
            Ok(response) => {
                let status = response.status().as_u16();
                let retry_after = response
                    .headers()
                    .get(RETRY_AFTER)
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned);
                match read_bounded(response).await {
                    Ok(body) => sandrun::submit(status, retry_after.as_deref(), &body),
                    // The status alone does not carry a job id; a refusal cut short is still a refusal.
                    Err(_) if status >= 400 => sandrun::submit(status, retry_after.as_deref(), b""),
                    Err(reason) => SendOutcome::Unknown { reason },
                }
            }
            Err(error) if error.is_connect() || refuses_us(&error) || !begun.load(Ordering::Acquire) => {
                SendOutcome::Unreachable { reason: reason(&error) }
            }
            Err(error) => SendOutcome::Unknown { reason: reason(&error) },
        }
    }

    async fn find_by_key(&self, at: &Contact, key: &str, sent_within: Duration) -> KeyAnswer {
        #[derive(serde::Deserialize)]
        struct Found {
            jobs: Vec<FoundJob>,
            /// A worker that does not say has an unknown past.
            #[serde(default)]
            remembers_seconds: f64,
        }
        #[derive(serde::Deserialize)]
        struct FoundJob {
            job_id: String,
        }
        if at.unproven().is_some() {
            return KeyAnswer::Unanswered;
        }
        if at.dialect == Dialect::Sandrun {
            return KeyAnswer::CannotSay;
        }
        // A key is a job id, a slash and a number: nothing in it needs encoding.
        let asked = self.get(&at.spec, &format!("/jobs?key={key}"), self.timeouts.health).send().await;
        let body = match asked {
            Ok(response) if response.status() == StatusCode::OK => read_bounded(response).await,
            Ok(response) => Err(format!("it answered {}", response.status())),
            Err(error) => Err(reason(&error)),
        };
        match body.map(|body| serde_json::from_slice::<Found>(&body)) {
            Ok(Ok(mut found)) => match found.jobs.pop() {
                Some(FoundJob { job_id }) if sandrun::is_remote_id(&job_id) => {
                    KeyAnswer::Found { remote: job_id }
                }
                Some(FoundJob { .. }) => KeyAnswer::Unanswered,
                None if found.remembers_seconds > sent_within.as_secs_f64() => KeyAnswer::Absent,
                None => KeyAnswer::CannotSay,
            },
            Ok(Err(_)) | Err(_) => KeyAnswer::Unanswered,
        }
    }

    async fn status(&self, at: &Contact, remote: &RemoteId, patience: Patience) -> Answer<RemoteStatus> {
        let path = match (at.dialect, patience) {
            (Dialect::V2, Patience::Until(wait)) => format!("/status/{remote}?wait={}", wait.as_secs()),
            (Dialect::V2, Patience::Now) | (Dialect::Sandrun, _) => format!("/status/{remote}"),
        };
        let wait = match patience {
            Patience::Now => Duration::ZERO,
            Patience::Until(wait) => wait,
        };
        match self.ask(at, &path, wait).await {
            Answer::Known(response) => {
                match read_bounded(response).await.and_then(|body| sandrun::status(&body)) {
                    Ok(status) => Answer::Known(status),
                    Err(reason) => Answer::Unreadable { reason },
                }
            }
            other => other.map(|_| unreachable!("a known answer is handled above")),
        }
    }

    async fn cancel(&self, at: &Contact, remote: &RemoteId) -> Answer<()> {
        if let Some(reason) = at.unproven() {
            return Answer::Unreachable { reason };
        }
        let path = format!("/cancel/{remote}");
        let request = self.clients.of(&at.spec).post(url(&at.spec, &path)).header(CONTENT_LENGTH, 0);
        answer(&path, request.timeout(self.timeouts.health).send().await).map(drop)
    }

    async fn logs(&self, at: &Contact, remote: &RemoteId, bytes_max: usize) -> Answer<Logs> {
        let response = match self.ask(at, &format!("/logs/{remote}"), Duration::ZERO).await {
            Answer::Known(response) => response,
            other => return other.map(|_| unreachable!("a known answer is handled above")),
        };
        let mut scanner = LogScanner::new(bytes_max);
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let pushed = match chunk {
                Ok(chunk) => scanner.push(&chunk).map_err(|error| error.to_string()),
                Err(error) => Err(reason(&error)),
            };
            if let Err(reason) = pushed {
                return Answer::Unreadable { reason };
            }
        }
        match scanner.finish() {
            Ok(logs) => Answer::Known(logs),
            Err(error) => Answer::Unreadable { reason: error.to_string() },
        }
    }

    async fn listing(&self, at: &Contact, remote: &RemoteId) -> Answer<String> {
        match self.ask(at, &format!("/outputs/{remote}"), Duration::ZERO).await {
            Answer::Known(response) => match read_bounded(response).await.map(String::from_utf8) {
                Ok(Ok(json)) if listing::files(&json).is_some() => Answer::Known(json),
                Ok(Ok(_)) => Answer::Unreadable { reason: "its listing is not of the protocol".to_owned() },
                Ok(Err(_)) => Answer::Unreadable { reason: "its listing is not UTF-8".to_owned() },
                Err(reason) => Answer::Unreadable { reason },
            },
            other => other.map(|_| unreachable!("a known answer is handled above")),
        }
    }

    async fn open_output(&self, at: &Contact, remote: &RemoteId, path: &OutputPath) -> Opened {
        match at.unproven() {
            Some(reason) => Opened::Unanswered { reason },
            None => download::open(self.clients.dialer(), at, remote, path).await,
        }
    }

    fn forget(&self, worker: WorkerKey) {
        self.clients.forget(worker);
    }
}

impl HttpUpstream {
    /// One question about a job, which a worker that can do so may answer after `wait`: `Known` is a response with status 200,
    /// its body still to be read.
    async fn ask(&self, at: &Contact, path: &str, wait: Duration) -> Answer<Response> {
        if let Some(reason) = at.unproven() {
            return Answer::Unreachable { reason };
        }
        let timeout = match at.dialect {
            Dialect::Sandrun => self.timeouts.longest_job,
            Dialect::V2 => wait + ANSWER_TIME,
        };
        answer(path, self.get(&at.spec, path, timeout).send().await)
    }
}

/// What a response to a question about a job says.
fn answer(path: &str, sent: Result<Response, reqwest::Error>) -> Answer<Response> {
    match sent {
        Ok(response) if response.status() == StatusCode::OK => Answer::Known(response),
        Ok(response) if response.status() == StatusCode::NOT_FOUND => Answer::Gone,
        Ok(response) => Answer::Unreadable { reason: format!("{path} answered {}", response.status()) },
        Err(error) if error.is_timeout() && !error.is_connect() => Answer::Silent,
        Err(error) => Answer::Unreachable { reason: reason(&error) },
    }
}

/// Why an unmodified sandrun worker would misread this job.
fn unfit_for_sandrun(work: &Work) -> Option<String> {
    match Manifest::parse(work.manifest.as_bytes()) {
        Ok(manifest) => manifest.sandrun_hazard(),
        Err(error) => Some(error.to_string()),
    }
}

fn url(spec: &WorkerSpec, path: &str) -> String {
    let scheme = if spec.endpoint.is_tls() { "https" } else { "http" };
    format!("{scheme}://{}{path}", spec.endpoint.host_port())
}

/// Whether the worker has turned the pool away by its key, before it looked at what was sent.
fn refuses_us(error: &reqwest::Error) -> bool {
    tls_failure(error).is_some_and(|failure| failure == TlsFailure::Refused)
}

fn check_failure(error: &reqwest::Error) -> CheckFailure {
    match tls_failure(error) {
        Some(TlsFailure::Certificate(shown)) => CheckFailure::NotTheWorker(shown.to_string()),
        Some(TlsFailure::Refused | TlsFailure::NotTls | TlsFailure::Other(_)) | None => {
            CheckFailure::Unwell(reason(error))
        }
    }
}

async fn read_bounded(response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| reason(&error))?;
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("its answer is longer than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error with its causes, without the URL, which the caller knows.
fn reason(error: &reqwest::Error) -> String {
    if let Some(failure) = tls_failure(error) {
        return failure.to_string();
    }
    let mut text = String::new();
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = source {
        let part = cause.to_string();
        // The outermost message repeats the URL and says no more than its causes do.
        let part = part.split(" for url (").next().unwrap_or_default();
        if !text.contains(part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(part);
        }
        source = cause.source();
    }
    text
}
