//! How a call to the pool fails.

use std::fmt;

use reqwest::StatusCode;

use super::answers::Refusal;

#[derive(Debug)]
pub enum ClientError {
    /// The call makes no sense as it was asked for.
    Usage(String),
    /// Nothing answers at the pool's address, or not in time, or the answer broke off.
    Unreachable(String),
    /// The pool answered that it does not do it.
    Refused { status: StatusCode, refusal: Refusal },
    /// The pool answered something that cannot be made sense of.
    Unexpected(String),
    /// A file on this side cannot be read or written.
    File(String),
}

impl ClientError {
    pub(super) fn sending(pool: &str, error: &reqwest::Error) -> Self {
        let what = match (error.is_connect(), error.is_timeout()) {
            (true, _) => "cannot be reached",
            (false, true) => "did not answer in time",
            (false, false) => "broke off",
        };
        Self::Unreachable(format!("the pool at {pool} {what}: {}", root(error)))
    }

    pub(super) fn broken(error: &reqwest::Error) -> Self {
        Self::Unreachable(format!("the pool's answer broke off: {}", root(error)))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message)
            | Self::Unreachable(message)
            | Self::Unexpected(message)
            | Self::File(message) => f.write_str(message),
            Self::Refused { refusal, .. } => {
                f.write_str(&refusal.error)?;
                if let Some(code) = &refusal.code {
                    write!(f, " ({code})")?;
                }
                if let Some(seconds) = refusal.retry_after {
                    write!(f, "; try again in {} s", seconds.ceil())?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ClientError {}

/// The innermost cause: the outer ones only say that a request failed, and repeat its URL.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The error and all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
