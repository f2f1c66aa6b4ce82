//! What is found in an upload does not depend on how it was cut, and the body made of it for a worker holds the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trusted_pool::spool::{Inspect, UploadLimits};
use trusted_pool_fuzz::cut;
use trusted_pool_fuzz::upload::{outcome, submit, to_worker};

const LIMITS: UploadLimits =
    UploadLimits { body_bytes_max: 1 << 20, files_max: 4, inspect: Inspect::Nothing };

/// A part's head may be so long beyond the chunk that brings it: in longer bodies the cut does decide.
const BODY_BYTES_MAX: usize = 16 << 10;

/// What the usual file systems take.
const NAME_BYTES_MAX: usize = 255;

fuzz_target!(|input: &[u8]| {
    let (body, lengths) = cut::split(input);
    if body.len() > BODY_BYTES_MAX {
        return;
    }
    let boundary = boundary(body);
    let whole = submit(boundary, std::iter::once(body), &LIMITS);
    let told = outcome(&whole);
    assert_eq!(outcome(&submit(boundary, lengths.pieces(body), &LIMITS)), told);

    let (Ok(upload), Ok(told)) = (whole, told) else { return };
    for name in &told.file_names {
        assert!(
            (1..=NAME_BYTES_MAX).contains(&name.len()) && !matches!(name.as_str(), "." | ".."),
            "{name:?}"
        );
        assert!(!name.contains(['/', '\\', '"']) && !name.chars().any(char::is_control), "{name:?}");
    }
    let (boundary, sent) = to_worker(upload);
    let again =
        outcome(&submit(&boundary, lengths.pieces(&sent), &LIMITS)).expect("the pool takes what it sends");
    assert_eq!((again.sha256, again.file_names), (told.sha256, told.file_names));
    assert_eq!((again.manifest, again.bytes), (told.manifest, told.bytes));
});

/// The boundary that the body begins with, as a client would state it.
fn boundary(body: &[u8]) -> &str {
    let line = body.split(|byte| *byte == b'\r').next().and_then(|line| line.strip_prefix(b"--"));
    let usable = |line: &&[u8]| line.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    let boundary = line.filter(usable).and_then(|line| std::str::from_utf8(line).ok());
    boundary.filter(|text| (1..=70).contains(&text.len())).unwrap_or("b")
}
