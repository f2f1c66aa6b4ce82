//! Why an upload was not taken.

use std::fmt;
use std::io;

use crate::job::manifest::ManifestError;

/// Why an upload was not taken. `E` is the error of the stream that brought it.
#[derive(Debug)]
pub enum UploadError<E> {
    /// The client's fault: what is wrong with which field, and what would be right.
    BadRequest { field: String, message: String },
    /// The field, or the whole body, is longer than `limit` bytes.
    TooLarge { field: String, limit: u64 },
    /// No room on the disk that holds the spool.
    DiskFull,
    /// All payloads together would take up more than they may.
    SpoolFull,
    /// The spool failed otherwise.
    Spool(io::Error),
    /// The body could not be read to its end.
    Body(E),
}

impl<E> UploadError<E> {
    pub(super) fn bad(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::BadRequest { field: field.into(), message: message.into() }
    }
}

impl<E> From<ManifestError> for UploadError<E> {
    fn from(error: ManifestError) -> Self {
        Self::BadRequest { field: error.field, message: error.message }
    }
}

impl<E> From<io::Error> for UploadError<E> {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => Self::DiskFull,
            io::ErrorKind::QuotaExceeded => Self::SpoolFull,
            _ => Self::Spool(error),
        }
    }
}

impl<E: fmt::Display> fmt::Display for UploadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest { field, message } => write!(f, "`{field}` {message}"),
            Self::TooLarge { field, limit } => write!(f, "`{field}` is longer than {limit} bytes"),
            Self::DiskFull => f.write_str("the disk that holds the spool is full"),
            Self::SpoolFull => f.write_str("the payloads of waiting jobs take up all of the spool"),
            Self::Spool(cause) => write!(f, "the spool failed: {cause}"),
            Self::Body(cause) => write!(f, "the body could not be read: {cause}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for UploadError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::BadRequest { .. } | Self::TooLarge { .. } | Self::DiskFull | Self::SpoolFull => None,
            Self::Spool(cause) => Some(cause),
            Self::Body(cause) => Some(cause),
        }
    }
}
