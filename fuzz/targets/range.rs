//! A range that is served lies inside of the file, is the same when it is asked for by its own two ends, and does not move when the
//! file grows behind it.
//!
//! An input is the file's length and then, a line each, `Range`, `If-Match`, `If-None-Match` and `If-Range`.
#![no_main]

use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use trusted_pool::api::range::{Asked, Requested};

const TAG: &str = "\"tag\"";

fuzz_target!(|input: &[u8]| {
    let Some((length, text)) = input.split_first_chunk::<8>() else { return };
    let length = u64::from_be_bytes(*length);
    let mut lines = text.split(|byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [header::RANGE, header::IF_MATCH, header::IF_NONE_MATCH, header::IF_RANGE] {
        let value = lines.next().filter(|line| !line.is_empty());
        if let Some(value) = value.and_then(|line| HeaderValue::from_bytes(line).ok()) {
            headers.insert(name, value);
        }
    }
    match Asked::of(&headers, TAG, length) {
        Asked::PreconditionFailed => assert!(headers.contains_key(header::IF_MATCH)),
        Asked::NotModified => assert!(headers.contains_key(header::IF_NONE_MATCH)),
        Asked::Content(Requested::Whole) => {}
        Asked::Content(Requested::Part { .. } | Requested::Unsatisfiable) => {
            assert!(headers.contains_key(header::RANGE));
            assert!(headers.get(header::IF_RANGE).is_none_or(|state| state == TAG));
        }
    }
    if let Some(range) = headers.get(header::RANGE).and_then(|range| range.to_str().ok()) {
        requested(range, length);
    }
});

fn requested(range: &str, length: u64) {
    match Requested::parse(range, length) {
        Requested::Part { first, last } => {
            assert!(first <= last && last < length, "{first}-{last} of {length}");
            let same = Requested::Part { first, last };
            assert_eq!(Requested::parse(&format!("bytes={first}-{last}"), length), same);
            if last < length - 1 {
                assert_eq!(Requested::parse(range, length.saturating_add(1)), same);
            }
        }
        Requested::Unsatisfiable => assert!(range.contains('-') && !range.contains(',')),
        Requested::Whole => assert_eq!(Requested::parse(range, length.saturating_add(1)), Requested::Whole),
    }
}
