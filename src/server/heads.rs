//! How long a client may take to say what it wants, and how much it may say: Pingora bounds the time between two bytes alone, and a mebibyte.
//!
//! The watch is on the stream below Pingora. For HTTP/1.1 it looks on from the first byte of a request (of the first request: from the
//! first moment) until Pingora has read its head; then Pingora drops the value that was given to it for the request, which ends the watch.
//! For HTTP/2 it looks on until the preface is there; from then on Pingora's idle timeout closes what has no whole request.
//! A client that is too slow, or says too much, is answered by the watch, and Pingora is stopped where it reads.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

use super::connections::{Connections, Open};

/// Longest head of a request in bytes over HTTP/1.1, as over HTTP/2.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// The length of what every HTTP/2 connection begins with (RFC 9113, section 3.4).
const H2_PREFACE_BYTES: usize = 24;

const TOO_SLOW: &str = "{\"error\":\"the head of the request came too slowly\",\"code\":\"request_timeout\"}";
const TOO_LONG: &str =
    "{\"error\":\"the head of the request is longer than 65536 bytes\",\"code\":\"headers_too_large\"}";

/// An app behind the watch.
pub struct WatchedApp<A> {
    app: Arc<Requests<A>>,
    connections: Connections,
    /// For the head of a request.
    patience: Duration,
}

/// An app that tells when a request begins, and when its head is read.
struct Requests<A>(Arc<A>);

tokio::task_local! {
    /// The connection that a task of HTTP/1.1 serves.
    static HEADS: Arc<Heads>;
}

/// Where a connection is: an even number while a head is read, an odd one else; each head has a number of its own.
struct Heads {
    number: AtomicU64,
    /// The watch has refused the connection.
    refused: Notify,
}

/// Ends the head with which it was made.
struct HeadEnd(Arc<Heads>);

impl<A> WatchedApp<A> {
    pub fn new(app: A, connections: Connections, patience: Duration) -> Self {
        Self { app: Arc::new(Requests(Arc::new(app))), connections, patience }
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServerApp for WatchedApp<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let from = stream.get_socket_digest().and_then(|digest| digest.peer_addr()?.as_inet().copied());
        // It ends with this call, as the stream does: Pingora gets none back.
        let _open: Option<Open> = from.map(|from| self.connections.open(from));
        let heads = Arc::new(Heads { number: AtomicU64::new(0), refused: Notify::new() });
        let speaks = match stream.selected_alpn_proto() {
            Some(ALPN::H2) => Speaks::Http2,
            _ => Speaks::Http1,
        };
        let (patience, heads_of_stream) = (self.patience, Arc::clone(&heads));
        let stream = Watch { inner: stream, heads: heads_of_stream, speaks, patience, head: None };
        let served = HEADS.scope(Arc::clone(&heads), self.app.process_new(Box::new(stream), shutdown));
        tokio::select! {
            biased;
            _ = served => {}
            () = heads.refused.notified() => {}
        }
        None
    }

    async fn cleanup(&self) {
        self.app.cleanup().await;
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Requests<A> {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if session.as_http2().is_none()
            && let Ok(heads) = HEADS.try_with(Arc::clone)
        {
            heads.begin();
            // Pingora hands it over, and so drops it, when it has read the head.
            session.set_connection_user_context(Some(Box::new(HeadEnd(heads))));
        }
        self.0.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.0.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.server_options()
    }

    async fn http_cleanup(&self) {
        self.0.http_cleanup().await;
    }
}

impl Heads {
    fn begin(&self) {
        if !self.number.load(Ordering::Acquire).is_multiple_of(2) {
            self.number.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn end(&self) {
        if self.number.load(Ordering::Acquire).is_multiple_of(2) {
            self.number.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The head that is being read.
    fn current(&self) -> Option<u64> {
        Some(self.number.load(Ordering::Acquire)).filter(|number| number.is_multiple_of(2))
    }
}

impl Drop for HeadEnd {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
}

/// A connection's stream, and the watch over what is read from it.
struct Watch {
    inner: Stream,
    heads: Arc<Heads>,
    speaks: Speaks,
    patience: Duration,
    head: Option<Head>,
}

/// A head that is being read.
struct Head {
    number: u64,
    bytes: usize,
    /// Set with the first byte; for the first head of a connection, at once.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    /// Reads a piece of a head.
    fn read_head(
        &mut self,
        number: u64,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.head.as_ref().is_none_or(|head| head.number != number) {
            let deadline = (number == 0).then(|| Box::pin(sleep(self.patience)));
            self.head = Some(Head { number, bytes: 0, deadline });
        }
        let head = self.head.as_mut().expect("it has just been made");
        // Not after the read: what follows a head may come with it.
        if head.bytes > HEAD_BYTES_MAX {
            return self.refuse(cx, "431 Request Header Fields Too Large", TOO_LONG);
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        head.bytes += buf.filled().len() - before;
        if self.speaks == Speaks::Http2 && head.bytes >= H2_PREFACE_BYTES {
            self.heads.end();
            return read;
        }
        if head.bytes > 0 && head.deadline.is_none() {
            head.deadline = Some(Box::pin(sleep(self.patience)));
        }
        let late = head.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if late && read.is_pending() {
            return self.refuse(cx, "408 Request Timeout", TOO_SLOW);
        }
        read
    }

    /// Says why, as far as it can be said at once, and has the connection closed.
    fn refuse(&mut self, cx: &mut Context<'_>, status: &str, json: &str) -> Poll<std::io::Result<()>> {
        // A browser that keeps a connection ready has asked nothing, and is told nothing.
        let asked = self.head.as_ref().is_some_and(|head| head.bytes > 0);
        if self.speaks == Speaks::Http1 && asked {
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{json}",
                json.len()
            );
            let written = Pin::new(&mut self.inner).poll_write(cx, answer.as_bytes());
            if written.is_ready() {
                let _ = Pin::new(&mut self.inner).poll_flush(cx);
            }
        }
        self.heads.refused.notify_one();
        Poll::Pending
    }
}

impl AsyncRead for Watch {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let watch = self.get_mut();
        match watch.heads.current() {
            Some(number) => watch.read_head(number, cx, buf),
            None => {
                watch.head = None;
                Pin::new(&mut watch.inner).poll_read(cx, buf)
            }
        }
    }
}

// All else passes through.

impl AsyncWrite for Watch {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Watch {
    async fn shutdown(&mut self) {
        self.inner.shutdown().await;
    }
}

impl UniqueID for Watch {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Watch {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for Watch {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.inner.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.inner.get_write_pending_time()
    }
}

impl GetProxyDigest for Watch {
    fn get_proxy_digest(&self) -> Option<Arc<pingora::protocols::raw_connect::ProxyDigest>> {
        self.inner.get_proxy_digest()
    }
}

impl GetSocketDigest for Watch {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

#[async_trait]
impl Peek for Watch {
    async fn try_peek(&mut self, buf: &mut [u8]) -> std::io::Result<bool> {
        self.inner.try_peek(buf).await
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.inner).finish()
    }
}
