//! Which pages of other origins may use the pool from a browser. Pure.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// An origin as browsers send it: scheme, host, and a port that is not the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// The text is no origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoOrigin;

impl FromStr for Origin {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        let uri: Uri = text.parse().map_err(|_| NoOrigin)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(NoOrigin);
        };
        let web = matches!(scheme, "http" | "https");
        // Compared to the letter: what no browser would send could never match.
        let plain = text == format!("{scheme}://{authority}") && !authority.as_str().contains('@');
        if web && plain && text == text.to_lowercase() { Ok(Self(text.to_owned())) } else { Err(NoOrigin) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The origins whose pages may read what the pool answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigins {
    Any,
    These(Vec<Origin>),
}

/// What an answer says of origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Any page may read it.
    Any,
    /// The page that asked may; another one would get another answer.
    Asker,
    /// No page may, or none that asked; another one would get another answer.
    Nobody,
}

impl AllowedOrigins {
    /// What is said to a request with this `Origin`, if it has one.
    pub fn answer(&self, origin: Option<&[u8]>) -> Allowed {
        match (self, origin) {
            (Self::Any, _) => Allowed::Any,
            (Self::These(these), Some(origin)) if these.iter().any(|one| one.0.as_bytes() == origin) => {
                Allowed::Asker
            }
            (Self::These(_), _) => Allowed::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for text in ["https://front.example.com", "http://localhost:8080", "http://[::1]:3000"] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "*",
            "null",
            "front.example.com",
            "https://front.example.com/",
            "https://front.example.com/app",
            "https://Front.example.com",
            "https://me@front.example.com",
            "ftp://front.example.com",
            "https://front.example.com?x",
        ] {
            assert_eq!(wrong.parse::<Origin>(), Err(NoOrigin), "{wrong}");
        }
    }

    #[test]
    fn only_listed_origins_are_answered_with_their_name() {
        let these = AllowedOrigins::These(vec!["https://front.example.com".parse().unwrap()]);
        assert_eq!(these.answer(Some(b"https://front.example.com")), Allowed::Asker);
        for other in [None, Some(&b"https://front.example.com.evil.com"[..]), Some(b"null"), Some(b"")] {
            assert_eq!(these.answer(other), Allowed::Nobody, "{other:?}");
            assert_eq!(AllowedOrigins::Any.answer(other), Allowed::Any, "{other:?}");
        }
    }
}
