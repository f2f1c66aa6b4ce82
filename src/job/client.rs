//! Whose job it is.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name in bytes: a subject of an identity provider is at most 255 characters, and is told from a token's name by a prefix.
pub const CLIENT_NAME_BYTES_MAX: usize = 288;

/// The name of a client: 1 to 288 printable ASCII characters without a space, so that it can stand in a log line, a header and a URL.
///
/// Whoever makes requests under one name is one client: its jobs are its own, and its share of the queue is one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientName(Arc<str>);

impl ClientName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is no name of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidClientName;

impl fmt::Display for InvalidClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a client's name is 1 to {CLIENT_NAME_BYTES_MAX} printable ASCII characters without a space"
        )
    }
}

impl std::error::Error for InvalidClientName {}

impl FromStr for ClientName {
    type Err = InvalidClientName;

    fn from_str(text: &str) -> Result<Self, InvalidClientName> {
        let well_formed = (1..=CLIENT_NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if well_formed { Ok(Self(text.into())) } else { Err(InvalidClientName) }
    }
}

impl Borrow<str> for ClientName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_disturb_a_line_or_a_header() {
        for name in ["ci", "a.b-c_d@example.com", "oidc:auth0|123"] {
            assert_eq!(name.parse::<ClientName>().unwrap().as_str(), name);
        }
        for wrong in ["", "a b", "a\nb", "ü", &"x".repeat(CLIENT_NAME_BYTES_MAX + 1)] {
            assert_eq!(wrong.parse::<ClientName>(), Err(InvalidClientName), "{wrong:?}");
        }
    }
}
