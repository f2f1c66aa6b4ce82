//! What a request brings along to say who makes it.

use http::{HeaderMap, HeaderName, header};

/// Longest credential in bytes that is looked at: tokens of identity providers are a few KiB.
pub const CREDENTIAL_BYTES_MAX: usize = 16 << 10;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const BEARER: &str = "bearer ";

/// A text that a client presents. Never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credential<'a>(&'a str);

/// Why nobody is behind a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It brings no credential.
    Missing,
    /// What it brings is no credential of this pool, or no longer one.
    Invalid,
    /// It is an issuer's, and gives no role here.
    Unprivileged,
}

impl<'a> Credential<'a> {
    /// From `Authorization: Bearer` or `X-API-Key`. Two different ones are none: it must not matter which is looked at first.
    pub fn of(headers: &'a HeaderMap) -> Result<Self, Denied> {
        let mut found = None;
        for value in headers.get_all(header::AUTHORIZATION) {
            let text = value.to_str().map_err(|_| Denied::Invalid)?;
            let scheme = text.get(..BEARER.len()).ok_or(Denied::Invalid)?;
            if !scheme.eq_ignore_ascii_case(BEARER) {
                return Err(Denied::Invalid);
            }
            one(&mut found, text[BEARER.len()..].trim())?;
        }
        for value in headers.get_all(API_KEY) {
            one(&mut found, value.to_str().map_err(|_| Denied::Invalid)?.trim())?;
        }
        match found {
            None => Err(Denied::Missing),
            Some(text) if text.is_empty() || text.len() > CREDENTIAL_BYTES_MAX => Err(Denied::Invalid),
            Some(text) => Ok(Self(text)),
        }
    }

    pub fn as_str(self) -> &'a str {
        self.0
    }
}

fn one<'a>(found: &mut Option<&'a str>, text: &'a str) -> Result<(), Denied> {
    match found.replace(text) {
        Some(before) if before != text => Err(Denied::Invalid),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &'static str)]) -> Result<String, Denied> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        Credential::of(&headers).map(|credential| credential.as_str().to_owned())
    }

    #[test]
    fn a_credential_comes_in_either_header() {
        for headers in [
            &[("authorization", "Bearer abc")][..],
            &[("authorization", "bearer  abc ")],
            &[("x-api-key", "abc")],
            &[("authorization", "Bearer abc"), ("x-api-key", "abc")],
        ] {
            assert_eq!(of(headers).as_deref(), Ok("abc"), "{headers:?}");
        }
    }

    #[test]
    fn what_is_none_or_more_than_one_is_denied() {
        assert_eq!(of(&[]), Err(Denied::Missing));
        for headers in [
            &[("authorization", "Basic YTpi")][..],
            &[("authorization", "abc")],
            &[("authorization", "Bearer ")],
            &[("x-api-key", "")],
            &[("authorization", "Bearer abc"), ("x-api-key", "abd")],
            &[("authorization", "Bearer abc"), ("authorization", "Bearer abd")],
        ] {
            assert_eq!(of(headers), Err(Denied::Invalid), "{headers:?}");
        }
    }
}
