//! A job's live log as server-sent events: what a worker, the pool and our client say to each other.
//!
//! ```text
//! event: status            id: 6-0                id: 6-0
//! data: "running"          event: stdout          event: end
//!                          data: "first\n"        data: "completed"
//! ```
//! Each event's data is a JSON string, so that a line break in a log is none in an event. The id is how many bytes of each
//! stream have been told with that event; a client that comes back says it in `Last-Event-ID` and goes on there.

use std::fmt;
use std::str::FromStr;

/// The media type of server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// What keeps a silent connection from looking dead: a comment, which clients pass over.
pub const KEEP_ALIVE: &str = ":\n\n";

/// Bytes of a single event that a reader takes: a log's piece with everything in it escaped.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// The two streams of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How much of a job's log has been told, in bytes of each stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub stdout: u64,
    pub stderr: u64,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// The job has moved on to the status of this name.
    Status(String),
    /// A piece of a stream; the position is the one behind it.
    Text { stream: LogStream, text: String, position: Position },
    /// There is nothing more: the job has ended with this status.
    End { status: String, position: Position },
}

/// An event that is none of ours.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable(String);

/// A text that is no position.
#[derive(Debug, PartialEq, Eq)]
pub struct NoPosition;

/// Reads events from bytes as they arrive.
#[derive(Debug, Default)]
pub struct EventReader {
    bytes: Vec<u8>,
}

/// How many of these bytes can be told as text without cutting a character whose rest is still to come.
#[must_use]
pub fn whole_characters(content: &[u8]) -> usize {
    for cut in 1..=content.len().min(3) {
        let lead = content[content.len() - cut];
        let width = match lead {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        return if width > cut { content.len() - cut } else { content.len() };
    }
    content.len()
}

// === impl LogStream ===

impl LogStream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

// === impl Position ===

impl Position {
    /// How much of one stream has been told.
    #[must_use]
    pub fn of(self, stream: LogStream) -> u64 {
        match stream {
            LogStream::Stdout => self.stdout,
            LogStream::Stderr => self.stderr,
        }
    }

    /// The position when so many bytes more of a stream have been told.
    #[must_use]
    pub fn after(mut self, stream: LogStream, bytes: usize) -> Self {
        let told = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        *told = told.saturating_add(bytes as u64);
        self
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stdout, self.stderr)
    }
}

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (stdout, stderr) = text.trim().split_once('-').ok_or(NoPosition)?;
        let bytes = |text: &str| text.parse().map_err(|_| NoPosition);
        Ok(Self { stdout: bytes(stdout)?, stderr: bytes(stderr)? })
    }
}

impl fmt::Display for NoPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Last-Event-ID is the id of an event of this log: <bytes of stdout>-<bytes of stderr>")
    }
}

impl std::error::Error for NoPosition {}

// === impl LogEvent ===

impl fmt::Display for LogEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, name, data) = match self {
            Self::Status(status) => (None, "status", status),
            Self::Text { stream, text, position } => (Some(position), stream.name(), text),
            Self::End { status, position } => (Some(position), "end", status),
        };
        if let Some(position) = position {
            writeln!(f, "id: {position}")?;
        }
        write!(f, "event: {name}\ndata: {}\n\n", serde_json::Value::from(data.as_str()))
    }
}

// === impl EventReader ===

impl EventReader {
    /// Takes in what has arrived.
    ///
    /// # Errors
    /// When there is no end to an event.
    pub fn take_in(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > EVENT_BYTES_MAX && !self.bytes.windows(2).any(|two| two == b"\n\n") {
            return Err(Unreadable("it has no end".to_owned()));
        }
        Ok(())
    }

    /// The next event that has arrived whole.
    ///
    /// # Errors
    /// When it is not of this protocol.
    pub fn next_event(&mut self) -> Result<Option<LogEvent>, Unreadable> {
        while let Some(end) = self.bytes.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = self.bytes.drain(..end + 2).collect();
            if let Some(event) = read(&String::from_utf8_lossy(&event))? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

/// Reads one event; none where there are only comments, or what a newer worker may say beside the log.
fn read(text: &str) -> Result<Option<LogEvent>, Unreadable> {
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let Some(name) = field("event") else { return Ok(None) };
    let data = || {
        let data = field("data").unwrap_or_default();
        serde_json::from_str::<String>(data).map_err(|error| Unreadable(format!("its data: {error}")))
    };
    let position = || {
        let id = field("id").unwrap_or_default();
        id.parse().map_err(|NoPosition| Unreadable(format!("its id is {id:?}")))
    };
    let text_of = |stream| Ok(Some(LogEvent::Text { stream, text: data()?, position: position()? }));
    match name {
        "status" => Ok(Some(LogEvent::Status(data()?))),
        "stdout" => text_of(LogStream::Stdout),
        "stderr" => text_of(LogStream::Stderr),
        "end" => Ok(Some(LogEvent::End { status: data()?, position: position()? })),
        _ => Ok(None),
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an event of the live log cannot be read: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn events_read_back_however_they_are_cut(text in "[\\x00-\\x7f\u{80}-\u{2ff}🦀]{0,40}", cut in 1..9_usize) {
            let position = Position { stdout: 7, stderr: u64::MAX };
            let events = [
                LogEvent::Status("running".to_owned()),
                LogEvent::Text { stream: LogStream::Stdout, text: text.clone(), position },
                LogEvent::Text { stream: LogStream::Stderr, text, position },
                LogEvent::End { status: "failed".to_owned(), position },
            ];
            let sent = events.iter().fold(KEEP_ALIVE.to_owned(), |sent, event| format!("{sent}{event}{KEEP_ALIVE}"));
            let mut reader = EventReader::default();
            let mut read = Vec::new();
            for bytes in sent.as_bytes().chunks(cut) {
                reader.take_in(bytes).unwrap();
                while let Some(event) = reader.next_event().unwrap() {
                    read.push(event);
                }
            }
            prop_assert_eq!(read, events);
        }
    }

    #[test]
    fn characters_are_not_cut() {
        for (bytes, whole) in [
            (&b""[..], 0),
            (b"abc", 3),
            ("aé".as_bytes(), 3),
            (&"aé".as_bytes()[..2], 1),
            (&"a\u{1F980}".as_bytes()[..4], 1),
            (b"a\xff", 2),
            (b"a\x80\x80\x80\x80", 5),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_event_of_a_log_is_refused() {
        for text in ["", "-", "1", "1-x", "-1-2", "1-2-3"] {
            assert_eq!(text.parse::<Position>(), Err(NoPosition), "{text}");
        }
        let mut reader = EventReader::default();
        reader.take_in(b"event: stdout\ndata: \"x\"\n\n").unwrap();
        assert!(reader.next_event().is_err());
        assert!(reader.take_in(&vec![b'x'; EVENT_BYTES_MAX + 1]).is_err());
    }
}
