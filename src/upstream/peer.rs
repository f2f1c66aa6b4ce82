//! From a worker to Pingora's `HttpPeer`: the one place that builds one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::http::RequestHeader;
use pingora::protocols::Digest;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora::{ErrorType, OkOrErr, OrErr, Result};
use quick_cache::sync::Cache;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Contact;
use super::raw_target::RawTarget;
use super::tls::{Dialer, WorkerStream};
use crate::worker::certificate::Leaf;
use crate::worker::identity::SecretKey;
use crate::worker::{Dialect, WorkerKey, WorkerSpec};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A worker that sends nothing for this long in the middle of a file has stopped.
pub const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a kept-alive connection to a worker is kept for the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Pinned peers that are kept: of the workers that files were fetched from lately.
const PINNED_MAX: usize = 1024;

/// TLS 1.3 as Pingora calls it. It would take 1.2 too.
const TLS_VERSION: &str = "TLSv1_3";

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

/// Makes the peers of this pool's requests.
pub struct Peers {
    dialer: Dialer,
    /// To make one anew for each request is as dear as to serve a small file: certificates are read for it.
    pinned: Cache<([u8; 32], SocketAddr), Arc<Pinned>>,
}

/// The peer that a worker with this certificate is at one address.
struct Pinned {
    peer: HttpPeer,
    /// What the pool shows there.
    own: Arc<CertifiedKey>,
}

impl Peers {
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer, pinned: Cache::new(PINNED_MAX) }
    }

    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// The peer for one request to a worker. One with an `https` endpoint has TLS and must show its key; a worker that has shown
    /// none since the pool started has no peer.
    ///
    /// Pingora accepts whatever the worker's key has signed, which is more than the key itself. So [`is_of_worker`] has a say
    /// before anything is written.
    pub fn peer(&self, contact: &Contact, address: SocketAddr, target: &Target) -> Result<HttpPeer> {
        let mut peer = if target.needs_raw_bytes(contact.dialect) {
            raw_peer(&self.dialer, contact, address, target)
        } else if contact.spec.endpoint.is_tls() {
            let leaf = contact.leaf.as_ref();
            let leaf = leaf.or_err(ErrorType::InvalidCert, "the worker has not shown its key yet")?;
            self.pinned(leaf, address).peer.clone()
        } else {
            plain_peer(contact, address)
        };
        peer.options.connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
        peer.options.read_timeout = Some(READ_TIMEOUT);
        peer.options.write_timeout = Some(READ_TIMEOUT);
        peer.options.idle_timeout = Some(IDLE_TIMEOUT);
        Ok(peer)
    }

    fn pinned(&self, leaf: &Leaf, address: SocketAddr) -> Arc<Pinned> {
        let (own, key) = (self.dialer.own_certificate().current(), (leaf.digest(), address));
        // The pool renews its certificate from time to time.
        if let Some(made) = self.pinned.get(&key).filter(|made| Arc::ptr_eq(&made.own, &own)) {
            return made;
        }
        let secret = self.dialer.own_certificate().secret();
        let made = Arc::new(Pinned { peer: pinned_peer(secret, &own, leaf, address), own });
        self.pinned.insert(key, Arc::clone(&made));
        made
    }
}

fn plain_peer(contact: &Contact, address: SocketAddr) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    // Two workers are never one peer, whatever their addresses are.
    peer.group_key = group(contact.spec.key.as_bytes());
    peer
}

fn pinned_peer(secret: &SecretKey, own: &CertifiedKey, leaf: &Leaf, address: SocketAddr) -> HttpPeer {
    // Pingora keeps connections by address, server name and group, and not by whom it has verified: without these two it
    // would hand a connection to one worker to a request for another. A worker with a new certificate is a new peer.
    let mut peer = HttpPeer::new(address, true, server_name(leaf.key()));
    peer.group_key = group(&leaf.digest());
    peer.options.verify_hostname = false;
    peer.options.ca = Some(Arc::from([WrappedX509::new(leaf.der().to_vec(), parse_x509)]));
    let chain = own.cert.iter().map(|der| der.to_vec()).collect();
    peer.client_cert_key = Some(Arc::new(CertKey::new(chain, secret.to_pkcs8_der().to_vec())));
    peer
}

/// A peer whose requests have targets that no library writes; TLS, where it has it, is ours and checks the key itself.
fn raw_peer(dialer: &Dialer, contact: &Contact, address: SocketAddr, target: &Target) -> HttpPeer {
    let mut peer = plain_peer(contact, address);
    let (dialer, worker) = (dialer.clone(), Arc::clone(&contact.spec));
    peer.options.custom_l4 = Some(Arc::new(RawTargetConnect { dialer, worker, target: target.raw.clone() }));
    peer
}

fn group(digest: &[u8; 32]) -> u64 {
    let (first, _) = digest.split_first_chunk().expect("32 bytes are more than 8");
    u64::from_le_bytes(*first)
}

/// A name that is the key itself: 64 hexadecimal digits, in labels as long as the DNS allows.
fn server_name(key: WorkerKey) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (first, last) = key.as_bytes().split_at(16);
    format!("{}.{}", hex(first), hex(last))
}

/// Whether the connection that Pingora has made for this peer is to the worker. Nothing may be written to it before.
///
/// Of an encrypted one, the certificate must be the one that the control path has verified: it checks the key exactly.
pub fn is_of_worker(contact: &Contact, peer: &HttpPeer, digest: Option<&Digest>) -> bool {
    if !contact.spec.endpoint.is_tls() || peer.options.custom_l4.is_some() {
        return true;
    }
    let tls = digest.and_then(|digest| digest.ssl_digest.as_ref());
    match (tls, &contact.leaf) {
        (Some(tls), Some(leaf)) => tls.version == TLS_VERSION && tls.cert_digest == leaf.digest(),
        (None, _) | (_, None) => false,
    }
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
    dialer: Dialer,
    worker: Arc<WorkerSpec>,
    target: Vec<u8>,
}

#[async_trait]
impl L4Connect for RawTargetConnect {
    async fn connect(&self, address: &PeerAddr) -> Result<Stream> {
        let address =
            address.as_inet().copied().or_err(ErrorType::InternalError, "workers are reached over TCP")?;
        let connection = self
            .dialer
            .dial(&self.worker, address)
            .await
            .or_err(ErrorType::ConnectError, "connecting to the worker")?;
        let raw = RawTarget::new(connection, self.target.clone())
            .or_err(ErrorType::InternalError, "raw request target")?;
        Ok(Stream::from(VirtualSocketStream::new(Box::new(RawSocket(raw)))))
    }
}

/// A [`RawTarget`] as Pingora wants its sockets.
#[derive(Debug)]
struct RawSocket(RawTarget<WorkerStream>);

impl VirtualSocket for RawSocket {
    fn set_socket_option(&self, _option: VirtualSockOpt) -> std::io::Result<()> {
        // It sends without delay already, and lives for one request: keep-alive probes are of no use.
        Ok(())
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
