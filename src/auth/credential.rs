//! What a request brings along to say who makes it.

use http::{HeaderMap, HeaderName, header};

/// Longest credential in bytes that is looked at: tokens of identity providers are a few KiB.
pub const CREDENTIAL_BYTES_MAX: usize = 16 << 10;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const BEARER: &str = "bearer ";

/// What a credential begins with that comes as a subprotocol of a WebSocket: a page cannot give one other headers.
const SUBPROTOCOL: &str = "bearer.";

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

    /// The same for a WebSocket, whose handshake may also bring it as the subprotocol `bearer.TOKEN`.
    pub fn of_handshake(headers: &'a HeaderMap) -> Result<Self, Denied> {
        let found = Self::of(headers);
        let mut offered = subprotocols(headers).filter_map(bearer_of);
        let text = match (offered.next(), &found) {
            (None, _) => return found,
            (Some(text), Ok(Self(other))) if text != *other => return Err(Denied::Invalid),
            (Some(_), Err(Denied::Invalid | Denied::Unprivileged)) => return Err(Denied::Invalid),
            (Some(text), Ok(_) | Err(Denied::Missing)) => text,
        };
        if text.is_empty() || text.len() > CREDENTIAL_BYTES_MAX || offered.any(|other| other != text) {
            return Err(Denied::Invalid);
        }
        Ok(Self(text))
    }

    pub fn as_str(self) -> &'a str {
        self.0
    }
}

/// The subprotocols that a WebSocket's handshake offers.
pub fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    // A value that is no text offers nothing.
    values.flat_map(|value| value.to_str().unwrap_or_default().split(',')).map(str::trim)
}

/// The credential that a subprotocol is, if it is one.
pub fn bearer_of(subprotocol: &str) -> Option<&str> {
    let prefix = subprotocol.get(..SUBPROTOCOL.len())?;
    prefix.eq_ignore_ascii_case(SUBPROTOCOL).then(|| &subprotocol[SUBPROTOCOL.len()..])
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
    fn a_handshake_may_bring_it_as_a_subprotocol() {
        let of_handshake = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            Credential::of_handshake(&headers).map(|credential| credential.as_str().to_owned())
        };
        let protocol = "sec-websocket-protocol";
        for good in [
            &[(protocol, "trusted-pool, bearer.abc")][..],
            &[(protocol, "bearer.abc,trusted-pool")],
            &[(protocol, "trusted-pool"), (protocol, "Bearer.abc")],
            &[(protocol, "bearer.abc"), ("authorization", "Bearer abc")],
            &[(protocol, "trusted-pool"), ("x-api-key", "abc")],
        ] {
            assert_eq!(of_handshake(good).as_deref(), Ok("abc"), "{good:?}");
        }
        assert_eq!(of_handshake(&[(protocol, "trusted-pool")]), Err(Denied::Missing));
        for wrong in [
            &[(protocol, "bearer.abc, bearer.abd")][..],
            &[(protocol, "bearer.")],
            &[(protocol, "bearer.abc"), ("x-api-key", "abd")],
            &[(protocol, "bearer.abc"), ("authorization", "Basic YTpi")],
        ] {
            assert_eq!(of_handshake(wrong), Err(Denied::Invalid), "{wrong:?}");
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
