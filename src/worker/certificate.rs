//! Certificates that say one thing: whose key a TLS connection is encrypted to.
//!
//! Workers, and the pool towards them, show certificates that they sign themselves. Names in them and authorities mean nothing: as
//! with SSH, the other side knows which key to expect. A [`Leaf`] is somebody else's certificate once it was read and found in order;
//! [`OwnCertificate`] makes one's own and renews it.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, SerialNumber};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, crypto::ring};
use sha2::{Digest, Sha256};

use super::identity::{SecretKey, WorkerKey};
use crate::time::{Clock, Timestamp};

/// The DER of a SubjectPublicKeyInfo that holds an Ed25519 key, up to the key itself (RFC 8410).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate begins before it is made: the other side's clock may be behind.
const BACKDATED: Duration = DAY;

/// How long a certificate is valid, and when the next one is made: two thirds of its life before it ends, so that neither
/// a clock that is off nor one kept somewhere else brings two sides apart.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const RENEWED_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Somebody's certificate: signed by its own Ed25519 key, valid when it was read, and no authority's.
///
/// That its sender has the key is what the handshake shows, not the certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    der: Arc<CertificateDer<'static>>,
    digest: [u8; 32],
    key: WorkerKey,
}

/// Why a certificate is not accepted.
#[derive(Clone, Debug, PartialEq)]
pub enum LeafError {
    /// Its key is no Ed25519 key, or one that may not be used.
    NoKey,
    /// It is another key's.
    OtherKey { shown: WorkerKey },
    /// It is not in order: expired, not signed by its own key, or an authority's; in the words of the TLS library.
    Invalid(rustls::Error),
}

// === impl Leaf ===

impl Leaf {
    /// Reads a certificate as it came in a handshake.
    ///
    /// It is verified as Pingora does it, with itself as the trust anchor, so that what is accepted here is accepted there.
    ///
    /// # Errors
    /// When it is not signed by its own Ed25519 key, not valid now, or may sign others (`CA:TRUE`).
    pub fn read(der: &CertificateDer<'_>, now: UnixTime) -> Result<Self, LeafError> {
        let parsed = ParsedCertificate::try_from(der).map_err(LeafError::Invalid)?;
        let info = parsed.subject_public_key_info();
        let key = info.strip_prefix(&ED25519_SPKI).and_then(|key| key.try_into().ok());
        let key = key.and_then(|key| WorkerKey::from_bytes(key).ok()).ok_or(LeafError::NoKey)?;
        let mut anchor = RootCertStore::empty();
        anchor.add(der.clone().into_owned()).map_err(LeafError::Invalid)?;
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_server_cert_signed_by_trust_anchor(&parsed, &anchor, &[], now, algorithms.all)
            .map_err(LeafError::Invalid)?;
        let digest = Sha256::digest(der).into();
        Ok(Self { der: Arc::new(der.clone().into_owned()), digest, key })
    }

    /// Reads a certificate that must be this key's.
    ///
    /// # Errors
    /// As [`Leaf::read`], and when it is another key's.
    pub fn read_as(key: WorkerKey, der: &CertificateDer<'_>, now: UnixTime) -> Result<Self, LeafError> {
        let leaf = Self::read(der, now)?;
        if leaf.key == key { Ok(leaf) } else { Err(LeafError::OtherKey { shown: leaf.key }) }
    }

    pub fn key(&self) -> WorkerKey {
        self.key
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the certificate.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("key", &self.key).finish_non_exhaustive()
    }
}

// === impl LeafError ===

impl fmt::Display for LeafError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => f.write_str("its certificate holds no Ed25519 key"),
            Self::OtherKey { shown } => write!(f, "its certificate is of another key, {shown}"),
            Self::Invalid(error) => write!(f, "its certificate is no valid self-signed one: {error}"),
        }
    }
}

impl std::error::Error for LeafError {}

impl From<LeafError> for rustls::Error {
    fn from(error: LeafError) -> Self {
        Self::Other(rustls::OtherError(Arc::new(error)))
    }
}

/// The certificate of a key of ours. It is renewed when it is next asked for after a third of its life, so that nothing
/// has to run for it and connections that are open go on.
#[derive(Debug)]
pub struct OwnCertificate {
    key: SecretKey,
    clock: Clock,
    issued: Mutex<Option<Issued>>,
}

#[derive(Debug)]
struct Issued {
    certified: Arc<CertifiedKey>,
    from: Timestamp,
    renew_at: Timestamp,
}

// === impl OwnCertificate ===

impl OwnCertificate {
    pub fn new(key: SecretKey, clock: Clock) -> Arc<Self> {
        Arc::new(Self { key, clock, issued: Mutex::new(None) })
    }

    pub fn public(&self) -> WorkerKey {
        self.key.public()
    }

    pub fn secret(&self) -> &SecretKey {
        &self.key
    }

    /// The certificate to show now, and the key that goes with it.
    pub fn current(&self) -> Arc<CertifiedKey> {
        let now = self.clock.now();
        let mut issued = self.issued.lock().expect("no code panics while it holds a certificate's lock");
        match &*issued {
            // A clock that was set back makes a certificate that begins in the future.
            Some(issued) if issued.from <= now && now < issued.renew_at => Arc::clone(&issued.certified),
            Some(_) | None => Arc::clone(&issued.insert(Issued::new(&self.key, now)).certified),
        }
    }
}

impl Issued {
    fn new(key: &SecretKey, now: Timestamp) -> Self {
        let from = now.minus(BACKDATED);
        let der = PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec());
        let signing = ring::sign::any_eddsa_type(&der).expect("ring takes every Ed25519 key");
        let leaf = self_signed(&der, from, from.plus(LIFETIME)).expect("the parameters are ours");
        let certified = Arc::new(CertifiedKey::new(vec![leaf], signing));
        Self { certified, from, renew_at: now.plus(RENEWED_AFTER) }
    }
}

fn self_signed(
    key: &PrivatePkcs8KeyDer<'_>,
    from: Timestamp,
    until: Timestamp,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let key = KeyPair::try_from(&PrivateKeyDer::Pkcs8(key.clone_key()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "trusted-pool");
    // Said, not left out: verifiers refuse an authority as the end of a chain.
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(SerialNumber::from(rand::random::<[u8; 16]>().to_vec()));
    let date = |at: Timestamp| rcgen::date_time_ymd(1970, 1, 1) + at.since(Timestamp::from_micros(0));
    (params.not_before, params.not_after) = (date(from), date(until));
    Ok(params.self_signed(&key)?.der().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn at(time: Timestamp) -> UnixTime {
        UnixTime::since_unix_epoch(time.since(Timestamp::from_micros(0)))
    }

    fn issue(key: &SecretKey) -> CertificateDer<'static> {
        Issued::new(key, NOW).certified.cert[0].clone()
    }

    fn key_pair(key: &SecretKey) -> KeyPair {
        KeyPair::try_from(&PrivateKeyDer::Pkcs8(key.to_pkcs8_der().to_vec().into())).unwrap()
    }

    #[test]
    fn a_certificate_is_of_its_key_and_of_no_other() {
        let (key, other) = (SecretKey::generate().public(), SecretKey::generate());
        let der = issue(&other);
        let leaf = Leaf::read(&der, at(NOW)).unwrap();
        assert_eq!((leaf.key(), leaf.der()), (other.public(), &der));
        let shown = other.public();
        assert_eq!(Leaf::read_as(key, &der, at(NOW)), Err(LeafError::OtherKey { shown }));
    }

    #[test]
    fn a_certificate_counts_from_a_day_before_it_was_made_until_its_end() {
        let der = issue(&SecretKey::generate());
        for (time, valid) in [
            (NOW.minus(DAY), true),
            (NOW.minus(DAY + Duration::from_secs(1)), false),
            (NOW.plus(LIFETIME - DAY), true),
            (NOW.plus(LIFETIME - DAY + Duration::from_secs(1)), false),
        ] {
            assert_eq!(Leaf::read(&der, at(time)).is_ok(), valid, "{time:?}");
        }
    }

    #[test]
    fn a_certificate_that_another_key_signed_is_not_accepted_whoever_signed_it() {
        let (worker, other) = (SecretKey::generate(), SecretKey::generate());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "trusted-pool");
        let issuer = rcgen::Issuer::new(params.clone(), key_pair(&worker));
        params.is_ca = IsCa::ExplicitNoCa;
        let delegated = params.signed_by(&key_pair(&other), &issuer).unwrap();
        assert!(matches!(Leaf::read(delegated.der(), at(NOW)), Err(LeafError::Invalid(_))));
    }

    #[test]
    fn a_changed_certificate_is_not_accepted() {
        let der = issue(&SecretKey::generate());
        for byte in 0..der.len() {
            let mut changed = der.to_vec();
            changed[byte] ^= 1;
            assert!(Leaf::read(&changed.into(), at(NOW)).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn an_authority_and_a_key_of_another_kind_are_refused() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key_pair(&SecretKey::generate())).unwrap();
        let error = Leaf::read(authority.der(), at(NOW)).unwrap_err();
        assert!(error.to_string().contains("CaUsedAsEndEntity"), "{error}");
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let other = CertificateParams::default().self_signed(&key).unwrap();
        assert_eq!(Leaf::read(other.der(), at(NOW)), Err(LeafError::NoKey));
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_renewed_long_before_its_end_and_shown_until_then() {
        let own = OwnCertificate::new(SecretKey::generate(), Clock::runtime(NOW));
        let first = own.current();
        tokio::time::advance(RENEWED_AFTER - Duration::from_secs(1)).await;
        assert_eq!(own.current().cert, first.cert);
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = own.current();
        assert_ne!(second.cert, first.cert);
        let leaf = |certified: &CertifiedKey| Leaf::read(&certified.cert[0], at(NOW.plus(RENEWED_AFTER)));
        assert_eq!(leaf(&first).unwrap().key(), leaf(&second).unwrap().key());
    }
}
