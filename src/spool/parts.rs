//! A multipart body as a sequence of parts, read while it streams.
//!
//! `multer` by itself takes everything that its source has ready, whatever the parser needs, and keeps preambles and part
//! headers of any length. So it is not given the source but one chunk at a time, and only when it cannot go on without: then
//! memory is bounded by a chunk, and the source's own errors never pass through it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use multer::{Field, Multipart};

use super::UploadError;

/// Most bytes that may come, beyond the chunk that brings them, before the next part's header is complete.
const PART_HEAD_BYTES_MAX: u64 = 16 << 10;

/// Longest boundary in characters, by RFC 2046.
const BOUNDARY_CHARS_MAX: usize = 70;

/// The head of a part.
pub struct Part {
    /// The field's name; empty when it has none.
    pub name: String,
    pub file_name: Option<String>,
}

/// The parts of a body that comes from `S`.
pub struct Parts<S> {
    body: Body<S>,
    multipart: Multipart<'static>,
    field: Option<Field<'static>>,
}

/// The boundary that a `Content-Type` names.
pub fn boundary<E>(content_type: &str) -> Result<String, UploadError<E>> {
    let boundary = multer::parse_boundary(content_type).ok();
    boundary.filter(|text| (1..=BOUNDARY_CHARS_MAX).contains(&text.len())).ok_or_else(|| {
        let right = "multipart/form-data with a boundary of 1 to";
        UploadError::bad("Content-Type", format!("must be {right} {BOUNDARY_CHARS_MAX} characters"))
    })
}

impl<S, E> Parts<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    pub fn new(source: S, content_type: &str, body_bytes_max: u64) -> Result<Self, UploadError<E>> {
        let boundary = boundary(content_type)?;
        let body = Body { source, bytes: 0, bytes_max: body_bytes_max, slot: Slot::default() };
        let multipart = Multipart::new(body.slot.clone(), boundary);
        Ok(Self { body, multipart, field: None })
    }

    /// Goes on to the next part. The content of the one before must have been read.
    pub async fn next(&mut self) -> Result<Option<Part>, UploadError<E>> {
        self.field = None;
        let before = self.body.bytes;
        loop {
            if let Some(field) = self.multipart.next_field().now_or_never() {
                self.field = field.map_err(malformed)?;
                return Ok(self.field.as_ref().map(|field| Part {
                    name: field.name().unwrap_or_default().to_owned(),
                    file_name: field.file_name().map(str::to_owned),
                }));
            }
            if self.body.bytes - before > PART_HEAD_BYTES_MAX {
                return Err(UploadError::TooLarge {
                    field: "part header".into(),
                    limit: PART_HEAD_BYTES_MAX,
                });
            }
            self.body.feed().await?;
        }
    }

    /// More of the current part's content; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UploadError<E>> {
        let Some(field) = &mut self.field else { return Ok(None) };
        loop {
            if let Some(chunk) = field.chunk().now_or_never() {
                return chunk.map_err(malformed);
            }
            self.body.feed().await?;
        }
    }

    /// Reads what follows the closing boundary, so that the connection can be used again.
    pub async fn drain(mut self) -> Result<(), UploadError<E>> {
        while self.body.next().await?.is_some() {}
        Ok(())
    }
}

fn malformed<E>(cause: multer::Error) -> UploadError<E> {
    UploadError::bad("body", format!("is no whole multipart/form-data: {cause}"))
}

/// The source, counted, and the slot that it goes through to the parser.
struct Body<S> {
    source: S,
    bytes: u64,
    bytes_max: u64,
    slot: Slot,
}

impl<S, E> Body<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    async fn next(&mut self) -> Result<Option<Bytes>, UploadError<E>> {
        let Some(chunk) = self.source.next().await else { return Ok(None) };
        let chunk = chunk.map_err(UploadError::Body)?;
        self.bytes += chunk.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(UploadError::TooLarge { field: "body".into(), limit: self.bytes_max });
        }
        Ok(Some(chunk))
    }

    /// Gives the parser another chunk, or the end.
    async fn feed(&mut self) -> Result<(), UploadError<E>> {
        // A parser that knows of the end and still asks for more would ask for ever.
        if self.slot.lock().is_ended {
            return Err(malformed(multer::Error::IncompleteStream));
        }
        match self.next().await? {
            Some(chunk) => self.slot.lock().chunk = Some(chunk),
            None => self.slot.lock().is_ended = true,
        }
        Ok(())
    }
}

/// What the parser takes for its source. It never wakes anybody: who fills it polls the parser again.
#[derive(Clone, Default)]
struct Slot(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    chunk: Option<Bytes>,
    is_ended: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().expect("nothing panics while it holds the slot")
    }
}

impl Stream for Slot {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut content = self.lock();
        match content.chunk.take() {
            Some(chunk) => Poll::Ready(Some(Ok(chunk))),
            None if content.is_ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
