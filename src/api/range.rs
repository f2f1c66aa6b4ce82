//! What a download is to send: conditional requests and ranges (RFC 9110, sections 13 and 14), one range at a time.

use http::{HeaderMap, HeaderName, header};

/// What the headers of a request ask for of a file whose state is known by its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The file is not in the state that the client wants it in.
    PreconditionFailed,
    /// The client has the file as it is.
    NotModified,
    Content(Requested),
}

impl Asked {
    /// `tag` is the strong entity tag of the file with its quotes, `length` its bytes.
    #[must_use]
    pub fn of(headers: &HeaderMap, tag: &str, length: u64) -> Self {
        if text(headers, header::IF_MATCH).is_some_and(|tags| !names(tags, |one| one == tag)) {
            return Self::PreconditionFailed;
        }
        // Compared weakly: the client has what it has, whoever weakened its tag on the way.
        let same = |one: &str| one.strip_prefix("W/").unwrap_or(one) == tag;
        if text(headers, header::IF_NONE_MATCH).is_some_and(|tags| names(tags, same)) {
            return Self::NotModified;
        }
        // A client that has the beginning of another state of the file gets all of this one.
        if headers.get(header::IF_RANGE).is_some_and(|state| state != tag) {
            return Self::Content(Requested::Whole);
        }
        let range = text(headers, header::RANGE);
        Self::Content(range.map_or(Requested::Whole, |range| Requested::parse(range, length)))
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a list of tags names every state, or one that matches.
fn names(tags: &str, matches: impl Fn(&str) -> bool) -> bool {
    tags.split(',').map(str::trim).any(|one| one == "*" || matches(one))
}

/// What a client asked for of a file of known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// Everything: no range was asked for, or one that a server may ignore (another unit, several ranges, nonsense).
    Whole,
    /// The bytes from `first` up to and including `last`, both inside the file.
    Part {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: u64,
    },
    /// A range that holds no byte of the file.
    Unsatisfiable,
}

impl Requested {
    /// Reads a `Range` header against a file of `length` bytes.
    #[must_use]
    pub fn parse(header: &str, length: u64) -> Self {
        let range = header.trim().strip_prefix("bytes=").filter(|ranges| !ranges.contains(','));
        let Some((first, last)) = range.and_then(|range| range.trim().split_once('-')) else {
            return Self::Whole;
        };
        match (number(first), number(last)) {
            (None, Some(0)) => Self::Unsatisfiable,
            (None, Some(_)) if first.is_empty() && length == 0 => Self::Unsatisfiable,
            (None, Some(suffix)) if first.is_empty() => {
                Self::Part { first: length.saturating_sub(suffix), last: length - 1 }
            }
            (Some(first), None) if last.is_empty() => Self::between(first, u64::MAX, length),
            (Some(first), Some(last)) if first <= last => Self::between(first, last, length),
            _ => Self::Whole,
        }
    }

    fn between(first: u64, last: u64, length: u64) -> Self {
        if first >= length {
            return Self::Unsatisfiable;
        }
        Self::Part { first, last: last.min(length - 1) }
    }
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn asked(headers: &[(HeaderName, &'static str)]) -> Asked {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        Asked::of(&headers.collect(), "\"a\"", 10)
    }

    #[test]
    fn tags_are_compared_one_by_one_and_as_each_condition_wants() {
        for (tags, matched, changed) in [
            ("\"a\"", true, false),
            ("\"b\", \"a\"", true, false),
            ("W/\"a\"", true, true),
            ("*", true, false),
            ("\"ab\"", false, true),
        ] {
            let whole = Asked::Content(Requested::Whole);
            let not_modified = asked(&[(header::IF_NONE_MATCH, tags)]);
            assert_eq!(not_modified, if matched { Asked::NotModified } else { whole }, "{tags}");
            let failed = asked(&[(header::IF_MATCH, tags)]);
            assert_eq!(failed, if changed { Asked::PreconditionFailed } else { whole }, "{tags}");
        }
    }

    #[test]
    fn a_range_of_another_state_is_the_whole_file() {
        let range = (header::RANGE, "bytes=1-2");
        let part = Asked::Content(Requested::Part { first: 1, last: 2 });
        assert_eq!(asked(std::slice::from_ref(&range)), part);
        assert_eq!(asked(&[range.clone(), (header::IF_RANGE, "\"a\"")]), part);
        for other in ["\"b\"", "W/\"a\"", "Tue, 24 Nov 2026 10:00:00 GMT"] {
            let asked = asked(&[range.clone(), (header::IF_RANGE, other)]);
            assert_eq!(asked, Asked::Content(Requested::Whole), "{other}");
        }
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        use Requested::*;
        for (header, length, requested) in [
            ("bytes=0-0", 10, Part { first: 0, last: 0 }),
            ("bytes=2-5", 10, Part { first: 2, last: 5 }),
            ("bytes=2-", 10, Part { first: 2, last: 9 }),
            ("bytes=2-99", 10, Part { first: 2, last: 9 }),
            ("bytes=-3", 10, Part { first: 7, last: 9 }),
            ("bytes=-99", 10, Part { first: 0, last: 9 }),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-5", 0, Unsatisfiable),
            ("bytes=5-2", 10, Whole),
            ("bytes=0-1,3-4", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("lines=1-2", 10, Whole),
        ] {
            assert_eq!(Requested::parse(header, length), requested, "{header} of {length}");
        }
    }
}
