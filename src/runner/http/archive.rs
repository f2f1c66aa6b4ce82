//! `GET /download/{id}`: the whole work directory as one `.tar.gz`, made while it is sent.

use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderName, Method, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::mpsc;

use super::find;
use crate::runner::refusal::Refusal;
use crate::runner::workdir::{OpenError, WorkDir};
use crate::runner::worker::Worker;

/// Bytes of each piece that is sent.
const CHUNK_BYTES: usize = 64 * 1024;

/// Pieces that may wait for a slow client.
const CHUNKS_WAITING_MAX: usize = 4;

/// Mode of the files in the archive.
const FILE_MODE: u32 = 0o644;

/// A piece of the body, or what broke it off.
type Piece = io::Result<Bytes>;

/// Answers with the archive. Unlike the sandrun worker's, it leaves the job in place.
pub(super) async fn download(
    State(worker): State<Arc<Worker>>,
    Path(id): Path<String>,
    method: Method,
) -> Result<Response, Refusal> {
    let job = find(&worker, &id)?;
    let headers: [(HeaderName, String); 2] = [
        (header::CONTENT_TYPE, "application/gzip".into()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.tar.gz\"")),
    ];
    if method == Method::HEAD {
        return Ok(headers.into_response());
    }
    let (sender, mut pieces) = mpsc::channel::<Piece>(CHUNKS_WAITING_MAX);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write_archive(&job.work, PieceSender(sender.clone())) {
            log::info!("{}: its archive broke off: {error}", job.id);
            // An error in place of the end lets the client see that the archive is not whole.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let body = Body::from_stream(futures_util::stream::poll_fn(move |context| pieces.poll_recv(context)));
    Ok((headers, body).into_response())
}

fn write_archive(work: &WorkDir, to: PieceSender) -> io::Result<()> {
    let to = BufWriter::with_capacity(CHUNK_BYTES, to);
    let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::fast()));
    for found in work.walk().files {
        let open = match work.open(&found.path) {
            Ok(open) => open,
            // Gone since it was found, or unreadable: the archive has what can be had.
            Err(OpenError::Missing | OpenError::Forbidden) => continue,
            Err(OpenError::Io(error)) => return Err(error),
        };
        let length = open.metadata.len();
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(FILE_MODE);
        let modified = open.metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        header.set_mtime(modified.as_secs());
        // A running job may still change the file: what it adds is left out, what it takes away is an error.
        let mut content = open.file.take(length);
        archive.append_data(&mut header, &found.path, &mut content)?;
        if content.limit() > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} shrank", found.path)));
        }
    }
    archive.into_inner()?.finish()?.flush()
}

/// Sends what is written to it as pieces of a body.
struct PieceSender(mpsc::Sender<Piece>);

impl Write for PieceSender {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(content)));
        sent.map(|()| content.len())
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
