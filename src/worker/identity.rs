//! An identity: one Ed25519 key pair, and nothing else.
//!
//! The public half, [`WorkerKey`], is how the pool names a worker: in the allowlist, in answers and in logs. A value
//! of that type is always a usable key, and always *the* encoding of it: a second spelling of the same key would
//! walk past every comparison made of an allowlist. [`PoolKey`] is the same for a pool. The secret half, [`SecretKey`],
//! is held by the worker, or the pool, alone and is exchanged only as a PKCS#8 PEM file.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use ed25519_dalek::pkcs8::spki::der::{pem::LineEnding, zeroize::Zeroizing};
use ed25519_dalek::pkcs8::{self, DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of an Ed25519 public key.
const KEY_BYTES: usize = 32;

/// Bytes of an Ed25519 signature.
pub(super) const SIGNATURE_BYTES: usize = 64;

/// Characters of a public key in standard base64, its one `=` included.
const KEY_CHARS: usize = 44;

/// A worker's Ed25519 public key: canonical, on the curve, and not of small order.
///
/// Its text form is standard base64 with padding (44 characters); that is also its form in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerKey([u8; KEY_BYTES]);

/// A pool's own Ed25519 public key, by which a worker may know it. Written like a [`WorkerKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PoolKey(pub WorkerKey);

/// A secret key of a worker or a pool. The secret is wiped from memory when the value is dropped.
pub struct SecretKey(SigningKey);

/// Why a text or 32 bytes are no worker key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerKeyError {
    /// The text has another number of characters than base64 of 32 bytes has.
    TextLength(usize),
    /// The text holds something that is not base64, or spells its last bits in a second way.
    NotBase64,
    /// The bytes are no point of the curve.
    NotOnCurve,
    /// The bytes are a second encoding of a point that has a proper one.
    NotCanonical,
    /// The point has small order: signatures "of" it can be made by anybody.
    SmallOrder,
}

/// Why a PEM text is no worker identity.
#[derive(Debug)]
pub enum IdentityError {
    /// The text is not PEM, or not of a private key.
    NotPrivateKeyPem,
    /// The key is protected by a passphrase.
    Encrypted,
    /// The PKCS#8 document holds no Ed25519 key, or a damaged one.
    NotEd25519(pkcs8::Error),
    /// The document is sound, but its public key may not be used.
    PublicKey(WorkerKeyError),
}

// === impl WorkerKey ===

impl WorkerKey {
    /// Takes the 32 bytes of a public key.
    ///
    /// # Errors
    /// When the bytes are not the canonical encoding of a point, or the point is of small order.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Result<Self, WorkerKeyError> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| WorkerKeyError::NotOnCurve)?;
        if key.to_edwards().compress().to_bytes() != bytes {
            return Err(WorkerKeyError::NotCanonical);
        }
        if key.is_weak() {
            return Err(WorkerKeyError::SmallOrder);
        }
        Ok(Self(bytes))
    }

    /// The key's 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Whether this key signed the message.
    #[must_use]
    pub(super) fn signed(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        let key = VerifyingKey::from_bytes(&self.0).expect("a worker key is a point of the curve");
        key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }

    /// The key as unpadded URL-safe base64 (43 characters): fit for a path segment or a file name.
    #[must_use]
    pub fn to_url_safe(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads either form of a key: standard base64, or URL-safe base64 with or without its padding.
    ///
    /// # Errors
    /// When the text is neither form, or the bytes are no usable key.
    pub fn parse_any(text: &str) -> Result<Self, WorkerKeyError> {
        match text.len() {
            KEY_CHARS if text.contains(['-', '_']) => Self::decode(&URL_SAFE, text),
            KEY_CHARS => Self::decode(&STANDARD, text),
            len if len == KEY_CHARS - 1 => Self::decode(&URL_SAFE_NO_PAD, text),
            len => Err(WorkerKeyError::TextLength(len)),
        }
    }

    fn decode(engine: &impl Engine, text: &str) -> Result<Self, WorkerKeyError> {
        let bytes = engine.decode(text).map_err(|_| WorkerKeyError::NotBase64)?;
        let bytes = <[u8; KEY_BYTES]>::try_from(bytes).map_err(|_| WorkerKeyError::NotBase64)?;
        Self::from_bytes(bytes)
    }
}

impl FromStr for WorkerKey {
    type Err = WorkerKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != KEY_CHARS {
            return Err(WorkerKeyError::TextLength(text.len()));
        }
        Self::decode(&STANDARD, text)
    }
}

impl fmt::Display for WorkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for WorkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkerKey({self})")
    }
}

impl Serialize for WorkerKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WorkerKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

// === impl PoolKey ===

impl FromStr for PoolKey {
    type Err = WorkerKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl SecretKey ===

impl SecretKey {
    /// A new key, from a generator that the operating system seeds.
    #[must_use]
    pub fn generate() -> Self {
        let secret = Zeroizing::new(rand::random::<[u8; KEY_BYTES]>());
        Self(SigningKey::from_bytes(&secret))
    }

    /// Reads a PKCS#8 private key, of version 1 (as `openssl genpkey -algorithm ed25519` writes it) or version 2.
    ///
    /// # Errors
    /// When the text is not the PEM of an unencrypted, sound Ed25519 key.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, IdentityError> {
        if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            return Err(IdentityError::Encrypted);
        }
        // What stands around the block (openssl's "Bag Attributes", a comment) is no part of the key.
        let start = pem.find("-----BEGIN PRIVATE KEY-----").ok_or(IdentityError::NotPrivateKeyPem)?;
        let key = SigningKey::from_pkcs8_pem(&pem[start..]).map_err(IdentityError::NotEd25519)?;
        WorkerKey::from_bytes(key.verifying_key().to_bytes()).map_err(IdentityError::PublicKey)?;
        Ok(Self(key))
    }

    /// Writes the key as PKCS#8 PEM, version 1: the version that every TLS tool reads, openssl's command line included.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        KeypairBytes { secret_key: self.0.to_bytes(), public_key: None }
            .to_pkcs8_pem(LineEnding::LF)
            .expect("a key of fixed size is always encodable")
    }

    /// Writes the key as the DER of PKCS#8, as TLS libraries take it.
    #[must_use]
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        KeypairBytes { secret_key: self.0.to_bytes(), public_key: None }
            .to_pkcs8_der()
            .expect("a key of fixed size is always encodable")
            .to_bytes()
    }

    /// Signs a message. It must begin with words that say what it is for: this key also signs certificates and
    /// handshakes, and no signature may pass for one of another kind.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> WorkerKey {
        WorkerKey::from_bytes(self.0.verifying_key().to_bytes())
            .expect("a clamped secret times the base point is canonical and never of small order")
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("public", &self.public()).finish_non_exhaustive()
    }
}

// === impl WorkerKeyError ===

impl fmt::Display for WorkerKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TextLength(chars) => write!(
                f,
                "an id is {KEY_CHARS} characters, the standard base64 of a {KEY_BYTES}-byte Ed25519 public key; this has {chars}"
            ),
            Self::NotBase64 => write!(
                f,
                "not standard base64: an id is {KEY_CHARS} characters of A-Z a-z 0-9 + /, the last one '=', as keygen prints it"
            ),
            Self::NotOnCurve => f.write_str(
                "these bytes are no Ed25519 public key (no such point on the curve): copy the id again from where it is printed",
            ),
            Self::NotCanonical => f.write_str(
                "a non-canonical encoding of an Ed25519 public key: use the id exactly as it is printed",
            ),
            Self::SmallOrder => f.write_str(
                "a small-order point, for which anybody can sign: use the id of a key made by keygen",
            ),
        }
    }
}

impl std::error::Error for WorkerKeyError {}

// === impl IdentityError ===

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrivateKeyPem => f.write_str(
                "not a PKCS#8 PEM file: it should begin with -----BEGIN PRIVATE KEY-----, as keygen and openssl genpkey write it",
            ),
            Self::Encrypted => f.write_str(
                "the key is encrypted: a worker starts unattended, so write it without a passphrase (openssl pkey -in FILE)",
            ),
            Self::NotEd25519(_) => {
                f.write_str("not a sound Ed25519 private key: make one with keygen or openssl genpkey -algorithm ed25519")
            }
            Self::PublicKey(error) => write!(f, "the key's public half is unusable: {error}"),
        }
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotPrivateKeyPem | Self::Encrypted => None,
            Self::NotEd25519(error) => Some(error),
            Self::PublicKey(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `openssl genpkey -algorithm ed25519` (3.0) wrote, and the key that `openssl pkey -pubout` says it has.
    const OPENSSL_PEM: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIKZLY0et9iz8hImWoU0Ajfc3Nh04VNuXfkO/+7C68o7c
-----END PRIVATE KEY-----
";
    const OPENSSL_KEY: &str = "1Ois1TsXyHqBRmsAMN5az4vyJBmRfTMa0twfR6nKMAM=";

    #[test]
    fn key_reads_back_from_each_of_its_forms() {
        let key: WorkerKey = OPENSSL_KEY.parse().unwrap();
        assert_eq!(key.to_string(), OPENSSL_KEY);
        assert_eq!(WorkerKey::parse_any(OPENSSL_KEY), Ok(key));
        assert_eq!(WorkerKey::parse_any(&key.to_url_safe()), Ok(key));
        assert_eq!(WorkerKey::parse_any(&URL_SAFE.encode(key.as_bytes())), Ok(key));
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, format!("{OPENSSL_KEY:?}"));
        assert_eq!(serde_json::from_str::<WorkerKey>(&json).unwrap(), key);
    }

    #[test]
    fn url_safe_form_is_read_where_the_alphabets_differ() {
        let key = std::iter::repeat_with(|| SecretKey::generate().public())
            .find(|key| key.to_string().contains(['+', '/']))
            .unwrap();
        assert_eq!(WorkerKey::parse_any(&key.to_url_safe()), Ok(key));
        assert_eq!(key.to_url_safe().parse::<WorkerKey>(), Err(WorkerKeyError::TextLength(43)));
        assert_eq!(URL_SAFE.encode(key.as_bytes()).parse::<WorkerKey>(), Err(WorkerKeyError::NotBase64));
    }

    #[test]
    fn unusable_keys_are_refused_by_what_is_wrong_with_them() {
        use WorkerKeyError::*;
        for (text, error) in [
            ("", TextLength(0)),
            ("1Ois1TsXyHqBRmsAMN5az4vyJBmRfTMa0twfR6nKMAM", TextLength(43)),
            (" 1Ois1TsXyHqBRmsAMN5az4vyJBmRfTMa0twfR6nKMAM=", TextLength(45)),
            ("1Ois1TsXyHqBRmsAMN5az4vyJBmRfTMa0twfR6nKMAM!", NotBase64),
            ("1Ois1TsXyHqBRmsAMN5az4vyJBmRfTMa0twfR6nKMAAA", NotBase64), // 33 bytes
            ("1Ois1TsXyHqBRmsAMN5az4vyJBmRfTMa0twfR6nKMAN=", NotBase64), // stray low bits
            ("AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", NotOnCurve),
            ("8P///////////////////////////////////////38=", NotCanonical), // p + 3
            ("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", SmallOrder),   // the identity
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", SmallOrder),   // order 4
        ] {
            assert_eq!(text.parse::<WorkerKey>(), Err(error), "{text}");
        }
    }

    #[test]
    fn identity_reads_what_openssl_writes_and_writes_the_same() {
        let identity = SecretKey::from_pkcs8_pem(OPENSSL_PEM).unwrap();
        assert_eq!(identity.public().to_string(), OPENSSL_KEY);
        assert_eq!(*identity.to_pkcs8_pem(), OPENSSL_PEM);
        let commented = format!("Bag Attributes\n    friendlyName: worker\n{OPENSSL_PEM}");
        assert_eq!(SecretKey::from_pkcs8_pem(&commented).unwrap().public(), identity.public());
    }

    #[test]
    fn identity_reads_version_2_and_refuses_one_whose_halves_differ() {
        let identity = SecretKey::generate();
        let mut pair = KeypairBytes::from(&identity.0);
        let pem = pair.to_pkcs8_pem(LineEnding::LF).unwrap();
        assert_eq!(SecretKey::from_pkcs8_pem(&pem).unwrap().public(), identity.public());
        pair.secret_key = *SecretKey::generate().0.as_bytes();
        let pem = pair.to_pkcs8_pem(LineEnding::LF).unwrap();
        assert!(matches!(SecretKey::from_pkcs8_pem(&pem), Err(IdentityError::NotEd25519(_))));
    }

    #[test]
    fn other_files_are_refused_as_what_they_are() {
        let p256 = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgNk7ToNv31aHUhmdd
tnx1b7of1kXS1MHHv7+LalQQuF+hRANCAATtC9wnuHKjDSh665idv9To23quPHHN
gujF6wZDIEP31Bz1AzQDXCRGLsIzX6s71F2sBAbyvfOGt4M8HzmgCwW7
-----END PRIVATE KEY-----
";
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n";
        assert!(matches!(SecretKey::from_pkcs8_pem(p256), Err(IdentityError::NotEd25519(_))));
        assert!(matches!(SecretKey::from_pkcs8_pem(encrypted), Err(IdentityError::Encrypted)));
        assert!(matches!(SecretKey::from_pkcs8_pem(OPENSSL_KEY), Err(IdentityError::NotPrivateKeyPem)));
    }

    #[test]
    fn debug_shows_the_public_key_and_never_the_secret() {
        let identity = SecretKey::from_pkcs8_pem(OPENSSL_PEM).unwrap();
        assert_eq!(format!("{identity:?}"), format!("SecretKey {{ public: WorkerKey({OPENSSL_KEY}), .. }}"));
    }
}
