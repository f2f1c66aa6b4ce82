//! Fetches one output file from a worker.
//!
//! Not with the client that makes the other calls: a sandrun worker takes the bytes of the request target as they stand, and
//! no HTTP library writes a raw space. So this is hyper's own connection over a [`RawTarget`], one for each file.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::peer::Target;
use super::raw_target::RawTarget;
use super::tls::{self, Dialer};
use super::{Contact, sandrun};
use crate::api::OutputPath;
use crate::job::RemoteId;
use crate::worker::Dialect;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker that sends nothing for this long, before or in the middle of a file, has stopped.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a worker answers when it is asked for an output.
#[derive(Debug)]
pub enum Opened {
    File(OutputStream),
    /// The worker does not know the job (any more), or the file.
    Gone,
    /// It answered, and not with the file.
    Refused {
        reason: String,
    },
    /// It was not reached, or gave no answer.
    Unanswered {
        reason: String,
    },
}

/// A file on its way from a worker: its content, in pieces. It fails unless it ends where the worker said.
#[derive(Debug)]
pub struct OutputStream {
    /// Bytes, as the worker states them.
    pub length: u64,
    body: Incoming,
    idle: Pin<Box<Sleep>>,
    /// Drives the connection; it ends with the stream.
    _connection: JoinSet<()>,
}

/// Asks for a file under each path where a worker may have it.
pub async fn open(dialer: &Dialer, at: &Contact, remote: &RemoteId, path: &OutputPath) -> Opened {
    for prefix in [format!("/download/{remote}/"), format!("/outputs/{remote}/")] {
        let target = Target::file(&prefix, &path.encoded(), path.as_bytes());
        let (head, connection) = match timeout(IDLE_TIMEOUT, request(dialer, at, &target)).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(reason)) => return Opened::Unanswered { reason },
            Err(_) => return Opened::Unanswered { reason: "no answer in time".to_owned() },
        };
        match head.status() {
            StatusCode::OK => return admit(at, path, head, connection),
            StatusCode::NOT_FOUND => {}
            status => {
                return Opened::Refused { reason: format!("the worker answered {status} for {path:?}") };
            }
        }
    }
    Opened::Gone
}

async fn request(
    dialer: &Dialer,
    at: &Contact,
    target: &Target,
) -> Result<(Response<Incoming>, JoinSet<()>), String> {
    let address = at.spec.endpoint.host_port();
    let connection = match timeout(CONNECT_TIMEOUT, dialer.dial(&at.spec, &address)).await {
        Ok(connected) => connected.map_err(|error| tls::reason(&error))?,
        Err(_) => return Err("no connection in time".to_owned()),
    };
    let raw = target.sent_to(at.dialect).to_vec();
    let stream = RawTarget::new(connection, raw).map_err(|error| error.to_string())?;
    let handshake = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // What goes wrong is told to the reader of the body.
        let _ = connection.await;
    });
    let request = Request::get(target.encoded())
        .header(header::HOST, address)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let head = sender.send_request(request).await.map_err(|error| error.to_string())?;
    Ok((head, driver))
}

fn admit(at: &Contact, path: &OutputPath, head: Response<Incoming>, connection: JoinSet<()>) -> Opened {
    if at.dialect == Dialect::Sandrun
        && let Some(disposition) = head.headers().get(header::CONTENT_DISPOSITION)
        && let Some(other) = sandrun::another_file(disposition.as_bytes(), path)
    {
        let reason = format!("the worker answered with another file, {other:?}, for {path:?}");
        return Opened::Refused { reason };
    }
    let body = head.into_body();
    match body.size_hint().exact() {
        Some(length) => {
            let idle = Box::pin(sleep(IDLE_TIMEOUT));
            Opened::File(OutputStream { length, body, idle, _connection: connection })
        }
        None => Opened::Refused { reason: format!("the worker does not say how long {path:?} is") },
    }
}

impl Stream for OutputStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = &mut *self;
        loop {
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
                ready!(this.idle.as_mut().poll(cx));
                return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
            };
            this.idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
            match frame.transpose().map_err(io::Error::other)?.map(Frame::into_data) {
                Some(Ok(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                // Trailers say nothing about the content.
                Some(Err(_)) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}
