//! The front's TLS: its certificate, which may be replaced while connections are open, and who may connect.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use pingora::listeners::TlsAccept;
use pingora::listeners::tls::TlsSettings;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::dev_cert;
use super::listen::{self, Reserved};
use super::reload::Watched;
use crate::config::{Certificate, Config, TlsConfig};

/// What the front needs to speak TLS.
pub struct Tls {
    reserved: Vec<Reserved>,
    certificate: Arc<Current>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Tls {
    /// From the configuration; what is to be read again when it changes comes with it.
    pub fn new(config: &TlsConfig, data: &Path) -> Result<(Self, Watched), String> {
        let reserved = listen::reserve_all(&config.listen)?;
        let addresses: Vec<SocketAddr> = reserved.iter().map(|reserved| reserved.address).collect();
        let (cert, key) = match &config.certificate {
            Certificate::Files { cert, key } => (cert.clone(), key.clone()),
            Certificate::Dev => dev_cert::ensure(data, &addresses)?,
            Certificate::Missing => return Err("no certificate is configured for listen_tls".to_owned()),
        };
        let clients = config.client_ca.as_deref().map(client_verifier).transpose()?;
        let certificate = Arc::new(Current::default());
        let (shown, files) = (Arc::clone(&certificate), vec![cert.clone(), key.clone()]);
        let watched = Watched::begin(files, move || {
            shown.replace(certified_key(&cert, &key)?);
            Ok(format!("the certificate {}", cert.display()))
        })?;
        Ok((Self { reserved, certificate, clients }, watched))
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.reserved.iter().map(|reserved| reserved.address)
    }

    /// When the certificate that is shown ends, in Unix seconds.
    pub fn not_after(&self) -> impl Fn() -> Option<f64> + Send + Sync + 'static {
        let certificate = Arc::clone(&self.certificate);
        move || {
            let shown = certificate.current()?;
            let (_, leaf) = X509Certificate::from_der(shown.cert.first()?).ok()?;
            Some(leaf.validity().not_after.timestamp() as f64)
        }
    }

    /// Each address with the settings of its listener.
    pub fn listeners(&self) -> impl Iterator<Item = (SocketAddr, TlsSettings)> {
        self.addresses().map(|address| (address, self.settings()))
    }

    /// The settings of a listener: HTTP/2 and HTTP/1.1 by ALPN, TLS 1.2 and 1.3, which are all that rustls knows.
    fn settings(&self) -> TlsSettings {
        let mut settings =
            TlsSettings::with_callbacks(Box::new(NoCallbacks)).expect("it is made of what it is given");
        let certificate: Arc<dyn ResolvesServerCert> = Arc::clone(&self.certificate) as _;
        settings.set_cert_resolver(certificate);
        if let Some(clients) = &self.clients {
            settings.set_client_cert_verifier(Arc::clone(clients));
        }
        settings.enable_h2();
        settings
    }
}

/// Whether the files that the configuration names can be used.
pub fn check(config: &Config) -> Result<(), String> {
    let Some(TlsConfig { certificate, client_ca, .. }) = &config.tls else { return Ok(()) };
    if let Certificate::Files { cert, key } = certificate {
        certified_key(cert, key)?;
    }
    client_ca.as_deref().map(client_verifier).transpose().map(drop)
}

/// The certificate that is shown from now on; connections that are open keep theirs.
#[derive(Default)]
struct Current(RwLock<Option<Arc<CertifiedKey>>>);

impl Current {
    fn replace(&self, certificate: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certificate));
    }

    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

struct NoCallbacks;

#[async_trait]
impl TlsAccept for NoCallbacks {}

/// Reads a chain and its key, and holds that they belong together.
fn certified_key(cert: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let chain = certificates(cert)?;
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, "holds no private key", &error))?;
    CertifiedKey::from_der(chain, secret, &provider())
        .map_err(|error| wrong(cert, &format!("cannot be used with {}", key.display()), &error))
}

fn client_verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| wrong(path, "holds what is no authority", &error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| wrong(path, "cannot be used", &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(format!("{}: holds no certificate", path.display()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(wrong(path, "holds no certificate", &error)),
    }
}

fn wrong(path: &Path, what: &str, error: &dyn fmt::Display) -> String {
    format!("{}: {what}: {error}", path.display())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
