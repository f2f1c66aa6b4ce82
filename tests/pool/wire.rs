//! HTTP/1.1 as bytes: a client that sends exactly what a test says and hides nothing of the answer.
//!
//! A client library would tidy targets (`..`, `%2e`), header names and broken bodies: the very things under test.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long any exchange may take before the test is called hung: several times the slowest honest one.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The longest head either side of these tests sends.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// One request, as it will be on the wire.
#[derive(Clone, Debug)]
pub struct Call {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

/// A response head.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    pub reason: String,
    pub headers: Vec<(String, String)>,
}

/// Whether a response body arrived as its framing promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Whole,
    CutShort,
}

/// One whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
    pub ended: Ended,
}

/// A connection that is read and written by hand.
pub struct Wire<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
}

// === impl Call ===

impl Call {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: None }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::with_body("POST", target, body)
    }

    pub fn with_body(method: &str, target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: Some(body.into()), ..Self::new(method, target) }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The request as sent: `Host` always, `Content-Length` where there is a body and no other framing is given.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: pool.test\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let framed = self.headers.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
        });
        if let Some(body) = self.body.as_ref().filter(|_| !framed) {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends the request on a connection of its own and reads the whole answer.
    pub async fn send(&self, to: SocketAddr) -> Result<Answer> {
        timeout(PATIENCE, self.exchange(to)).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    async fn exchange(&self, to: SocketAddr) -> Result<Answer> {
        let (read, mut write) = TcpStream::connect(to).await?.into_split();
        let bytes = self.to_bytes();
        // A server may answer before it has read everything: its answer counts, not our failed write.
        let sending = tokio::spawn(async move {
            let _ = write.write_all(&bytes).await;
            write
        });
        let mut body = Vec::new();
        let read = Wire::over(read).read_answer(&self.method, |bytes| body.extend_from_slice(bytes)).await;
        sending.abort();
        let (head, ended) = read?;
        Ok(Answer { head, body, ended })
    }
}

// === impl Head ===

impl Head {
    /// The value of a header, its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn parse(text: &str) -> Result<Self> {
        let malformed = || Error::new(ErrorKind::InvalidData, format!("not a response head: {text:?}"));
        let mut lines = text.split("\r\n");
        let mut status_line = lines.next().ok_or_else(malformed)?.splitn(3, ' ');
        let (_version, status) = (status_line.next(), status_line.next().ok_or_else(malformed)?);
        let headers = lines.filter_map(|line| line.split_once(':'));
        Ok(Self {
            status: status.parse().map_err(|_| malformed())?,
            reason: status_line.next().unwrap_or_default().into(),
            headers: headers.map(|(name, value)| (name.into(), value.trim().into())).collect(),
        })
    }
}

// === impl Answer ===

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, which it must be.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{} is no JSON ({error}): {}", self.status(), self.text()))
    }

    /// Asserts the status and gives back the JSON.
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status(), status, "{}", self.text());
        self.json()
    }
}

// === impl Wire ===

impl Wire<TcpStream> {
    pub async fn connect(to: SocketAddr) -> Result<Self> {
        Ok(Self::over(TcpStream::connect(to).await?))
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    pub fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Reads interim answers (1xx) away, then one answer; its body goes to `sink` piece by piece.
    pub async fn read_answer(&mut self, method: &str, sink: impl FnMut(&[u8])) -> Result<(Head, Ended)> {
        loop {
            let head = self.read_head().await?;
            if head.status >= 200 {
                let ended = self.read_body(&head, method, sink).await;
                return Ok((head, ended));
            }
        }
    }

    /// Reads one head, interim or final.
    pub async fn read_head(&mut self) -> Result<Head> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                return Head::parse(&text);
            }
            if self.buffer.len() > HEAD_BYTES_MAX || self.fill().await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads the body that `head` announces.
    pub async fn read_body(&mut self, head: &Head, method: &str, mut sink: impl FnMut(&[u8])) -> Ended {
        let chunked = head.header("transfer-encoding").is_some_and(|value| value.contains("chunked"));
        let length = head.header("content-length").and_then(|value| value.parse::<u64>().ok());
        let result = match length {
            _ if method == "HEAD" || matches!(head.status, 204 | 304) => Ok(()),
            _ if chunked => self.read_chunks(&mut sink).await,
            Some(length) => self.read_exactly(length, &mut sink).await,
            None => self.read_to_end(&mut sink).await,
        };
        result.map_or(Ended::CutShort, |()| Ended::Whole)
    }

    async fn read_exactly(&mut self, mut length: u64, sink: &mut impl FnMut(&[u8])) -> Result<()> {
        while length > 0 {
            if self.buffer.is_empty() && self.fill().await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let take = self.buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            sink(&self.buffer[..take]);
            self.buffer.drain(..take);
            length -= take as u64;
        }
        Ok(())
    }

    async fn read_chunks(&mut self, sink: &mut impl FnMut(&[u8])) -> Result<()> {
        loop {
            let line = self.read_line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| Error::from(ErrorKind::InvalidData))?;
            self.read_exactly(size, sink).await?;
            self.read_line().await?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    async fn read_line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if self.fill().await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn read_to_end(&mut self, sink: &mut impl FnMut(&[u8])) -> Result<()> {
        loop {
            sink(&self.buffer);
            self.buffer.clear();
            if self.fill().await? == 0 {
                return Ok(());
            }
        }
    }

    /// Everything that comes until the peer closes, as text.
    pub async fn read_all(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset is an end like any other.
        let _ = timeout(PATIENCE, self.read_to_end(&mut |piece| bytes.extend_from_slice(piece))).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn fill(&mut self) -> Result<usize> {
        let mut piece = vec![0; 64 * 1024];
        let read = self.stream.read(&mut piece).await?;
        self.buffer.extend_from_slice(&piece[..read]);
        Ok(read)
    }
}

/// Where `needle` first stands in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    // By its first byte, then compared: a window compare of a gigabyte takes minutes in this profile.
    while let Some(at) = hay[from..].iter().position(|byte| *byte == first) {
        if hay[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// SHA-256 of `bytes`, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
