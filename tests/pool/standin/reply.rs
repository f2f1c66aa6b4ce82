//! Writing an answer: `Content-Length` always, then bytes, perhaps fewer than promised.

use std::io::Result;
use std::ops::Range;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::request::RequestHead;
use super::{Content, Quirks};

const PIECE_BYTES: u64 = 256 * 1024;

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub content: Content,
    /// The part of `content` that is sent.
    pub range: Range<u64>,
}

/// What is left out of an answer.
#[derive(Clone, Copy)]
pub enum Cut {
    Nothing,
    /// The body, as `HEAD` wants it.
    Body,
    /// The body after so many bytes, though more are promised.
    After(u64),
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        Self::text(status, "application/json", body.to_string())
    }

    pub fn error(status: u16, message: &str) -> Self {
        Self::json(status, &json!({ "error": message }))
    }

    pub fn text(status: u16, content_type: &str, body: String) -> Self {
        Self::content(status, content_type, Content::Bytes(body.into_bytes()))
    }

    pub fn content(status: u16, content_type: &str, content: Content) -> Self {
        let headers = vec![("Content-Type".into(), content_type.into())];
        Self { status, headers, range: 0..content.len(), content }
    }

    /// Applies `If-None-Match` and a single `Range`, for a worker that knows them.
    pub fn conditional(mut self, head: &RequestHead, quirks: &Quirks) -> Self {
        if quirks.no_ranges || self.status != 200 {
            return self;
        }
        let etag = format!("\"{}\"", &self.content.sha256()[..16]);
        let total = self.content.len();
        self.headers.push(("ETag".into(), etag.clone()));
        self.headers.push(("Accept-Ranges".into(), "bytes".into()));
        if head.header("If-None-Match", quirks) == Some(etag.as_str()) {
            return Self { status: 304, range: 0..0, ..self };
        }
        let Some(range) = head.header("Range", quirks).and_then(|value| parse_range(value, total)) else {
            return self;
        };
        let shown = format!("bytes {}-{}/{total}", range.start, range.end.saturating_sub(1));
        self.headers.push(("Content-Range".into(), shown));
        Self { status: 206, range, ..self }
    }

    pub async fn write(
        &self,
        stream: &mut TcpStream,
        quirks: &Quirks,
        closing: bool,
        cut: Cut,
    ) -> Result<()> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status, quirks));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n", self.range.end - self.range.start));
        head.push_str("Access-Control-Allow-Origin: *\r\n");
        if closing {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        let end = match cut {
            Cut::Nothing => self.range.end,
            Cut::Body => self.range.start,
            Cut::After(bytes) => self.range.end.min(self.range.start + bytes),
        };
        let mut at = self.range.start;
        while at < end {
            let next = end.min(at + PIECE_BYTES);
            stream.write_all(&self.content.slice(at..next)).await?;
            at = next;
        }
        stream.flush().await
    }
}

fn parse_range(value: &str, total: u64) -> Option<Range<u64>> {
    let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
    match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) => Some(from..(to + 1).min(total)),
        (Ok(from), Err(_)) => Some(from..total),
        (Err(_), Ok(last)) => Some(total.saturating_sub(last)..total),
        (Err(_), Err(_)) => None,
    }
    .filter(|range| range.start < range.end)
}

fn reason(status: u16, quirks: &Quirks) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        500 => "Internal Server Error",
        _ if quirks.unknown_status_text => "Unknown",
        206 => "Partial Content",
        304 => "Not Modified",
        403 => "Forbidden",
        413 => "Payload Too Large",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Other",
    }
}
