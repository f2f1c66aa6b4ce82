//! What a job does when it runs on the stand-in: by default, what its `args` say.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::wire::{hex, sha256};

/// The outcome of a job, decided when it is submitted.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub run_for: Duration,
    pub exit_code: i32,
    pub stdout: String,
    pub stderr: String,
    pub outputs: Vec<(String, Content)>,
}

/// The bytes of an output file.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Vec<u8>),
    /// So many bytes of one fixed pattern, made as they are sent.
    Generated(u64),
}

/// The pattern's period: a prime, so that a piece which is lost or sent twice shifts what follows.
const PATTERN_BYTES: usize = 65_521;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut seed = 1_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Lower-case letters: never a line break, so a multipart scanner meets no false delimiter.
        b'a' + ((seed >> 24) % 26) as u8
    };
    (0..PATTERN_BYTES).map(|_| next()).collect()
});

/// `range` of the pattern.
pub fn pattern(range: Range<u64>) -> Vec<u8> {
    let period = PATTERN_BYTES as u64;
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    let mut at = range.start;
    while at < range.end {
        let from = (at % period) as usize;
        let take = (PATTERN_BYTES - from).min((range.end - at) as usize);
        bytes.extend_from_slice(&PATTERN[from..from + take]);
        at += take as u64;
    }
    bytes
}

/// SHA-256 of the first `length` bytes of the pattern, in hex.
pub fn pattern_sha256(length: u64) -> String {
    static KNOWN: Mutex<Option<HashMap<u64, String>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap();
    let known = known.get_or_insert_default();
    known.entry(length).or_insert_with(|| hash_pattern(length)).clone()
}

fn hash_pattern(length: u64) -> String {
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < length {
        let end = length.min(at + 1024 * 1024);
        hash.update(pattern(at..end));
        at = end;
    }
    hex(&hash.finalize())
}

impl Plan {
    /// Reads `run_ms=200`, `exit=1`, `stdout=text`, `stderr=text`, `out=name:text`, `big=name:bytes`; other
    /// arguments mean nothing.
    pub fn from_args(args: &[String]) -> Self {
        let mut plan = Self::default();
        for (key, value) in args.iter().filter_map(|arg| arg.split_once('=')) {
            match key {
                "run_ms" => plan.run_for = Duration::from_millis(value.parse().expect("run_ms is a number")),
                "exit" => plan.exit_code = value.parse().expect("exit is a number"),
                "stdout" => plan.stdout.push_str(value),
                "stderr" => plan.stderr.push_str(value),
                "out" => plan.outputs.extend(named(value, |text| Content::Bytes(text.into()))),
                "big" => plan
                    .outputs
                    .extend(named(value, |text| Content::Generated(text.parse().expect("a size in bytes")))),
                _ => {}
            }
        }
        plan
    }
}

fn named(value: &str, content: impl Fn(&str) -> Content) -> Option<(String, Content)> {
    value.rsplit_once(':').map(|(name, rest)| (name.into(), content(rest)))
}

impl Content {
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Generated(length) => *length,
        }
    }

    pub fn slice(&self, range: Range<u64>) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes[range.start as usize..range.end as usize].to_vec(),
            Self::Generated(_) => pattern(range),
        }
    }

    pub fn sha256(&self) -> String {
        match self {
            Self::Bytes(bytes) => sha256(bytes),
            Self::Generated(length) => pattern_sha256(*length),
        }
    }
}
