//! A token of the pool's own: `tp_`, an id that may be shown, and a secret that is kept by nobody but its client.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// So that a token is recognised where it must not be: in a log, in a repository.
const PREFIX: &str = "tp_";

const ID_DIGITS: usize = 12;

/// A secret of 256 random bits cannot be guessed, so that a plain digest of it keeps it.
const SECRET_BYTES: usize = 32;
const SECRET_CHARS: usize = 43;

/// What a token is called: 12 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(Box<str>);

/// A token in full. It is printed once, when it is made.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
}

/// What is kept of a token: the SHA-256 of its text.
#[derive(Clone, Copy, Debug)]
pub struct TokenDigest([u8; 32]);

/// The text is no token of this pool's making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoToken;

// === impl Token ===

impl Token {
    /// The token made of these random bits.
    pub fn from_random(id: [u8; ID_DIGITS / 2], secret: [u8; SECRET_BYTES]) -> Self {
        Self { text: format!("{PREFIX}{}_{}", hex(&id), URL_SAFE_NO_PAD.encode(secret)) }
    }

    /// Whether a text is meant to be one.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    pub fn id(&self) -> TokenId {
        TokenId(self.text[PREFIX.len()..][..ID_DIGITS].into())
    }

    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.text.as_bytes()).into())
    }

    /// The secret: for the eyes of its client.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let (id, secret) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(NoToken)?;
        let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let well_formed = id.parse::<TokenId>().is_ok() && secret.len() == SECRET_CHARS;
        if well_formed && secret.bytes().all(url_safe) {
            Ok(Self { text: text.to_owned() })
        } else {
            Err(NoToken)
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id())
    }
}

// === impl TokenId ===

impl FromStr for TokenId {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == ID_DIGITS && text.bytes().all(digit) { Ok(Self(text.into())) } else { Err(NoToken) }
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl TokenDigest ===

impl TokenDigest {
    /// Whether both are of the same token. The time that it takes says nothing about where they differ.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_reads_back_and_only_its_own_digest_matches(id: [u8; 6], secret: [u8; 32], other: [u8; 32]) {
            let token = Token::from_random(id, secret);
            prop_assert_eq!(token.reveal().parse::<Token>(), Ok(token.clone()));
            let digest = TokenDigest::from_hex(&token.digest().to_hex()).unwrap();
            prop_assert!(digest.matches(&token.digest()));
            prop_assert_eq!(Token::from_random(id, other).digest().matches(&digest), secret == other);
        }

        #[test]
        fn no_text_is_a_panic(text in "(tp_)?.{0,80}") {
            let _ = (text.parse::<Token>().map(|token| token.id()), TokenDigest::from_hex(&text));
        }
    }

    #[test]
    fn what_is_shown_of_a_token_is_its_id() {
        let token = Token::from_random([0xab; 6], [7; 32]);
        assert_eq!(format!("{token:?}"), "Token(abababababab)");
        assert!(token.reveal().starts_with("tp_abababababab_"));
    }
}
