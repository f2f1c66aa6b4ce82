//! A job that has ended, as it is asked about again and again.

use bytes::Bytes;

use super::{JobRow, OutputsPlace};

/// Bytes of a text that is short enough to be at hand whenever its job is.
pub const SHORT_TEXT_BYTES: usize = 16 << 10;

/// A finished job, with what is asked about it most.
#[derive(Clone, Debug, PartialEq)]
pub struct EndedJob {
    pub row: JobRow,
    /// Where its outputs are; `None` where no worker took the job.
    pub outputs: Option<OutputsPlace>,
    /// The worker's last status, a JSON object, if there is one of at most [`SHORT_TEXT_BYTES`].
    pub short_status: Option<Bytes>,
}
