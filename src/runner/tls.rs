//! The worker's TLS: connections that are encrypted to its key, and, where it says so, only from pools that it knows.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig,
    SignatureScheme, version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::worker::certificate::{Leaf, OwnCertificate};
use crate::worker::identity::PoolKey;

/// How long a handshake may take: it is three messages, and who is silent has none of the worker's jobs.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes under way at once; more connections wait in the system's backlog.
const HANDSHAKES_MAX: usize = 1024;

/// How long, and for how many bytes, a client that is refused may go on sending.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 1 << 20;

/// Who may speak to the worker, and how.
#[derive(Debug)]
pub enum Access {
    /// Anybody, in the clear.
    Plain,
    /// Anybody, encrypted to the worker's key.
    Tls,
    /// These pools, encrypted to the worker's key: at least one.
    Pools(Vec<PoolKey>),
}

impl Access {
    /// How the worker's endpoint begins.
    pub fn scheme(&self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls | Self::Pools(_) => "https",
        }
    }
}

/// What TLS connections of this kind are made with; nothing for plain ones.
pub(super) fn acceptor(access: Access, identity: &Arc<OwnCertificate>) -> Option<TlsAcceptor> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has the suites of TLS 1.3");
    let builder = match access {
        Access::Plain => return None,
        Access::Tls => builder.with_no_client_auth(),
        Access::Pools(pools) => builder.with_client_cert_verifier(Arc::new(Known { pools, provider })),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Show(Arc::clone(identity))));
    // Nothing is resumed: each connection shows both keys anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Some(TlsAcceptor::from(Arc::new(config)))
}

/// Shows the worker's certificate as it is when a connection is made, so that a renewed one needs no restart.
#[derive(Debug)]
struct Show(Arc<OwnCertificate>);

impl ResolvesServerCert for Show {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current())
    }
}

/// Accepts clients that have the key of a pool that the worker knows.
#[derive(Debug)]
struct Known {
    pools: Vec<PoolKey>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let leaf = Leaf::read(end_entity, now)?;
        if self.pools.contains(&PoolKey(leaf.key())) {
            Ok(ClientCertVerified::assertion())
        } else {
            log::warn!("a client is refused: it has the key {}, which no --pool-key names", leaf.key());
            // This error is what the client is told as "access denied".
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// A listener that gives connections out once they are encrypted. Handshakes go on beside each other, so that one that is
/// slow or fails holds up no other.
pub(super) struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    pub(super) fn new(tcp: TcpListener, acceptor: TlsAcceptor) -> Self {
        Self { tcp, acceptor, handshakes: JoinSet::new() }
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                (tcp, from) = axum::serve::Listener::accept(&mut self.tcp),
                    if self.handshakes.len() < HANDSHAKES_MAX =>
                {
                    self.handshakes.spawn(handshake(self.acceptor.clone(), tcp, from));
                }
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = ended {
                        return connection;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    from: SocketAddr,
) -> Option<(TlsStream<TcpStream>, SocketAddr)> {
    // Answers are small and awaited. A socket that refuses the option still works.
    let _ = tcp.set_nodelay(true);
    match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp).into_fallible()).await {
        Ok(Ok(connection)) => Some((connection, from)),
        Ok(Err((error, tcp))) => {
            log::info!("a connection from {from} is refused: {error}");
            linger(tcp).await;
            None
        }
        Err(_) => None,
    }
}

/// Lets a client that is refused read that it is: were the connection closed with something unread, it would be reset, and
/// the client could not tell a refusal from a crash.
async fn linger(mut tcp: TcpStream) {
    let rest = async {
        tcp.shutdown().await?;
        copy(&mut tcp.take(LINGER_BYTES_MAX), &mut sink()).await
    };
    // However it ends, the connection is over.
    let _ = timeout(LINGER_TIMEOUT, rest).await;
}
