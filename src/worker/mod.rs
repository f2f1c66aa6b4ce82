//! Who a worker is: its key, where it is reached, how much it takes, what it speaks. Pure.

pub mod certificate;
pub mod identity;
pub mod proof;
pub mod receipt;
pub mod spec;
pub mod trust;

pub use identity::WorkerKey;
pub use spec::{Allowlist, Endpoint, WorkerSpec};

use serde::Serialize;

/// What a worker speaks: the sandrun protocol as the old daemon has it, or with its faults mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// One request per connection, raw bytes in paths, `GET` and `POST` only, silent while a job runs.
    Sandrun,
    /// `"protocol": 2` in `/health`: keep-alive, percent-encoded paths, jobs found by key, status calls that wait for news.
    V2,
}

#[cfg(test)]
impl WorkerKey {
    /// The public key of the secret key whose bytes are all `n`.
    pub fn for_tests(n: u8) -> Self {
        let secret = ed25519_dalek::SigningKey::from_bytes(&[n; 32]);
        Self::from_bytes(secret.verifying_key().to_bytes()).expect("a key made from a secret is a key")
    }
}

#[cfg(test)]
impl WorkerSpec {
    pub fn for_tests(key: WorkerKey) -> Self {
        let endpoint = "http://127.0.0.1:9".parse().expect("a literal endpoint");
        Self { key, endpoint, max_concurrent_jobs: None, labels: Default::default() }
    }
}
