//! How a worker's identity is known.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// What stands behind the id that a worker gives; what says less comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// It says that it is the allowlisted worker; nothing proves it.
    Claimed,
    /// It signed a fresh challenge with the allowlisted key. What else passes on the way to it is not protected.
    Proved,
    /// Every connection to it is encrypted to the allowlisted key.
    Pinned,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Claimed => "claimed",
            Self::Proved => "proved",
            Self::Pinned => "pinned",
        })
    }
}

/// A word that is no [`Identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownIdentity;

impl FromStr for Identity {
    type Err = UnknownIdentity;

    fn from_str(text: &str) -> Result<Self, UnknownIdentity> {
        [Self::Claimed, Self::Proved, Self::Pinned]
            .into_iter()
            .find(|identity| identity.to_string() == text)
            .ok_or(UnknownIdentity)
    }
}
