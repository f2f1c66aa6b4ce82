//! A request that passes through to the worker that holds the job: where it goes, what of it is let through, and what of the answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use tokio::time::Instant;

use super::follow::not_live;
use super::respond;
use super::subprotocols::Subprotocols;
use crate::api::bodies::StatusBody;
use crate::api::live_log::EVENT_STREAM;
use crate::api::{OutputPath, Problem, ProblemCode};
use crate::pool::Pool;
use crate::queue::LiveJob;
use crate::store::EndedRun;
use crate::upstream::gate::Turn;
use crate::upstream::peer::{Target, http_peer, request_head};
use crate::upstream::tls::Dialer;
use crate::upstream::{Contact, Stage, sandrun};
use crate::worker::Dialect;

/// A request on its way through.
pub enum Passage {
    Status(StatusPassage),
    Output(OutputPassage),
    Stream(StreamPassage),
    Follow(FollowPassage),
}

/// Where the worker is.
pub struct Destination {
    pub contact: Contact,
    pub address: std::net::SocketAddr,
}

/// `/status` of a job that a worker has: the worker's answer in the pool's envelope.
pub struct StatusPassage {
    pub job: Arc<LiveJob>,
    pub to: Destination,
    pub target: Target,
    pub patience: Duration,
    /// When the worker's answer must be whole; from then on the client is told what the pool knows.
    pub deadline: Instant,
    /// The worker's answer so far. It is held until it is whole, because only then it is known to be JSON.
    pub body: Vec<u8>,
    /// The turn at a worker that answers one call at a time.
    pub turn: Option<Turn>,
}

/// A file.
pub struct OutputPassage {
    pub to: Destination,
    pub path: OutputPath,
    pub remote: String,
    /// Under which of a worker's paths it is asked for.
    pub at: FileAt,
    /// Whether the worker's listing names it; unknown while the job runs.
    pub listed: Listed,
}

/// The events of a job's live log.
pub struct FollowPassage {
    pub to: Destination,
    pub target: Target,
}

/// A WebSocket with a job's live log.
pub struct StreamPassage {
    pub to: Destination,
    pub target: Target,
    pub protocols: Subprotocols,
}

/// The path under which a worker serves a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAt {
    /// `/download/{job}/{path}`, where a sandrun worker has it.
    Download,
    /// `/outputs/{job}/{path}`, where some other worker may.
    Outputs,
}

/// Where it is said whether a job has a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It was found in the job's listing.
    Yes,
    /// In the listing that is kept of this run, if any is.
    In(EndedRun),
    /// Nowhere: the job has not ended.
    Nowhere,
}

/// What becomes of a worker's answer.
pub enum Admitted {
    Yes,
    /// The request goes out again, to another path.
    TryAgain,
    /// The worker does not give the file, with this status: [`OutputPassage::refusal`] says what it means.
    Refused(StatusCode),
    No(Problem),
}

/// A status is held in memory until it is whole; one with 10,000 outputs takes about 2 MiB.
const STATUS_BYTES_MAX: usize = 16 << 20;

/// A worker says every fifteen seconds that it is still there; one that has missed a few is not.
const FOLLOW_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Request headers that a worker may see: what a partial or conditional request needs.
const REQUEST_HEADERS: [(HeaderName, &str); 5] = [
    (header::RANGE, "Range"),
    (header::IF_RANGE, "If-Range"),
    (header::IF_NONE_MATCH, "If-None-Match"),
    (header::IF_MODIFIED_SINCE, "If-Modified-Since"),
    (header::IF_MATCH, "If-Match"),
];

/// Request headers of a WebSocket handshake (RFC 6455, section 4.1).
const WEBSOCKET_HEADERS: [(&str, &str); 5] = [
    ("upgrade", "Upgrade"),
    ("connection", "Connection"),
    ("sec-websocket-key", "Sec-WebSocket-Key"),
    ("sec-websocket-version", "Sec-WebSocket-Version"),
    ("sec-websocket-extensions", "Sec-WebSocket-Extensions"),
];

/// Response headers of a WebSocket handshake (RFC 6455, section 4.2.2).
const HANDSHAKE_HEADERS: [HeaderName; 5] = [
    header::UPGRADE,
    header::CONNECTION,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// Response headers of a worker that reach a client, beside those that the pool sets itself.
const RESPONSE_HEADERS: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::ETAG,
    header::LAST_MODIFIED,
    header::CONTENT_ENCODING,
];

impl Passage {
    pub fn peer(&self, dialer: &Dialer) -> Result<Box<HttpPeer>> {
        let (to, target) = match self {
            Self::Status(status) => (&status.to, status.target.clone()),
            Self::Output(output) => (&output.to, output.target()),
            Self::Stream(stream) => (&stream.to, stream.target.clone()),
            Self::Follow(follow) => (&follow.to, follow.target.clone()),
        };
        let mut peer = http_peer(dialer, &to.contact, to.address, &target)?;
        match self {
            Self::Status(status) => {
                peer.options.connection_timeout = Some(status.patience);
                peer.options.total_connection_timeout = Some(status.patience);
                peer.options.read_timeout = Some(status.patience);
            }
            Self::Output(_) => {}
            // A job may be silent for as long as it runs.
            Self::Stream(_) => peer.options.read_timeout = None,
            Self::Follow(_) => peer.options.read_timeout = Some(FOLLOW_SILENCE_MAX),
        }
        Ok(Box::new(peer))
    }

    /// The worker that the request goes to.
    pub fn contact(&self) -> &Contact {
        match self {
            Self::Status(status) => &status.to.contact,
            Self::Output(output) => &output.to.contact,
            Self::Stream(stream) => &stream.to.contact,
            Self::Follow(follow) => &follow.to.contact,
        }
    }

    /// The head that the worker gets for a client's request.
    pub fn request_head(&self, client: &RequestHeader) -> Result<RequestHeader> {
        match self {
            Self::Status(status) => request_head("GET", &status.to.contact, &status.target),
            Self::Output(output) => {
                let mut head = request_head(client.method.as_str(), &output.to.contact, &output.target())?;
                for (name, title) in REQUEST_HEADERS {
                    copy(client, &mut head, name, title)?;
                }
                Ok(head)
            }
            Self::Stream(stream) => {
                let mut head = request_head("GET", &stream.to.contact, &stream.target)?;
                for (name, title) in WEBSOCKET_HEADERS {
                    copy(client, &mut head, HeaderName::from_static(name), title)?;
                }
                stream.protocols.forward(&mut head)?;
                Ok(head)
            }
            Self::Follow(stream) => {
                let mut head = request_head("GET", &stream.to.contact, &stream.target)?;
                copy(client, &mut head, HeaderName::from_static("last-event-id"), "Last-Event-ID")?;
                Ok(head)
            }
        }
    }

    /// Decides what becomes of a worker's answer, and leaves in its head what the client gets.
    pub fn admit(&mut self, head: &mut ResponseHeader) -> Result<Admitted> {
        match self {
            Self::Status(_) => admit_status(head),
            Self::Output(output) => output.admit(head),
            Self::Stream(stream) => admit_stream(head, &stream.protocols),
            Self::Follow(_) => admit_follow(head),
        }
    }

    /// Puts the pool's envelope around a worker's status; every other body passes as it is.
    pub fn wrap(&mut self, body: &mut Option<Bytes>, end_of_stream: bool) -> Result<()> {
        let Self::Status(status) = self else { return Ok(()) };
        if let Some(chunk) = body.take() {
            if status.body.len() + chunk.len() > STATUS_BYTES_MAX {
                return Err(Error::explain(ErrorType::Custom("status too long"), "it has no end").into_up());
            }
            status.body.extend_from_slice(&chunk);
        }
        if !end_of_stream && Instant::now() > status.deadline {
            return Err(Error::explain(ErrorType::ReadTimedout, "the worker's status drips").into_up());
        }
        if end_of_stream {
            *body = Some(Bytes::from(status.enveloped()));
        }
        Ok(())
    }

    /// Tells the pool what a contact that failed says of the worker.
    pub fn report_failure(&self, pool: &Pool, error: &Error) {
        let to = match self {
            // A status call that is not answered in time is a busy worker, and one that runs one job at a time.
            Self::Status(status) if matches!(error.etype(), ErrorType::ReadTimedout) => {
                return pool.seen_serial(status.to.contact.spec.key);
            }
            Self::Status(status) => &status.to,
            Self::Output(output) => &output.to,
            Self::Stream(stream) => &stream.to,
            Self::Follow(follow) => &follow.to,
        };
        let connects = matches!(
            error.etype(),
            ErrorType::ConnectTimedout
                | ErrorType::ConnectRefused
                | ErrorType::ConnectNoRoute
                | ErrorType::ConnectError
                | ErrorType::TLSHandshakeFailure
                | ErrorType::InvalidCert
        );
        if connects {
            pool.suspect(
                to.contact.spec.key,
                format!("a client's request did not reach it: {}", error.etype().as_str()),
            );
        }
    }
}

/// What a client is told when the worker gave no answer, or none that is one.
pub fn problem_of(error: &Error) -> Problem {
    match error.etype() {
        ErrorType::ReadTimedout => {
            Problem::new(ProblemCode::WorkerBusy, "the worker that holds the job did not answer in time")
        }
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::H2Error => Problem::new(
            ProblemCode::WorkerError,
            "the worker that holds the job answered with something that is not HTTP",
        ),
        _ => unreachable_problem(),
    }
}

pub fn no_such_output(path: &OutputPath) -> Problem {
    Problem::new(ProblemCode::OutputNotFound, format!("the job has no output {path:?}"))
}

/// The worker that holds a job cannot be reached.
pub fn unreachable_problem() -> Problem {
    Problem::new(
        ProblemCode::WorkerUnreachable,
        "the worker that holds this job's outputs cannot be reached; try again when it is back",
    )
}

fn copy(
    client: &RequestHeader,
    head: &mut RequestHeader,
    name: HeaderName,
    title: &'static str,
) -> Result<()> {
    match client.headers.get(&name) {
        // A sandrun worker breaks on a header without a value.
        Some(value) if !value.is_empty() => head.insert_header(title, value.clone()),
        Some(_) | None => Ok(()),
    }
}

// === impl StatusPassage ===

impl StatusPassage {
    /// The answer to the client; the pool takes note of what the worker said.
    fn enveloped(&mut self) -> String {
        self.turn.take();
        let said = sandrun::status(&self.body).ok();
        if let Some(said) = &said {
            self.job.saw_worker_status(Arc::clone(&said.json));
            if said.stage != Stage::Active {
                self.job.news.notify_one();
            }
        }
        let row = self.job.row();
        let known = said.map(|said| said.json).or_else(|| self.job.worker_status());
        StatusBody::new(&row).whole(known.as_deref())
    }
}

fn admit_status(head: &mut ResponseHeader) -> Result<Admitted> {
    let empty = head.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
    if head.status != StatusCode::OK || empty {
        let problem = Problem::new(ProblemCode::WorkerError, "the worker gave no status");
        return Ok(Admitted::No(problem));
    }
    // Without a length, the body may become another one.
    keep_only(head, &[]);
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    Ok(Admitted::Yes)
}

fn admit_stream(head: &mut ResponseHeader, protocols: &Subprotocols) -> Result<Admitted> {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        keep_only(head, &HANDSHAKE_HEADERS);
        protocols.answer(head)?;
        return Ok(Admitted::Yes);
    }
    let message = format!("the worker does not stream this job: it answered {}", head.status.as_u16());
    Ok(Admitted::No(Problem::new(ProblemCode::WorkerError, message)))
}

fn admit_follow(head: &mut ResponseHeader) -> Result<Admitted> {
    let events = head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == EVENT_STREAM);
    match head.status {
        StatusCode::OK if events => {
            keep_only(head, &[header::CONTENT_TYPE]);
            head.insert_header(header::CACHE_CONTROL, "no-store")?;
            Ok(Admitted::Yes)
        }
        StatusCode::NOT_FOUND => {
            let message = "the worker no longer knows this job";
            Ok(Admitted::No(Problem::new(ProblemCode::OutputExpired, message)))
        }
        _ => Ok(Admitted::No(not_live())),
    }
}

// === impl OutputPassage ===

impl OutputPassage {
    pub fn target(&self) -> Target {
        let prefix = match self.at {
            FileAt::Download => format!("/download/{}/", self.remote),
            FileAt::Outputs => format!("/outputs/{}/", self.remote),
        };
        Target::file(&prefix, &self.path.encoded(), self.path.as_bytes())
    }

    /// Decides what becomes of a worker's answer to a request for a file.
    pub fn admit(&mut self, head: &mut ResponseHeader) -> Result<Admitted> {
        match head.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => self.admit_file(head),
            StatusCode::NOT_MODIFIED
            | StatusCode::RANGE_NOT_SATISFIABLE
            | StatusCode::PRECONDITION_FAILED => {
                self.set_headers(head)?;
                Ok(Admitted::Yes)
            }
            StatusCode::NOT_FOUND if self.at == FileAt::Download => {
                self.at = FileAt::Outputs;
                Ok(Admitted::TryAgain)
            }
            status => Ok(Admitted::Refused(status)),
        }
    }

    fn admit_file(&self, head: &mut ResponseHeader) -> Result<Admitted> {
        if let Some(other) = self.another_file(head) {
            let message =
                format!("the worker answered with another file, {other:?}: it cannot serve this name");
            return Ok(Admitted::No(Problem::new(ProblemCode::WorkerError, message)));
        }
        if !says_where_it_ends(head) {
            // Cut short, it would look whole.
            let message = "the worker does not say how long the file is";
            return Ok(Admitted::No(Problem::new(ProblemCode::WorkerError, message)));
        }
        self.set_headers(head)?;
        Ok(Admitted::Yes)
    }

    fn another_file(&self, head: &ResponseHeader) -> Option<String> {
        if self.to.contact.dialect != Dialect::Sandrun {
            return None;
        }
        let stated = head.headers.get(header::CONTENT_DISPOSITION)?;
        sandrun::another_file(stated.as_bytes(), &self.path)
    }

    fn set_headers(&self, head: &mut ResponseHeader) -> Result<()> {
        keep_only(head, &RESPONSE_HEADERS);
        head.insert_header(header::CONTENT_DISPOSITION, content_disposition(&self.path))?;
        respond::distrust_content(head)
    }

    /// What an error of the worker means. A sandrun worker answers 500 for a file that is not there, so its listing
    /// decides between a missing file and a worker that fails.
    pub fn refusal(&self, status: StatusCode, is_listed: bool) -> Problem {
        match (status, is_listed) {
            (StatusCode::NOT_FOUND, true) => {
                Problem::new(ProblemCode::OutputExpired, "the worker no longer has this job's outputs")
            }
            (StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::INTERNAL_SERVER_ERROR, false) => {
                no_such_output(&self.path)
            }
            (status, _) => {
                let message = format!("the worker could not serve the file: it answered {}", status.as_u16());
                Problem::new(ProblemCode::WorkerError, message)
            }
        }
    }
}

/// Whether the end of the body can be told from the end of the connection.
fn says_where_it_ends(head: &ResponseHeader) -> bool {
    let chunked = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    head.headers.contains_key(header::CONTENT_LENGTH)
        || head.headers.get(header::TRANSFER_ENCODING).is_some_and(chunked)
}

fn keep_only(head: &mut ResponseHeader, kept: &[HeaderName]) {
    let names: Vec<HeaderName> = head.headers.keys().filter(|name| !kept.contains(name)).cloned().collect();
    for name in names {
        head.remove_header(&name);
    }
}

/// `attachment` with the file's base name, plain and as RFC 5987 has it for other characters.
pub fn content_disposition(path: &OutputPath) -> String {
    let name = path.base_name();
    let plain: String = name
        .iter()
        .map(|byte| match byte {
            b'"' | b'\\' => '_',
            byte if byte.is_ascii_graphic() || *byte == b' ' => char::from(*byte),
            _ => '_',
        })
        .collect();
    match OutputPath::from_bytes(name.to_vec()) {
        Ok(base) if plain.as_bytes() != name => {
            format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", base.encoded())
        }
        Ok(_) | Err(_) => format!("attachment; filename=\"{plain}\""),
    }
}
