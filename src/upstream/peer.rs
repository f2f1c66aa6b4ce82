//! From a worker to Pingora's `HttpPeer`: the one place that builds one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::http::RequestHeader;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use pingora::{ErrorType, OkOrErr, OrErr, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::Contact;
use super::raw_target::RawTarget;
use crate::worker::Dialect;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker that sends nothing for this long in the middle of a file has stopped.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a kept-alive connection to a worker is kept for the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What to ask of a worker, as the path that it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Percent-encoded, for HTTP libraries.
    encoded: String,
    /// The bytes as the worker's file system has them.
    raw: Vec<u8>,
}

impl Target {
    /// A path of plain characters, the same encoded and raw.
    pub fn plain(path: String) -> Self {
        let raw = path.clone().into_bytes();
        Self { encoded: path, raw }
    }

    /// The path of a file below `prefix`, which is plain.
    pub fn file(prefix: &str, encoded: &str, raw: &[u8]) -> Self {
        Self { encoded: format!("{prefix}{encoded}"), raw: [prefix.as_bytes(), raw].concat() }
    }

    pub fn encoded(&self) -> &str {
        &self.encoded
    }

    /// The bytes that a worker of this dialect is to be sent.
    pub fn sent_to(&self, dialect: Dialect) -> &[u8] {
        match dialect {
            Dialect::Sandrun => &self.raw,
            Dialect::V2 => self.encoded.as_bytes(),
        }
    }

    /// Whether a worker that takes a target's bytes as they stand must be sent others than a library writes.
    fn needs_raw_bytes(&self, dialect: Dialect) -> bool {
        self.sent_to(dialect) != self.encoded.as_bytes()
    }
}

/// The peer for one request to a worker.
pub fn http_peer(contact: &Contact, address: SocketAddr, target: &Target) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    // Two workers are never one peer, whatever their addresses are.
    let key = contact.spec.key.as_bytes();
    peer.group_key = u64::from_le_bytes(key[..8].try_into().expect("a key has 32 bytes"));
    peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
    peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
    peer.options.read_timeout = Some(READ_TIMEOUT);
    peer.options.write_timeout = Some(READ_TIMEOUT);
    peer.options.idle_timeout = Some(IDLE_TIMEOUT);
    if target.needs_raw_bytes(contact.dialect) {
        peer.options.custom_l4 = Some(Arc::new(RawTargetConnect { target: target.raw.clone() }));
    }
    peer
}

/// The head of one request to a worker: rebuilt, so that no client's header and no client's spelling reaches it. Further headers
/// are the caller's to add, in Title-Case, and none with an empty value: a sandrun worker breaks on it.
pub fn request_head(method: &str, contact: &Contact, target: &Target) -> Result<RequestHeader> {
    let mut head = RequestHeader::build(method, target.encoded.as_bytes(), Some(8))?;
    head.insert_header("Host", contact.spec.endpoint.host_port())?;
    if contact.dialect == Dialect::Sandrun {
        // It closes after each answer without saying so: a connection to it must never be kept.
        head.insert_header("Connection", "close")?;
    }
    Ok(head)
}

/// Connects to a worker and sends `target` as the target of the request.
#[derive(Debug)]
struct RawTargetConnect {
    target: Vec<u8>,
}

#[async_trait]
impl L4Connect for RawTargetConnect {
    async fn connect(&self, address: &PeerAddr) -> Result<Stream> {
        let address =
            address.as_inet().copied().or_err(ErrorType::InternalError, "workers are reached over TCP")?;
        let tcp =
            TcpStream::connect(address).await.or_err(ErrorType::ConnectError, "connecting to the worker")?;
        let raw = RawTarget::new(tcp, self.target.clone())
            .or_err(ErrorType::InternalError, "raw request target")?;
        Ok(Stream::from(VirtualSocketStream::new(Box::new(RawSocket(raw)))))
    }
}

/// A [`RawTarget`] over TCP as Pingora wants its sockets.
#[derive(Debug)]
struct RawSocket(RawTarget<TcpStream>);

impl VirtualSocket for RawSocket {
    fn set_socket_option(&self, option: VirtualSockOpt) -> std::io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.0.get_ref().set_nodelay(true),
            // Keep-alive probes: the connection lives for one request.
            _ => Ok(()),
        }
    }
}

impl AsyncRead for RawSocket {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for RawSocket {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
