//! Durations and sizes as people write them: a whole number and a unit.
//!
//! The reasons returned here are read after the quoted value: `"30 parsecs" is not a duration; ...`.

use std::ops::RangeInclusive;
use std::time::Duration;

/// From the longest down, so that a duration is shown in the longest unit that it is a whole number of.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads `500ms`, `30s`, `5m`, `1h`, `7d`.
///
/// # Errors
/// The reason, when the text is no such thing or lies outside of `range`.
pub fn duration(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let wrong = || "is not a duration; write for example 30s, 5m, 1h".to_owned();
    let (number, unit) = split(text).ok_or_else(wrong)?;
    if unit.is_empty() {
        return Err(format!("has no unit; write for example {number}s or {number}m"));
    }
    let (_, millis) = DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let duration = number.checked_mul(*millis).map(Duration::from_millis);
    within(duration, range, show_duration)
}

/// Reads `64KiB`, `10MB`, `1GiB`; a number without a unit counts bytes.
///
/// # Errors
/// The reason, when the text is no such thing or lies outside of `range`.
pub fn size(text: &str, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let wrong = || "is not a size; write for example 64KiB, 10MB, 1GiB".to_owned();
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let bytes = match unit {
        "" => Some(number),
        _ => {
            let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            number.checked_mul(*bytes)
        }
    };
    within(bytes, range, show_size)
}

/// Reads a plain whole number.
///
/// # Errors
/// The reason, when the text is no such thing or lies outside of `range`.
pub fn count(text: &str, range: &RangeInclusive<u32>) -> Result<u32, String> {
    match split(text) {
        Some((number, "")) => within(u32::try_from(number).ok(), range, |count| count.to_string()),
        _ => Err(format!("is not a whole number from {} to {}", range.start(), range.end())),
    }
}

/// The duration in the form that [`duration`] reads, down to the millisecond.
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(millis, &DURATION_UNITS, "s")
}

/// The size in the form that [`size`] reads.
pub fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS, "B")
}

fn show(value: u64, units: &[(&str, u64)], unit_of_zero: &str) -> String {
    match units.iter().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => format!("0{unit_of_zero}"),
    }
}

/// The number at the front and what follows it; `None` when there is no number, or one too large to count.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// The value, where it lies in the range; `None` stands for one too large to count.
fn within<T: PartialOrd + Copy>(
    value: Option<T>,
    range: &RangeInclusive<T>,
    show: impl Fn(T) -> String,
) -> Result<T, String> {
    match value {
        Some(value) if value < *range.start() => {
            Err(format!("is too small: the least is {}", show(*range.start())))
        }
        Some(value) if value <= *range.end() => Ok(value),
        _ => Err(format!("is too large: the most is {}", show(*range.end()))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANY_DURATION: RangeInclusive<Duration> = Duration::ZERO..=Duration::MAX;
    const ANY_SIZE: RangeInclusive<u64> = 0..=u64::MAX;

    #[test]
    fn durations_mean_what_they_say() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("007s", 7_000),
        ] {
            assert_eq!(duration(text, &ANY_DURATION), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn sizes_mean_what_they_say() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64KiB", 65_536),
            ("10MB", 10_000_000),
            ("1GiB", 1 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(size(text, &ANY_SIZE), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in
            ["", "s", "30 s", "30 parsecs", "-1s", "+1s", "1.5h", "1h30m", "30S", "99999999999999999999s"]
        {
            assert_eq!(
                duration(text, &ANY_DURATION).unwrap_err(),
                "is not a duration; write for example 30s, 5m, 1h",
                "{text}"
            );
        }
        assert_eq!(duration("30", &ANY_DURATION).unwrap_err(), "has no unit; write for example 30s or 30m");
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "GiB", "1 GiB", "1gib", "1G", "-1", "0x10", "1.5GiB"] {
            assert_eq!(
                size(text, &ANY_SIZE).unwrap_err(),
                "is not a size; write for example 64KiB, 10MB, 1GiB",
                "{text}"
            );
        }
    }

    #[test]
    fn a_value_outside_of_its_range_is_refused_with_the_bound_and_never_clamped() {
        let range = Duration::from_secs(1)..=Duration::from_secs(3600);
        assert_eq!(duration("1s", &range), Ok(Duration::from_secs(1)));
        assert_eq!(duration("60m", &range), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("999ms", &range).unwrap_err(), "is too small: the least is 1s");
        assert_eq!(duration("3601s", &range).unwrap_err(), "is too large: the most is 1h");
        assert_eq!(duration("9999999999999999999d", &range).unwrap_err(), "is too large: the most is 1h");
        assert_eq!(
            size("18446744073709551615TiB", &(0..=1024)).unwrap_err(),
            "is too large: the most is 1KiB"
        );
        assert_eq!(count("0", &(1..=8)).unwrap_err(), "is too small: the least is 1");
        assert_eq!(count("4294967296", &(1..=8)).unwrap_err(), "is too large: the most is 8");
        assert_eq!(count("many", &(1..=8)).unwrap_err(), "is not a whole number from 1 to 8");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(value in any::<u64>(), shift in 0u32..64) {
            let value = value >> shift;
            prop_assert_eq!(size(&show_size(value), &ANY_SIZE), Ok(value));
            let duration_value = Duration::from_millis(value);
            prop_assert_eq!(duration(&show_duration(duration_value), &ANY_DURATION), Ok(duration_value));
        }

        #[test]
        fn no_text_is_a_panic(text in "\\PC{0,30}") {
            let _ = (duration(&text, &ANY_DURATION), size(&text, &ANY_SIZE), count(&text, &(0..=9)));
        }
    }
}
