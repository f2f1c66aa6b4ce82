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
use super::subprotocols::Subprotocols;
use crate::api::bodies::StatusBody;
use crate::api::live_log::EVENT_STREAM;
use crate::api::{Problem, ProblemCode};
use crate::pool::Pool;
use crate::queue::LiveJob;
use crate::upstream::gate::Turn;
use crate::upstream::peer::{Peers, Target, request_head};
use crate::upstream::{Contact, Stage, sandrun};

/// A request on its way through.
pub enum Passage {
    Status(StatusPassage),
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

/// Whether a client gets a worker's answer, or is told something else.
type Admitted = std::result::Result<(), Problem>;

/// A status is held in memory until it is whole; one with 10,000 outputs takes about 2 MiB.
const STATUS_BYTES_MAX: usize = 16 << 20;

/// A worker says every fifteen seconds that it is still there; one that has missed a few is not.
const FOLLOW_SILENCE_MAX: Duration = Duration::from_secs(60);

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

impl Passage {
    pub fn peer(&self, peers: &Peers) -> Result<Box<HttpPeer>> {
        let (to, target) = match self {
            Self::Status(status) => (&status.to, status.target.clone()),
            Self::Stream(stream) => (&stream.to, stream.target.clone()),
            Self::Follow(follow) => (&follow.to, follow.target.clone()),
        };
        let mut peer = peers.peer(&to.contact, to.address, &target)?;
        match self {
            Self::Status(status) => {
                peer.options.connection_timeout = Some(status.patience);
                peer.options.total_connection_timeout = Some(status.patience);
                peer.options.read_timeout = Some(status.patience);
            }
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
            Self::Stream(stream) => &stream.to.contact,
            Self::Follow(follow) => &follow.to.contact,
        }
    }

    /// The head that the worker gets for a client's request.
    pub fn request_head(&self, client: &RequestHeader) -> Result<RequestHeader> {
        match self {
            Self::Status(status) => request_head("GET", &status.to.contact, &status.target),
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
    pub fn admit(&self, head: &mut ResponseHeader) -> Result<Admitted> {
        match self {
            Self::Status(_) => admit_status(head),
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
        match self {
            // A status call that is not answered in time is a busy worker, and one that runs one job at a time.
            Self::Status(status) if matches!(error.etype(), ErrorType::ReadTimedout) => {
                pool.seen_serial(status.to.contact.spec.key);
            }
            _ => report_failure(pool, self.contact(), error),
        }
    }
}

/// A worker that could not be connected to is not well.
pub fn report_failure(pool: &Pool, contact: &Contact, error: &Error) {
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
        let reason = format!("a client's request did not reach it: {}", error.etype().as_str());
        pool.suspect(contact.spec.key, reason);
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

/// The worker that holds a job cannot be reached.
pub fn unreachable_problem() -> Problem {
    Problem::new(
        ProblemCode::WorkerUnreachable,
        "the worker that holds this job's outputs cannot be reached; try again when it is back",
    )
}

pub fn copy(
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
        return Ok(Err(problem));
    }
    // Without a length, the body may become another one.
    keep_only(head, &[]);
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    Ok(Ok(()))
}

fn admit_stream(head: &mut ResponseHeader, protocols: &Subprotocols) -> Result<Admitted> {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        keep_only(head, &HANDSHAKE_HEADERS);
        protocols.answer(head)?;
        return Ok(Ok(()));
    }
    let message = format!("the worker does not stream this job: it answered {}", head.status.as_u16());
    Ok(Err(Problem::new(ProblemCode::WorkerError, message)))
}

fn admit_follow(head: &mut ResponseHeader) -> Result<Admitted> {
    let events = head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == EVENT_STREAM);
    match head.status {
        StatusCode::OK if events => {
            keep_only(head, &[header::CONTENT_TYPE]);
            head.insert_header(header::CACHE_CONTROL, "no-store")?;
            Ok(Ok(()))
        }
        StatusCode::NOT_FOUND => {
            let message = "the worker no longer knows this job";
            Ok(Err(Problem::new(ProblemCode::OutputExpired, message)))
        }
        _ => Ok(Err(not_live())),
    }
}

fn keep_only(head: &mut ResponseHeader, kept: &[HeaderName]) {
    let names: Vec<HeaderName> = head.headers.keys().filter(|name| !kept.contains(name)).cloned().collect();
    for name in names {
        head.remove_header(&name);
    }
}
