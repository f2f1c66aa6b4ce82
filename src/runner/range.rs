//! The `Range` header of a download (RFC 9110, section 14), one range at a time.

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
    use super::*;

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
