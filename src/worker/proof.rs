//! How a worker that is reached without TLS shows that it has its key: it signs what the pool has just made up.
//!
//! The proof says that the holder of the key answered just now. It does not say that nobody sits in between: whoever can change
//! what passes between pool and worker can let the proof through and change the rest. That takes TLS.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::identity::{PoolKey, SIGNATURE_BYTES, SecretKey, WorkerKey};

/// The request header with the challenge, and the one with the id of the pool that asks.
pub const CHALLENGE_HEADER: &str = "x-pool-challenge";
pub const POOL_HEADER: &str = "x-pool-id";

/// Begins the signed message. The same key signs certificates (which begin with 0x30) and TLS handshakes (with spaces).
const DOMAIN: &[u8] = b"trusted-pool/health/v1\n";

const CHALLENGE_BYTES: usize = 32;

/// What a worker is asked to sign: never the same twice. Written in standard base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge([u8; CHALLENGE_BYTES]);

/// A worker's signature over a challenge. Written in standard base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof([u8; SIGNATURE_BYTES]);

/// A text is not the base64 of as many bytes as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Challenge {
    /// A new one, from a generator that the operating system seeds.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// What is signed: every part but the first has a fixed length, so that no two readings of it exist.
    fn message(&self, worker: WorkerKey, pool: PoolKey) -> Vec<u8> {
        [DOMAIN, worker.as_bytes(), &self.0, pool.0.as_bytes()].concat()
    }
}

impl Proof {
    /// Answers the challenge of a pool.
    #[must_use]
    pub fn sign(key: &SecretKey, challenge: &Challenge, pool: PoolKey) -> Self {
        Self(key.sign(&challenge.message(key.public(), pool)))
    }

    /// Whether this is that worker's answer to that challenge of that pool.
    #[must_use]
    pub fn holds(&self, worker: WorkerKey, challenge: &Challenge, pool: PoolKey) -> bool {
        worker.signed(&challenge.message(worker, pool), &self.0)
    }
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], Malformed> {
    let bytes = STANDARD.decode(text).map_err(|_| Malformed)?;
    bytes.try_into().map_err(|_| Malformed)
}

impl FromStr for Challenge {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        decode(text).map(Self)
    }
}

impl FromStr for Proof {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        decode(text).map(Self)
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_one_worker_one_challenge_and_one_pool() {
        let (key, challenge) = (SecretKey::generate(), Challenge::random());
        let (worker, pool) = (key.public(), PoolKey(WorkerKey::for_tests(9)));
        let proof = Proof::sign(&key, &challenge, pool);
        assert!(proof.holds(worker, &challenge, pool));
        assert!(!proof.holds(WorkerKey::for_tests(1), &challenge, pool));
        assert!(!proof.holds(worker, &Challenge::random(), pool));
        assert!(!proof.holds(worker, &challenge, PoolKey(WorkerKey::for_tests(8))));
        // Only the other worker's own key signs for it, whatever the message says.
        assert!(!Proof::sign(&SecretKey::generate(), &challenge, pool).holds(worker, &challenge, pool));
    }

    #[test]
    fn both_are_read_back_and_nothing_else_is() {
        let challenge = Challenge::random();
        assert_eq!(challenge.to_string().parse(), Ok(challenge));
        let proof = Proof::sign(&SecretKey::generate(), &challenge, PoolKey(WorkerKey::for_tests(9)));
        assert_eq!(proof.to_string().parse(), Ok(proof));
        assert_eq!(proof.to_string().parse::<Challenge>(), Err(Malformed));
        for text in ["", "AAAA", "not base64"] {
            assert_eq!(text.parse::<Proof>(), Err(Malformed));
        }
    }
}
