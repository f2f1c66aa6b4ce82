//! The gate that archives pass: what would unpack to something else than files below the job's directory is refused while it streams in.
//!
//! The bytes pass untouched; they are only read along. A worker has walls of its own, and this is not one of them: it tells a client
//! at once, with the entry named, what a worker would refuse later or, if it is careless, would unpack. So everything that two readers
//! of tar could take differently is refused as well.
//!
//! What inflates is work for a processor, up to a second for a mebibyte that is made for it. It is done on blocking threads, while the next
//! bytes come in, and never holds up a connection.

mod contents;
mod header;
mod tarball;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use tokio::task::{JoinHandle, spawn_blocking};

use super::UploadError;
pub use contents::ArchiveLimits;
use contents::Contents;
use tarball::Tarball;

/// What is done about archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspect {
    Nothing,
    /// What is named `.tar.gz` or `.tgz`, and is gzip.
    Tar(ArchiveLimits),
}

/// Bytes that are inflated at once: enough that the hand-over to a thread costs nothing beside it.
const BATCH_BYTES: usize = 256 << 10;

/// What every gzip stream begins with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The gate of one upload. What its archives hold is counted together, because they are unpacked into one directory.
pub struct ArchiveGate {
    /// Nothing where nothing is inspected.
    contents: Option<Contents>,
}

/// One file on its way through the gate.
pub struct Passing {
    /// What is not yet on its way to a thread.
    batch: Vec<u8>,
    stage: Stage,
}

enum Stage {
    /// It is none of the gate's business.
    Free(Option<Contents>),
    /// By its name an archive; nothing has been looked at.
    Named(Contents),
    Inflating(Inflating),
}

/// The work under way: the decoder comes back with the emptied batch.
type Inflating = JoinHandle<Result<(Decoder, Vec<u8>), String>>;

type Decoder = Box<MultiGzDecoder<Tarball>>;

impl ArchiveGate {
    pub fn new(inspect: Inspect) -> Self {
        let contents = match inspect {
            Inspect::Nothing => None,
            Inspect::Tar(limits) => Some(Contents::new(limits)),
        };
        Self { contents }
    }

    /// Begins a file. It must have ended before the next one begins.
    pub fn begin(&mut self, name: &str) -> Passing {
        let name = name.to_ascii_lowercase();
        let stage = match self.contents.take() {
            Some(contents) if name.ends_with(".tar.gz") || name.ends_with(".tgz") => Stage::Named(contents),
            contents => Stage::Free(contents),
        };
        Passing { batch: Vec::new(), stage }
    }

    /// Ends a file: it was whole, and everything in it may pass.
    pub async fn end<E>(&mut self, file: Passing) -> Result<(), UploadError<E>> {
        self.contents = file.end().await?;
        Ok(())
    }
}

impl Passing {
    /// Takes more of the file. A refusal is told by this call or a later one.
    pub async fn take<E>(&mut self, bytes: &[u8]) -> Result<(), UploadError<E>> {
        if let Stage::Free(_) = self.stage {
            return Ok(());
        }
        self.batch.extend_from_slice(bytes);
        if self.batch.len() >= BATCH_BYTES { self.send().await } else { Ok(()) }
    }

    /// Sends the batch on its way, once the one before it is done.
    async fn send<E>(&mut self) -> Result<(), UploadError<E>> {
        let (decoder, spare) = match std::mem::replace(&mut self.stage, Stage::Free(None)) {
            Stage::Named(contents) if !self.batch.starts_with(&GZIP_MAGIC) => {
                self.stage = Stage::Free(Some(contents));
                self.batch = Vec::new();
                return Ok(());
            }
            Stage::Named(contents) => (Box::new(MultiGzDecoder::new(Tarball::new(contents))), Vec::new()),
            Stage::Inflating(work) => done(work.await)?,
            Stage::Free(contents) => {
                self.stage = Stage::Free(contents);
                return Ok(());
            }
        };
        let batch = std::mem::replace(&mut self.batch, spare);
        self.stage = Stage::Inflating(spawn_blocking(move || inflate(decoder, batch)));
        Ok(())
    }

    async fn end<E>(mut self) -> Result<Option<Contents>, UploadError<E>> {
        self.send().await?;
        match self.stage {
            Stage::Free(contents) => Ok(contents),
            Stage::Named(contents) => Ok(Some(contents)),
            Stage::Inflating(work) => {
                let (decoder, _) = done(work.await)?;
                let inflated = decoder.finish().map_err(|error| refused(broken(&error)))?;
                inflated.finish().map(Some).map_err(refused)
            }
        }
    }
}

fn inflate(mut decoder: Decoder, mut batch: Vec<u8>) -> Result<(Decoder, Vec<u8>), String> {
    decoder.get_mut().packed(batch.len());
    decoder.write_all(&batch).map_err(|error| broken(&error))?;
    batch.clear();
    Ok((decoder, batch))
}

/// A task fails only when it panics or when the runtime is shut down.
fn done<T, E>(joined: Result<Result<T, String>, tokio::task::JoinError>) -> Result<T, UploadError<E>> {
    match joined {
        Ok(done) => done.map_err(refused),
        Err(cause) => Err(UploadError::Spool(io::Error::other(cause))),
    }
}

fn refused<E>(message: String) -> UploadError<E> {
    UploadError::bad("files", message)
}

/// What went wrong while inflating: a refusal comes out of the decoder as it went in, and everything else is the gzip itself.
fn broken(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<tarball::Refusal>()) {
        Some(refusal) => refusal.to_string(),
        None => format!("holds an archive that is no whole gzip: {error}"),
    }
}
