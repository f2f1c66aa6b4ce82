//! Reading a request as the deployed worker reads it.

use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom, Write};

use sha2::{Digest, Sha256};
use tempfile::SpooledTempFile;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::Quirks;
use crate::wire::{find, hex};

/// Bodies larger than this wait in a file: the tests' own memory is not what they measure.
const BODY_IN_MEMORY_BYTES: usize = 4 * 1024 * 1024;
const HEAD_BYTES_MAX: usize = 256 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// A request head, raw.
#[derive(Clone, Debug)]
pub struct RequestHead {
    pub method: String,
    /// Everything between the first and the last space of the request line: a raw space in a name is found.
    pub target: String,
    /// The header lines as they came.
    pub lines: Vec<String>,
}

/// A request body, hashed as it came.
pub struct Body {
    pub bytes: u64,
    pub sha256: String,
    pub file: SpooledTempFile,
}

/// Why a body is not there.
pub enum NoBody {
    TooLarge,
    Broken,
}

// === impl RequestHead ===

impl RequestHead {
    /// The value of a header: by its exact name under the quirk, else by its name in any case.
    pub fn header(&self, name: &str, quirks: &Quirks) -> Option<&str> {
        self.lines.iter().filter_map(|line| line.split_once(':')).find_map(|(found, value)| {
            let same =
                if quirks.case_sensitive_headers { found == name } else { found.eq_ignore_ascii_case(name) };
            same.then(|| value.trim())
        })
    }

    /// The first segment of the path, with its slash: what tells one endpoint from another.
    pub fn endpoint(&self) -> String {
        let rest = self.target.trim_start_matches('/');
        format!("/{}", rest.split(['/', '?']).next().unwrap_or_default())
    }

    fn parse(text: &str, quirks: &Quirks) -> Result<Self> {
        let broken = |what| Err(Error::new(ErrorKind::InvalidData, what));
        let mut lines = text.split("\r\n").map(str::to_owned);
        let line = lines.next().unwrap_or_default();
        let (Some(first), Some(last)) = (line.find(' '), line.rfind(' ')) else {
            return broken("no request line");
        };
        let lines: Vec<String> = lines.collect();
        let empty = |line: &String| line.split_once(':').is_some_and(|(_, value)| value.trim().is_empty());
        if quirks.crashes_on_empty_header && lines.iter().any(empty) {
            return broken("a header without a value");
        }
        let target = if first < last { line[first + 1..last].to_owned() } else { String::new() };
        Ok(Self { method: line[..first].to_owned(), target, lines })
    }
}

/// Reads a head; `buffer` keeps what came after it. `None`: the client closed between two requests.
pub async fn read_head(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    quirks: &Quirks,
) -> Result<Option<RequestHead>> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let head = RequestHead::parse(&String::from_utf8_lossy(&buffer[..end]), quirks)?;
            buffer.drain(..end + 4);
            return Ok(Some(head));
        }
        if buffer.len() > HEAD_BYTES_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
        if fill(stream, buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
    }
}

/// Reads the body of `head`, which begins with what is in `buffer`.
pub async fn read_body(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    head: &RequestHead,
    quirks: &Quirks,
) -> std::result::Result<Body, NoBody> {
    let length = head.header("Content-Length", quirks).and_then(|value| value.parse::<u64>().ok());
    if length.zip(quirks.body_bytes_max).is_some_and(|(length, max)| length > max) {
        return Err(NoBody::TooLarge);
    }
    let mut body = Collecting::default();
    let chunked = !quirks.chunked_not_understood && head.header("Transfer-Encoding", quirks).is_some();
    let read = match length {
        Some(length) => body.exactly(stream, buffer, length).await,
        None if chunked => body.chunks(stream, buffer).await,
        // What came with the first read, and no more.
        None => {
            let all = buffer.len() as u64;
            body.exactly(stream, buffer, all).await
        }
    };
    read.and_then(|()| body.finish()).map_err(|_: Error| NoBody::Broken)
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<usize> {
    let mut piece = vec![0; READ_BYTES];
    let read = stream.read(&mut piece).await?;
    buffer.extend_from_slice(&piece[..read]);
    Ok(read)
}

struct Collecting {
    file: SpooledTempFile,
    hash: Sha256,
    bytes: u64,
}

impl Default for Collecting {
    fn default() -> Self {
        Self { file: SpooledTempFile::new(BODY_IN_MEMORY_BYTES), hash: Sha256::new(), bytes: 0 }
    }
}

impl Collecting {
    async fn exactly(&mut self, stream: &mut TcpStream, buffer: &mut Vec<u8>, mut length: u64) -> Result<()> {
        while length > 0 {
            if buffer.is_empty() && fill(stream, buffer).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let take = buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            self.file.write_all(&buffer[..take])?;
            self.hash.update(&buffer[..take]);
            buffer.drain(..take);
            self.bytes += take as u64;
            length -= take as u64;
        }
        Ok(())
    }

    async fn chunks(&mut self, stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<()> {
        loop {
            let line = line(stream, buffer).await?;
            let size =
                u64::from_str_radix(line.trim(), 16).map_err(|_| Error::from(ErrorKind::InvalidData))?;
            self.exactly(stream, buffer, size).await?;
            self::line(stream, buffer).await?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn finish(self) -> Result<Body> {
        Ok(Body { bytes: self.bytes, sha256: hex(&self.hash.finalize()), file: self.file })
    }
}

async fn line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<String> {
    loop {
        if let Some(end) = find(buffer, b"\r\n") {
            let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 2);
            return Ok(line);
        }
        if fill(stream, buffer).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

// === impl Body ===

impl Body {
    /// Where `needle` stands in the body, in order.
    pub fn find_all(&mut self, needle: &[u8]) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        let (mut window, mut start) = (Vec::new(), 0_u64);
        self.file.seek(SeekFrom::Start(0))?;
        loop {
            let kept = window.len();
            window.resize(kept + 1024 * 1024, 0);
            let read = self.file.read(&mut window[kept..])?;
            window.truncate(kept + read);
            let mut from = 0;
            while let Some(at) = find(&window[from..], needle) {
                found.push(start + (from + at) as u64);
                from += at + needle.len();
            }
            if read == 0 {
                return Ok(found);
            }
            // Keep a tail that may hold the beginning of a match, but nothing that has matched.
            let drop = from.max(window.len().saturating_sub(needle.len() - 1));
            window.drain(..drop);
            start += drop as u64;
        }
    }

    /// Hands `range` of the body to `sink` in pieces.
    pub fn read_range(&mut self, range: std::ops::Range<u64>, mut sink: impl FnMut(&[u8])) -> Result<()> {
        self.file.seek(SeekFrom::Start(range.start))?;
        let mut left = range.end.saturating_sub(range.start);
        let mut piece = vec![0; READ_BYTES];
        while left > 0 {
            let want = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.file.read_exact(&mut piece[..want])?;
            sink(&piece[..want]);
            left -= want as u64;
        }
        Ok(())
    }
}
