//! Percent-encoding, as far as paths and query strings of this protocol need it.

use std::fmt::Write;

/// Encodes a relative path for a URL: everything but unreserved characters and slashes.
#[must_use]
pub fn encode_path(path: &str) -> String {
    let mut url = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                url.push(byte.into())
            }
            _ => write!(url, "%{byte:02X}").expect("a string takes any text"),
        }
    }
    url
}

/// The decoded value of a query parameter, or `None` when the query has none of this name.
#[must_use]
pub fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decode(value))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex_digit(*high) << 4 | hex_digit(*low));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_digit(digit: u8) -> u8 {
    let value = char::from(digit).to_digit(16).expect("the caller has checked the digit");
    u8::try_from(value).expect("a digit is below 16")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_and_values_decoded() {
        assert_eq!(encode_path("a b/100%?é.txt"), "a%20b/100%25%3F%C3%A9.txt");
        assert_eq!(query_value(Some("x=1&key=a%2Bb+c%zz%"), "key").as_deref(), Some("a+b c%zz%"));
        assert_eq!(query_value(Some("wait"), "wait").as_deref(), Some(""));
        assert_eq!(query_value(Some("waiting=1"), "wait"), None);
        assert_eq!(query_value(None, "wait"), None);
    }
}
