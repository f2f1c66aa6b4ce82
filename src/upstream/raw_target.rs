//! A request line with a target that no HTTP library will write.
//!
//! A sandrun worker takes the bytes of the request target as they stand: a file `a b.txt` is found only by a raw space, `100%.txt` only by a raw
//! percent sign. HTTP libraries rightly refuse to send such a target, so the request is written with a harmless one and
//! [`RawTarget`] puts the raw one in its place in the first line that goes out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A request line longer than this was not written by us.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A stream whose first written line has its request target replaced.
#[derive(Debug)]
pub struct RawTarget<S> {
    inner: S,
    target: Vec<u8>,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// The line is not complete; what of it was written so far.
    Reading(Vec<u8>),
    /// The replaced line, and how much of it is out.
    Writing {
        line: Vec<u8>,
        written: usize,
    },
    Done,
}

impl<S> RawTarget<S> {
    /// Sends `target` in place of the target of the first request line. It must hold no CR and no LF.
    pub fn new(inner: S, target: Vec<u8>) -> io::Result<Self> {
        if target.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a request target cannot hold a line end",
            ));
        }
        Ok(Self { inner, target, progress: Progress::Reading(Vec::new()) })
    }

    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

/// `GET /harmless HTTP/1.1` with `target` in the middle.
fn replaced(line: &[u8], target: &[u8]) -> io::Result<Vec<u8>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not a request line");
    let method_end = line.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
    let version_start = line.iter().rposition(|byte| *byte == b' ').ok_or_else(malformed)?;
    Ok([&line[..=method_end], target, &line[version_start..]].concat())
}

impl<S: AsyncWrite + Unpin> RawTarget<S> {
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Progress::Writing { line, written } = &mut self.progress {
            if *written == line.len() {
                self.progress = Progress::Done;
                break;
            }
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &line[*written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += count;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RawTarget<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Progress::Reading(line) = &mut this.progress {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(bytes.len(), |end| end + 1);
            line.extend_from_slice(&bytes[..taken]);
            if line.len() > LINE_BYTES_MAX {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the request line has no end",
                )));
            }
            if end.is_some() {
                this.progress = Progress::Writing { line: replaced(line, &this.target)?, written: 0 };
                // What could not go out now goes with the next write or flush.
                if let Poll::Ready(Err(error)) = this.poll_line(cx) {
                    return Poll::Ready(Err(error));
                }
            }
            return Poll::Ready(Ok(taken));
        }
        ready!(this.poll_line(cx))?;
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_line(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_line(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RawTarget<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn only_the_target_of_the_first_line_changes_however_it_is_written() {
        let request = b"GET /x HTTP/1.1\r\nHost: w\r\n\r\nGET /y HTTP/1.1\r\n";
        for cut in 0..request.len() {
            // A pipe of 8 bytes, so that the line goes out in pieces.
            let (near, mut far) = duplex(8);
            let writer = tokio::spawn(async move {
                let mut stream = RawTarget::new(near, b"/download/j/a b%.txt".to_vec()).unwrap();
                stream.write_all(&request[..cut]).await.unwrap();
                stream.write_all(&request[cut..]).await.unwrap();
                stream.flush().await.unwrap();
            });
            let mut got = Vec::new();
            far.read_to_end(&mut got).await.unwrap();
            writer.await.unwrap();
            let wanted = b"GET /download/j/a b%.txt HTTP/1.1\r\nHost: w\r\n\r\nGET /y HTTP/1.1\r\n";
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(wanted), "cut at {cut}");
        }
    }

    #[test]
    fn a_target_with_a_line_end_is_refused() {
        assert!(RawTarget::new(tokio::io::empty(), b"/a\r\nHost: b".to_vec()).is_err());
    }
}
