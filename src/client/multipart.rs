//! The body of a submit: files streamed from disk, never whole in memory, with their length known beforehand.

use std::io::{self, SeekFrom};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, RequestBuilder};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::job::Priority;

/// One file of an upload.
pub struct Part {
    name: String,
    file: std::fs::File,
    bytes: u64,
}

/// What a submit sends.
pub struct Upload {
    pub files: Vec<Part>,
    /// JSON.
    pub manifest: String,
    pub priority: Option<Priority>,
    pub idempotency_key: Option<String>,
    /// Told of each piece that goes out, in bytes.
    pub progress: Box<dyn Fn(u64) + Send + Sync>,
}

/// Bytes read from a file at a time: large enough for line speed, small enough for many at once.
const PIECE_BYTES: usize = 256 * 1024;

impl Part {
    /// The whole of an open file, under this name.
    pub fn new(name: String, file: std::fs::File) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Self { name, file, bytes })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Either some text between the files, or a file.
enum Segment {
    Text(Bytes),
    File(std::fs::File, u64),
}

impl Upload {
    pub(super) fn into_request(self, request: RequestBuilder) -> RequestBuilder {
        let Self { files, manifest, priority, idempotency_key, progress } = self;
        let boundary = format!("trusted-pool-{:032x}", rand::random::<u128>());
        let segments = segments(files, &manifest, priority, &boundary);
        let length: u64 = segments.iter().map(Segment::bytes).sum();
        let body = stream::iter(segments).flat_map(Segment::into_stream).inspect(move |piece| {
            if let Ok(piece) = piece {
                progress(piece.len() as u64);
            }
        });
        let mut request = request
            .header(CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
            .header(CONTENT_LENGTH, length)
            .body(Body::wrap_stream(body));
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        request
    }
}

fn segments(files: Vec<Part>, manifest: &str, priority: Option<Priority>, boundary: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    if let Some(priority) = priority {
        // Not the header of that name: HTTP gives it a meaning of its own.
        segments.push(Segment::text(format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"priority\"\r\n\r\n{priority}\r\n"
        )));
    }
    for Part { name, file, bytes } in files {
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"files\"; filename=\"{}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            escaped(&name)
        );
        segments.extend([Segment::text(head), Segment::File(file, bytes), Segment::text("\r\n".to_owned())]);
    }
    segments.push(Segment::text(format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"manifest\"\r\n\
         Content-Type: application/json\r\n\r\n{manifest}\r\n--{boundary}--\r\n"
    )));
    segments
}

/// As browsers write a file name in a form.
fn escaped(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

impl Segment {
    fn text(text: String) -> Self {
        Self::Text(Bytes::from(text))
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File(_, bytes) => *bytes,
        }
    }

    fn into_stream(self) -> BoxStream<'static, io::Result<Bytes>> {
        match self {
            Self::Text(text) => stream::once(async { Ok(text) }).boxed(),
            Self::File(file, bytes) => stream::once(async move {
                let mut file = tokio::fs::File::from_std(file);
                file.seek(SeekFrom::Start(0)).await?;
                // A file that grows meanwhile must not run over its length; one that shrinks breaks the request off.
                io::Result::Ok(ReaderStream::with_capacity(file.take(bytes), PIECE_BYTES))
            })
            .flat_map(|opened| match opened {
                Ok(pieces) => pieces.boxed(),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            })
            .boxed(),
        }
    }
}
