//! Where the outputs of finished jobs are.

use serde::{Deserialize, Serialize};

use crate::job::JobId;
use crate::time::Timestamp;

/// Where a finished job's outputs are. A job that no worker took has none, and no such place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputsPlace {
    /// On the worker that ran the job, to be fetched from there.
    ToCollect,
    /// On the worker, and they stay there, for this reason.
    OnWorker { reason: String },
    /// In the pool, since this time.
    Kept { at: Timestamp, files: Vec<KeptFile> },
    /// No longer to be had.
    Expired,
}

/// A file that the pool keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Its path as the worker's listing has it.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the content, lower-case hexadecimal.
    pub sha256: String,
    /// Names the file that holds the content.
    pub index: u32,
}

/// A job that has ended, as often as it has: one that is retried and ends again has another version then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndedRun {
    pub job: JobId,
    /// Of the job's row while it is finished.
    pub version: i64,
}

/// A run whose outputs the pool keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRun {
    pub run: EndedRun,
    /// Of all its files.
    pub bytes: u64,
    pub kept_at: Timestamp,
}

/// What became of a [`Store::settle_outputs`](super::Store::settle_outputs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Done,
    /// The job was retried or forgotten, or never had outputs; nothing was changed.
    Overtaken,
}

impl OutputsPlace {
    /// As clients see it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::ToCollect | Self::OnWorker { .. } => "on_worker",
            Self::Kept { .. } => "kept",
            Self::Expired => "expired",
        }
    }

    /// Bytes of what the pool keeps.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Kept { files, .. } => files.iter().map(|file| file.size).sum(),
            Self::ToCollect | Self::OnWorker { .. } | Self::Expired => 0,
        }
    }
}
