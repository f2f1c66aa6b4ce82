//! Whether the head of a request can mean one thing alone. Pure.
//!
//! A reader that is more lenient than the one before or behind it takes another request out of the same bytes (RFC 9112, section 11.2).
//! Pingora's is lenient where it may be, so heads of HTTP/1.1 are looked at again as they came.

use http::{HeaderMap, Uri};

use super::problem::{Problem, ProblemCode};

/// Header fields of one request; browsers send about twenty.
const FIELDS_MAX: usize = 100;

/// Bytes of one field, its name included: room for the longest credential.
const FIELD_BYTES_MAX: usize = 20 << 10;

/// Bytes of a target: room for the longest output path, each byte of it percent-encoded.
const TARGET_BYTES_MAX: usize = 16 << 10;

/// Holds what is true of every version of HTTP.
pub fn check_size(target: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let length = target.path_and_query().map_or(0, |target| target.as_str().len());
    if length > TARGET_BYTES_MAX {
        let message = format!("the target of the request is longer than {TARGET_BYTES_MAX} bytes");
        return Err(Problem::new(ProblemCode::TargetTooLong, message));
    }
    if headers.len() > FIELDS_MAX {
        let message = format!("the request has more than {FIELDS_MAX} header fields");
        return Err(Problem::new(ProblemCode::HeadersTooLarge, message));
    }
    let too_long = |(name, value): &(&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() > FIELD_BYTES_MAX
    };
    if let Some((name, _)) = headers.iter().find(too_long) {
        let shown: String = name.as_str().chars().take(100).collect();
        let message = format!("the header field `{shown}` is longer than {FIELD_BYTES_MAX} bytes");
        return Err(Problem::new(ProblemCode::HeadersTooLarge, message).in_field(&shown));
    }
    Ok(())
}

/// Holds that a head of HTTP/1.1, as it came, frames its request in one way.
pub fn check_framing(raw: &[u8]) -> Result<(), Problem> {
    let bad = |message: &str| Err(Problem::new(ProblemCode::BadRequest, message).in_field("head"));
    let ends_well = |(at, byte): (usize, &u8)| match byte {
        b'\n' => at > 0 && raw[at - 1] == b'\r',
        b'\r' => raw.get(at + 1) == Some(&b'\n'),
        0 => false,
        _ => true,
    };
    if !raw.iter().enumerate().all(ends_well) {
        return bad("the head of the request has a line that does not end with CR and LF, or a NUL byte");
    }
    // The authority alone is for CONNECT, which is not taken.
    let target = raw.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if !target.starts_with(b"/") && target != b"*" && !target.windows(3).any(|part| part == b"://") {
        return bad("the target of the request is no path");
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in raw.split(|byte| *byte == b'\n').skip(1).map(|line| line.strip_suffix(b"\r").unwrap_or(line))
    {
        if line.is_empty() {
            continue;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return bad("the head of the request has a line that is no header field");
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return bad("the head of the request has a folded line, or a space before a colon");
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths.push(value);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            codings.push(value);
        }
        hosts += usize::from(name.eq_ignore_ascii_case(b"host"));
    }
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => {}
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {}
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => {}
        (_, []) => return bad("`Content-Length` is one whole number"),
        ([], _) => return bad("`Transfer-Encoding` can only be `chunked`"),
        (_, _) => return bad("`Content-Length` and `Transfer-Encoding` exclude each other"),
    }
    if hosts > 1 {
        return bad("`Host` occurs twice");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framing(fields: &str) -> bool {
        check_framing(format!("POST /submit HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).is_ok()
    }

    #[test]
    fn a_head_that_means_one_thing_passes() {
        for fields in [
            "",
            "Content-Length: 5\r\n",
            "content-length:5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "transfer-encoding:\tChunked \r\nAccept: */*\r\n",
            "X-Empty:\r\n",
        ] {
            assert!(framing(fields), "{fields:?}");
        }
    }

    #[test]
    fn a_head_that_can_mean_two_things_is_refused() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "X: a\r\n b\r\n",
            "X: a\n",
            "X: a\rb\r\n",
            "X: a\0b\r\n",
            "no field\r\n",
            ": nameless\r\n",
            "Host: b\r\n",
        ] {
            assert!(!framing(fields), "{fields:?}");
        }
    }

    #[test]
    fn a_target_is_a_path_or_a_whole_address() {
        let target =
            |target: &str| check_framing(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        for good in ["/", "/pool?x=1", "http://a/pool", "*"] {
            assert!(target(good).is_ok(), "{good}");
        }
        for bad in ["pool", "a:80", "", "?x"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_head_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_framing(&raw);
        }
    }
}
