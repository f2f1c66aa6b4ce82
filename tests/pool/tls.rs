//! The TLS before a stand-in: it shows what a test says, and counts what gets through to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The DER of an Ed25519 private key (RFC 8410), up to the key itself.
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What the other side of a handshake is shown, and who answers behind it.
#[derive(Clone)]
pub struct Shown {
    config: Arc<ServerConfig>,
    /// Plain bytes that came over connections with this certificate.
    taken: Arc<AtomicU64>,
}

/// A TLS server before a stand-in; it ends with the handle.
pub struct TlsFront {
    address: SocketAddr,
    now: Arc<Mutex<(Shown, SocketAddr)>>,
    acceptor: AbortHandle,
}

pub fn fresh_key() -> SigningKey {
    SigningKey::from_bytes(&rand::random())
}

fn pkcs8(key: &SigningKey) -> PrivatePkcs8KeyDer<'static> {
    [&PKCS8_ED25519[..], key.as_bytes()].concat().into()
}

fn key_pair(key: &SigningKey) -> KeyPair {
    KeyPair::try_from(&PrivateKeyDer::Pkcs8(pkcs8(key))).expect("an Ed25519 key")
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "a worker");
    params.is_ca = IsCa::ExplicitNoCa;
    params
}

// === impl Shown ===

impl Shown {
    /// The certificate of this key that is in order.
    pub fn of(key: &SigningKey) -> Self {
        Self::self_signed(key, &params())
    }

    /// Another one that is in order, each time.
    pub fn renewed(key: &SigningKey) -> Self {
        let mut params = params();
        params.serial_number = Some(rand::random::<u64>().into());
        Self::self_signed(key, &params)
    }

    pub fn expired(key: &SigningKey) -> Self {
        let mut params = params();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        Self::self_signed(key, &params)
    }

    /// A certificate of another key that the worker's key has signed.
    pub fn delegated(worker: &SigningKey) -> Self {
        let mut issuer = params();
        issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let other = fresh_key();
        let signed = params().signed_by(&key_pair(&other), &Issuer::new(issuer, key_pair(worker)));
        Self::new(&signed.expect("a certificate"), &other, &[&rustls::version::TLS13])
    }

    /// The worker's own certificate by somebody who has not its key.
    pub fn stolen(worker: &SigningKey) -> Self {
        let certificate = params().self_signed(&key_pair(worker)).expect("a certificate");
        Self::new(&certificate, &fresh_key(), &[&rustls::version::TLS13])
    }

    pub fn tls12(key: &SigningKey) -> Self {
        let certificate = params().self_signed(&key_pair(key)).expect("a certificate");
        Self::new(&certificate, key, &[&rustls::version::TLS12])
    }

    fn self_signed(key: &SigningKey, params: &CertificateParams) -> Self {
        let certificate = params.self_signed(&key_pair(key)).expect("a certificate");
        Self::new(&certificate, key, &[&rustls::version::TLS13])
    }

    fn new(
        certificate: &Certificate,
        key: &SigningKey,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let key = ring::sign::any_eddsa_type(&pkcs8(key)).expect("an Ed25519 key");
        let certified = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], key);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions of the provider")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        Self { config: Arc::new(config), taken: Arc::default() }
    }

    /// Bytes that the other side has sent after the handshake.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }
}

// === impl TlsFront ===

impl TlsFront {
    pub async fn start(shown: &Shown, worker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener");
        let now = Arc::new(Mutex::new((shown.clone(), worker)));
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&now))).abort_handle();
        Self { address, now, acceptor }
    }

    /// New connections are shown this, and lead to this worker; the open ones go on.
    pub fn show(&self, shown: &Shown, worker: SocketAddr) {
        *self.now.lock().unwrap() = (shown.clone(), worker);
    }

    /// The entry in workers.json of the worker with this key, reached here under this host name.
    pub fn entry(&self, key: &SigningKey, host: &str) -> Value {
        json!({
            "worker_id": STANDARD.encode(key.verifying_key().as_bytes()),
            "endpoint": format!("https://{host}:{}", self.address.port()),
            "max_concurrent_jobs": 4,
        })
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(listener: TcpListener, now: Arc<Mutex<(Shown, SocketAddr)>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (shown, worker) = now.lock().unwrap().clone();
        connections.spawn(carry(client, shown, worker));
    }
}

async fn carry(client: TcpStream, shown: Shown, worker: SocketAddr) {
    // A client that sees another key than it wants ends the handshake, and may say so afterwards.
    let Ok(client) = TlsAcceptor::from(Arc::clone(&shown.config)).accept(client).await else { return };
    let Ok(worker) = TcpStream::connect(worker).await else { return };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_worker, mut to_worker) = worker.into_split();
    let towards_worker = async {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_client.read(&mut piece).await {
            shown.taken.fetch_add(read as u64, Ordering::SeqCst);
            if to_worker.write_all(&piece[..read]).await.is_err() {
                return;
            }
        }
        // A half-closed request still waits for its answer.
        tokio::time::sleep(Duration::from_secs(60)).await;
    };
    tokio::select! {
        () = towards_worker => {}
        _ = copy(&mut from_worker, &mut to_client) => {
            let _ = to_client.shutdown().await;
        }
    }
}

/// Trusts whoever answers.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// What a worker answers to a client that shows a certificate of this key, or none.
pub async fn ask_over_tls(worker: SocketAddr, key: Option<&SigningKey>) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions of the provider")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    let config = match key {
        None => config.with_no_client_auth(),
        Some(key) => {
            let certificate = params().self_signed(&key_pair(key)).expect("a certificate");
            let key = PrivateKeyDer::Pkcs8(pkcs8(key));
            config
                .with_client_auth_cert(vec![certificate.der().clone()], key)
                .expect("a key of its certificate")
        }
    };
    let tcp = TcpStream::connect(worker).await.expect("the worker listens");
    let name = ServerName::IpAddress(worker.ip().into());
    let mut answer = Vec::new();
    if let Ok(mut tls) = TlsConnector::from(Arc::new(config)).connect(name, tcp).await {
        let request = b"GET /health HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n";
        // In TLS 1.3, a client learns that it is refused when it has sent its request.
        let _ = tls.write_all(request).await;
        let _ = tls.read_to_end(&mut answer).await;
    }
    answer
}
