//! TLS to a worker: encrypted to the key that the allowlist names, on every connection, or not at all.
//!
//! No authority and no host name counts, and nothing is resumed: each connection shows the key anew. The pool shows its own
//! certificate to whoever asks for one, so that a worker may take jobs from it alone.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, InvalidMessage, PeerIncompatible, SignatureScheme,
    version,
};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::worker::certificate::{Leaf, LeafError, OwnCertificate};
use crate::worker::identity::PoolKey;
use crate::worker::{WorkerKey, WorkerSpec};

/// A connection to a worker, encrypted where its endpoint says so.
pub type WorkerStream = Either<TcpStream, TlsStream<TcpStream>>;

/// How this pool connects to workers. Clones are the same pool.
#[derive(Clone, Debug)]
pub struct Dialer {
    own: Arc<OwnCertificate>,
}

impl Dialer {
    /// Connects as the pool that the certificate is of.
    pub fn new(own: Arc<OwnCertificate>) -> Self {
        Self { own }
    }

    pub fn pool_key(&self) -> PoolKey {
        PoolKey(self.own.public())
    }

    /// The certificate that the pool shows.
    pub fn own_certificate(&self) -> &OwnCertificate {
        &self.own
    }

    /// Connects to a worker at one of these addresses; to an `https` endpoint only if it has the worker's key.
    pub async fn dial(&self, worker: &WorkerSpec, at: impl ToSocketAddrs) -> io::Result<WorkerStream> {
        let tcp = TcpStream::connect(at).await?;
        tcp.set_nodelay(true)?;
        if !worker.endpoint.is_tls() {
            return Ok(Either::Left(tcp));
        }
        let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
        let connector = TlsConnector::from(Arc::new(self.config_for(worker.key)));
        Ok(Either::Right(connector.connect(name, tcp).await?))
    }

    /// TLS to this worker and to nobody else.
    pub fn config_for(&self, worker: WorkerKey) -> ClientConfig {
        let provider = Arc::new(ring::default_provider());
        let pin = Pin { worker, provider: Arc::clone(&provider) };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has the suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pin))
            .with_client_cert_resolver(Arc::new(Show(Arc::clone(&self.own))));
        config.resumption = Resumption::disabled();
        config
    }
}

/// Why there is no encrypted connection to a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsFailure {
    /// It has shown a certificate that is not accepted.
    Certificate(LeafError),
    /// It does not take connections from this pool.
    Refused,
    /// What came was no TLS at all.
    NotTls,
    Other(rustls::Error),
}

/// What of an error's causes is about TLS.
pub fn tls_failure(error: &(dyn Error + 'static)) -> Option<TlsFailure> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(TlsFailure::of(tls));
        }
        // An I/O error does not name what it wraps as its cause, but what is behind that.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// Why a worker was not connected to, in words.
pub fn reason(error: &io::Error) -> String {
    tls_failure(error).map_or_else(|| error.to_string(), |failure| failure.to_string())
}

impl TlsFailure {
    fn of(error: &rustls::Error) -> Self {
        use AlertDescription::{AccessDenied, CertificateRequired};
        match error {
            rustls::Error::AlertReceived(AccessDenied | CertificateRequired) => Self::Refused,
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            rustls::Error::Other(other) => match other.0.downcast_ref::<LeafError>() {
                Some(leaf) => Self::Certificate(leaf.clone()),
                None => Self::Other(error.clone()),
            },
            _ => Self::Other(error.clone()),
        }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(error) => error.fmt(f),
            Self::Refused => {
                f.write_str("it does not take connections from this pool: its --pool-key is another pool's")
            }
            Self::NotTls => f.write_str("it does not speak TLS: start it with --tls, or list it as http://"),
            Self::Other(error) => write!(f, "no TLS 1.3 connection: {error}"),
        }
    }
}

/// Accepts a server that has one worker's key.
#[derive(Debug)]
struct Pin {
    worker: WorkerKey,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Leaf::read_as(self.worker, end_entity, now)?;
        Ok(ServerCertVerified::assertion())
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

/// Shows the pool's certificate to a worker that asks for one.
#[derive(Debug)]
struct Show(Arc<OwnCertificate>);

impl ResolvesClientCert for Show {
    fn resolve(&self, _authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        schemes.contains(&SignatureScheme::ED25519).then(|| self.0.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
