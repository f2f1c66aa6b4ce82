//! What a health check shows of a worker's identity. Pure.

use std::sync::Arc;

use crate::worker::certificate::Leaf;
use crate::worker::identity::PoolKey;
use crate::worker::proof::{Challenge, Proof};
use crate::worker::trust::Identity;
use crate::worker::{WorkerKey, WorkerSpec};

/// How a worker was asked for its health.
#[derive(Clone, Debug)]
pub enum Inquiry {
    /// Over a connection that was encrypted to the key in this certificate, the allowlisted one.
    Encrypted(Arc<Leaf>),
    /// In the clear, with something to sign.
    Challenged { worker: WorkerKey, challenge: Challenge, pool: PoolKey },
}

/// What stands behind the id that the worker gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    Claimed,
    Proved,
    /// The certificate that it showed.
    Pinned(Arc<Leaf>),
}

impl Inquiry {
    /// A challenge to a worker that is asked in the clear.
    pub fn challenge(worker: &WorkerSpec, pool: PoolKey) -> (Self, Challenge) {
        let challenge = Challenge::random();
        (Self::Challenged { worker: worker.key, challenge, pool }, challenge)
    }

    /// Judges the `proof` that came with the answer. A wrong one is worse than none: it is no worker's mistake.
    pub fn evidence(self, proof: Option<&str>) -> Result<Evidence, String> {
        match (self, proof) {
            (Self::Encrypted(leaf), _) => Ok(Evidence::Pinned(leaf)),
            (Self::Challenged { .. }, None) => Ok(Evidence::Claimed),
            (Self::Challenged { worker, challenge, pool }, Some(proof)) => match proof.parse::<Proof>() {
                Ok(proof) if proof.holds(worker, &challenge, pool) => Ok(Evidence::Proved),
                Ok(_) | Err(_) => Err(format!(
                    "it is not the worker that the allowlist names: its proof is not made with the key {worker}"
                )),
            },
        }
    }
}

impl Evidence {
    pub fn identity(&self) -> Identity {
        match self {
            Self::Claimed => Identity::Claimed,
            Self::Proved => Identity::Proved,
            Self::Pinned(_) => Identity::Pinned,
        }
    }

    /// The certificate that the worker showed.
    pub fn leaf(&self) -> Option<&Arc<Leaf>> {
        match self {
            Self::Pinned(leaf) => Some(leaf),
            Self::Claimed | Self::Proved => None,
        }
    }
}
