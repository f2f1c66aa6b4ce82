//! Reads a worker's `/logs` answer while it streams: what does not fit in the bound is counted out, never held.
//!
//! The answer is one JSON object with the strings `stdout` and `stderr`, each as long as the job's output. A JSON library would hold them
//! whole before they could be cut.

use std::fmt;

use crate::store::{Logs, Truncation};

/// Longest key that is told from others; no key of the protocol comes near it.
const KEY_BYTES_MAX: usize = 32;

/// How deep values of other keys may be nested.
const DEPTH_MAX: u32 = 64;

/// Takes in the bytes of a `/logs` answer.
#[derive(Debug)]
pub struct LogScanner {
    bytes_max: usize,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncation: Truncation,
    at: At,
    /// The key that is being read, or whose value is.
    key: Vec<u8>,
    escape: Escape,
    /// The first half of a character that JSON writes as two escapes.
    high_surrogate: Option<u16>,
    /// The first bytes of a value that is no string.
    other: Vec<u8>,
}

/// Where in the object the scanner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    BeforeKey,
    Key,
    AfterKey,
    BeforeValue,
    Text,
    /// A value that is not a string, at this depth of brackets.
    Other(u32),
    /// A string inside of such a value.
    OtherText(u32),
    AfterValue,
    End,
}

/// How far an escape in a string is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    Unicode { digits: u8, value: u16 },
}

/// The bytes are no `/logs` answer.
#[derive(Debug, PartialEq, Eq)]
pub struct NotLogs;

impl fmt::Display for NotLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its /logs is not one whole JSON object")
    }
}

impl std::error::Error for NotLogs {}

impl LogScanner {
    /// Keeps `bytes_max` bytes of each stream.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            stdout: Vec::new(),
            stderr: Vec::new(),
            truncation: Truncation::Whole,
            at: At::Start,
            key: Vec::new(),
            escape: Escape::None,
            high_surrogate: None,
            other: Vec::new(),
        }
    }

    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotLogs> {
        bytes.iter().try_for_each(|byte| self.step(*byte))
    }

    pub fn finish(self) -> Result<Logs, NotLogs> {
        if self.at != At::End {
            return Err(NotLogs);
        }
        let text = |bytes: Vec<u8>| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        Ok(Logs { stdout: text(self.stdout), stderr: text(self.stderr), truncation: self.truncation })
    }

    fn step(&mut self, byte: u8) -> Result<(), NotLogs> {
        let space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        self.at = match (self.at, byte) {
            (At::Key | At::Text | At::OtherText(_), byte) => return self.step_in_text(byte),
            (At::Other(depth), byte) => return self.step_in_other(depth, byte),
            (at, _) if space => at,
            (At::Start, b'{') => At::BeforeKey,
            (At::BeforeKey, b'"') => {
                self.key.clear();
                At::Key
            }
            (At::BeforeKey | At::AfterValue, b'}') => At::End,
            (At::AfterKey, b':') => At::BeforeValue,
            (At::BeforeValue, b'"') => At::Text,
            (At::BeforeValue, b'{' | b'[') => At::Other(1),
            (At::BeforeValue, byte) => {
                self.other = vec![byte];
                At::Other(0)
            }
            (At::AfterValue, b',') => At::BeforeKey,
            (At::Start | At::BeforeKey | At::AfterKey | At::AfterValue | At::End, _) => return Err(NotLogs),
        };
        Ok(())
    }

    /// A value of no interest: only its end matters.
    fn step_in_other(&mut self, depth: u32, byte: u8) -> Result<(), NotLogs> {
        if self.other.len() < KEY_BYTES_MAX {
            self.other.push(byte);
        }
        // The worker itself has cut a stream.
        if self.other == b"true"
            && matches!(self.key.as_slice(), b"stdout_truncated" | b"stderr_truncated" | b"truncated")
        {
            self.truncation = Truncation::Cut;
        }
        self.at = match (depth, byte) {
            (0, b',') => At::BeforeKey,
            (0, b'}') => At::End,
            (_, b'"') => At::OtherText(depth),
            (DEPTH_MAX, b'{' | b'[') => return Err(NotLogs),
            (depth, b'{' | b'[') => At::Other(depth + 1),
            (0, b']') => return Err(NotLogs),
            (1, b'}' | b']') => At::AfterValue,
            (depth, b'}' | b']') => At::Other(depth - 1),
            (depth, _) => At::Other(depth),
        };
        Ok(())
    }

    fn step_in_text(&mut self, byte: u8) -> Result<(), NotLogs> {
        match (self.escape, byte) {
            (Escape::None, b'\\') => self.escape = Escape::Begun,
            (Escape::None, b'"') => {
                self.end_surrogate();
                self.at = match self.at {
                    At::Key => At::AfterKey,
                    At::OtherText(depth) => At::Other(depth),
                    _ => At::AfterValue,
                };
            }
            (Escape::None, byte) => {
                self.end_surrogate();
                self.keep(&[byte]);
            }
            (Escape::Begun, b'u') => self.escape = Escape::Unicode { digits: 0, value: 0 },
            (Escape::Begun, byte) => {
                self.escape = Escape::None;
                self.end_surrogate();
                self.keep(&[unescaped(byte).ok_or(NotLogs)?]);
            }
            (Escape::Unicode { digits, value }, byte) => {
                let digit = char::from(byte).to_digit(16).ok_or(NotLogs)?;
                let value = value << 4 | u16::try_from(digit).expect("a hexadecimal digit is below 16");
                self.escape = Escape::Unicode { digits: digits + 1, value };
                if digits == 3 {
                    self.escape = Escape::None;
                    self.code_unit(value);
                }
            }
        }
        Ok(())
    }

    /// One `\uXXXX`: a character, or half of one.
    fn code_unit(&mut self, unit: u16) {
        if let 0xDC00..=0xDFFF = unit
            && let Some(high) = self.high_surrogate.take()
        {
            return self.keep_char(char::decode_utf16([high, unit]).next().and_then(Result::ok));
        }
        self.end_surrogate();
        match unit {
            0xD800..=0xDBFF => self.high_surrogate = Some(unit),
            unit => self.keep_char(char::from_u32(u32::from(unit))),
        }
    }

    /// A first half whose second does not follow is no character.
    fn end_surrogate(&mut self) {
        if self.high_surrogate.take().is_some() {
            self.keep_char(None);
        }
    }

    fn keep_char(&mut self, character: Option<char>) {
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        let mut buffer = [0; 4];
        let text = character.encode_utf8(&mut buffer).len();
        self.keep(&buffer[..text]);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let target = match (self.at, self.key.as_slice()) {
            (At::Key, _) => {
                if self.key.len() < KEY_BYTES_MAX {
                    self.key.extend_from_slice(bytes);
                }
                return;
            }
            (At::Text, b"stdout") => &mut self.stdout,
            (At::Text, b"stderr") => &mut self.stderr,
            _ => return,
        };
        // As far as there is room: a shorter character behind one that is left out would stand in its place.
        let kept = bytes.len().min(self.bytes_max - target.len());
        target.extend_from_slice(&bytes[..kept]);
        if kept < bytes.len() {
            self.truncation = Truncation::Cut;
        }
    }
}

fn unescaped(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\\' | b'/' => byte,
        b'b' => 0x08,
        b'f' => 0x0C,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn scan(text: &str, bytes_max: usize) -> Result<Logs, NotLogs> {
        let mut scanner = LogScanner::new(bytes_max);
        // One byte at a time: the answer comes in any pieces.
        text.bytes().try_for_each(|byte| scanner.push(&[byte]))?;
        scanner.finish()
    }

    proptest! {
        #[test]
        fn logs_read_as_a_json_library_reads_them(stdout in any::<String>(), stderr in any::<String>()) {
            let text = json!({"x": [{"stdout": "no"}, "}"], "stdout": stdout, "n": 1.5, "stderr": stderr, "z": null}).to_string();
            let logs = scan(&text, usize::MAX / 2).unwrap();
            prop_assert_eq!((logs.stdout, logs.stderr, logs.truncation), (stdout, stderr, Truncation::Whole));
        }

        #[test]
        fn no_input_panics(text in ".{0,80}") {
            let _ = scan(&text, 10);
            let _ = scan(&format!("{{\"stdout\":\"{text}"), 10);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_said_to_be() {
        let logs = scan(r#"{"stdout":"0123456789","stderr":"ok"}"#, 4).unwrap();
        assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("0123", "ok"));
        assert_eq!(logs.truncation, Truncation::Cut);
    }

    #[test]
    fn nothing_is_kept_behind_a_character_that_has_no_room() {
        for text in [r#"{"stdout":"abcéx"}"#, r#"{"stdout":"abc\u00e9x"}"#] {
            let logs = scan(text, 4).unwrap();
            assert_eq!((logs.stdout.as_str(), logs.truncation), ("abc\u{fffd}", Truncation::Cut), "{text}");
        }
    }

    #[test]
    fn what_the_worker_has_cut_is_said_to_be() {
        let truncation = |text: &str| scan(text, 10).unwrap().truncation;
        assert_eq!(truncation(r#"{"stdout":"","stdout_truncated":true,"stderr":""}"#), Truncation::Cut);
        assert_eq!(truncation(r#"{"stdout":"","stdout_truncated":false,"other":true}"#), Truncation::Whole);
    }

    #[test]
    fn escapes_of_every_kind_are_understood() {
        let logs = scan(r#"{"stdout":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud83dx"}"#, 100).unwrap();
        assert_eq!(logs.stdout, "a\"\\/\u{8}\u{c}\n\r\té😀\u{fffd}x");
    }

    #[test]
    fn a_part_of_an_answer_is_no_answer() {
        for broken in ["", "{", r#"{"stdout":"a"#, r#"{"stdout":"a""#, "[]", r#"{"stdout":"\x"}"#, r#"{} {}"#]
        {
            assert_eq!(scan(broken, 10).map(|_| ()), Err(NotLogs), "{broken}");
        }
    }
}
