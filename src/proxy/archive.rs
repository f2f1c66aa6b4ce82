//! `GET /download/{job}`: all outputs of a job as one `.tar.gz`, made from the single files while they stream, from
//! the pool's disk or from the worker.
//!
//! The worker's own archive call is never used: it deletes the job. A file that breaks off breaks off the archive, visibly.

use std::io::Write;
use std::vec::IntoIter;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType, OrErr, Result};
use pingora_proxy::Session;

use super::jobs::{Asked, not_dispatched};
use super::kept::Reading;

use super::file::{Admitted, FileAt, Listed, OutputPassage};
use super::outputs::{kept_files, stated_length};
use super::passage::problem_of;
use super::{Front, respond};
use crate::api::{OutputPath, Problem, ProblemCode, listing};
use crate::job::{JobId, Place};
use crate::store::{EndedRun, KeptFile};

/// Archive bytes are sent on in pieces of about this size.
const CHUNK_BYTES: usize = 64 << 10;

/// The names in a tar header end here; longer ones take a record of their own.
const TAR_NAME_BYTES_MAX: usize = 100;

const TAR_BLOCK_BYTES: usize = 512;

/// What is still to come into an archive, and where from.
enum Contents {
    OnWorker {
        place: Place,
        names: IntoIter<String>,
    },
    /// On the pool's disk.
    Kept {
        run: EndedRun,
        files: IntoIter<KeptFile>,
    },
}

/// A file that is being read.
struct OpenFile {
    content: Content,
    name: String,
    size: u64,
}

enum Content {
    /// Boxed: a connection is many times as large as a file.
    Worker(Box<HttpSession>),
    Kept(Reading),
}

impl Content {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Worker(connection) => connection.read_response_body().await,
            Self::Kept(reading) => reading.next().await,
        }
    }
}

impl Front {
    pub(super) async fn archive(&self, session: &mut Session, id: &JobId) -> Result<()> {
        let mut contents = match self.archive_contents(id).await {
            Ok(contents) => contents,
            Err(problem) => return respond::problem(session, &problem).await,
        };
        // The first file tells whether there is anything to be had, while an error can still be answered.
        let mut next = match self.open_next(&mut contents).await {
            Ok(first) => first,
            Err(problem) => return respond::problem(session, &problem).await,
        };
        let mut head = archive_head(id)?;
        respond::without_length(session, &mut head)?;
        session.write_response_header(Box::new(head), false).await?;
        if session.req_header().method == Method::HEAD {
            return Ok(());
        }
        let mut gzip = GzEncoder::new(Vec::with_capacity(CHUNK_BYTES), Compression::fast());
        while let Some(file) = next {
            send_file(session, &mut gzip, file).await?;
            next = self.open_next(&mut contents).await.map_err(|problem| broken_off(&problem))?;
        }
        // A tar archive ends with two empty blocks.
        gzip.write_all(&[0; 2 * TAR_BLOCK_BYTES]).or_err(ErrorType::InternalError, "writing to memory")?;
        let rest = gzip.finish().or_err(ErrorType::InternalError, "writing to memory")?;
        session.write_response_body(Some(Bytes::from(rest)), true).await
    }

    async fn archive_contents(&self, id: &JobId) -> std::result::Result<Contents, Problem> {
        match self.asked(id).await? {
            Asked::Live(_) => Err(Problem::new(
                ProblemCode::NotFinished,
                "the job has not ended; its outputs are not complete",
            )),
            Asked::Finished(ended) => {
                let row = &ended.row;
                if let Some(files) = kept_files(&ended)? {
                    return Ok(Contents::Kept { run: row.run(), files: Vec::from(files).into_iter() });
                }
                let place = row.state.place().ok_or_else(not_dispatched)?;
                let look = |text: &str| {
                    listing::files(text).into_iter().flatten().map(|file| file.name).collect::<Vec<_>>()
                };
                let names = self.look_at_listing(&row.run(), look).await?.unwrap_or_default();
                Ok(Contents::OnWorker { place, names: names.into_iter() })
            }
        }
    }

    async fn open_next(&self, contents: &mut Contents) -> std::result::Result<Option<OpenFile>, Problem> {
        Ok(match contents {
            Contents::OnWorker { place, names } => match names.next() {
                Some(name) => Some(self.open_on_worker(place, name).await?),
                None => None,
            },
            Contents::Kept { run, files } => match files.next() {
                Some(file) => {
                    let content = Reading::new(self.open_kept(run, &file).await?, file.size);
                    Some(OpenFile { content: Content::Kept(content), name: file.name, size: file.size })
                }
                None => None,
            },
        })
    }

    /// Asks for a file, and reads the head of the answer.
    async fn open_on_worker(&self, place: &Place, name: String) -> std::result::Result<OpenFile, Problem> {
        let path = OutputPath::from_bytes(name.clone().into_bytes())?;
        let to = self.destination(place)?;
        let remote = place.remote.clone();
        let mut passage = OutputPassage { to, path, remote, at: FileAt::Download, listed: Listed::Yes };
        loop {
            let answered = match self.ask_for_file(&passage, None).await {
                Ok(opened) => opened,
                Err(error) => {
                    log::warn!("output {name:?} cannot be fetched: {error}");
                    return Err(problem_of(&error));
                }
            };
            let Some(size) = stated_length(answered.head()) else {
                return Err(Problem::new(
                    ProblemCode::WorkerError,
                    "the worker does not say how long the file is",
                ));
            };
            match passage.admit(answered.head()) {
                Ok(Admitted::Yes(_)) => {
                    return Ok(OpenFile {
                        content: Content::Worker(Box::new(answered.connection)),
                        name,
                        size,
                    });
                }
                Ok(Admitted::TryAgain) => {}
                Ok(Admitted::Refused(status)) => return Err(self.refusal(&passage, status).await),
                Ok(Admitted::No(problem)) => return Err(problem),
                Err(error) => {
                    log::error!("an answer could not be read: {error}");
                    return Err(Problem::new(
                        ProblemCode::Internal,
                        "the pool could not handle the worker's answer",
                    ));
                }
            }
        }
    }
}

fn archive_head(id: &JobId) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(8))?;
    head.insert_header(header::CONTENT_TYPE, "application/gzip")?;
    head.insert_header(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.tar.gz\""))?;
    respond::distrust_content(&mut head)?;
    Ok(head)
}

/// Puts one file into the archive and sends on what is ready.
async fn send_file(session: &mut Session, gzip: &mut GzEncoder<Vec<u8>>, mut file: OpenFile) -> Result<()> {
    write(gzip, &tar_header(&file.name, file.size)?)?;
    let mut left = file.size;
    while let Some(chunk) = file.content.next().await? {
        left = left.checked_sub(chunk.len() as u64).ok_or_else(|| cut("is longer than it said"))?;
        write(gzip, &chunk)?;
        send_ready(session, gzip).await?;
    }
    if left > 0 {
        return Err(cut("broke off"));
    }
    let padding = (TAR_BLOCK_BYTES - (file.size % TAR_BLOCK_BYTES as u64) as usize) % TAR_BLOCK_BYTES;
    write(gzip, &[0; TAR_BLOCK_BYTES][..padding])
}

async fn send_ready(session: &mut Session, gzip: &mut GzEncoder<Vec<u8>>) -> Result<()> {
    if gzip.get_ref().len() < CHUNK_BYTES {
        return Ok(());
    }
    let ready = std::mem::replace(gzip.get_mut(), Vec::with_capacity(CHUNK_BYTES));
    session.write_response_body(Some(Bytes::from(ready)), false).await
}

fn write(gzip: &mut GzEncoder<Vec<u8>>, bytes: &[u8]) -> Result<()> {
    gzip.write_all(bytes).or_err(ErrorType::InternalError, "writing to memory")
}

/// The header blocks of a regular file, with a record for a long name (GNU format) where it needs one.
fn tar_header(name: &str, size: u64) -> Result<Vec<u8>> {
    let mut blocks = Vec::new();
    if name.len() > TAR_NAME_BYTES_MAX {
        let mut long = tar::Header::new_gnu();
        long.set_entry_type(tar::EntryType::GNULongName);
        long.set_path("././@LongLink").or_err(ErrorType::InternalError, "a literal path")?;
        long.set_size(name.len() as u64 + 1);
        long.set_mode(0o644);
        long.set_cksum();
        blocks.extend_from_slice(long.as_bytes());
        blocks.extend_from_slice(name.as_bytes());
        // The name ends with a zero byte and is filled up to whole blocks.
        blocks.resize((blocks.len() + 1).next_multiple_of(TAR_BLOCK_BYTES), 0);
    }
    let mut head = tar::Header::new_gnu();
    let short = name.as_bytes().get(..TAR_NAME_BYTES_MAX).unwrap_or(name.as_bytes());
    head.as_gnu_mut().expect("it was made as a GNU header").name[..short.len()].copy_from_slice(short);
    head.set_size(size);
    head.set_mode(0o644);
    head.set_entry_type(tar::EntryType::Regular);
    head.set_cksum();
    blocks.extend_from_slice(head.as_bytes());
    Ok(blocks)
}

fn cut(how: &str) -> pingora::BError {
    Error::explain(ErrorType::ReadError, format!("an output {how}")).into_up()
}

fn broken_off(problem: &Problem) -> pingora::BError {
    Error::explain(ErrorType::ReadError, problem.message.clone()).into_up()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn names_of_every_length_are_read_back() {
        for length in [1, 99, 100, 101, 511, 512, 513, 3000] {
            let name = "n".repeat(length);
            let mut archive = tar_header(&name, 3).unwrap();
            archive.extend_from_slice(b"abc");
            archive.resize(archive.len().next_multiple_of(TAR_BLOCK_BYTES) + 2 * TAR_BLOCK_BYTES, 0);
            let mut archive = tar::Archive::new(&archive[..]);
            let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
            assert_eq!(entry.path_bytes().as_ref(), name.as_bytes());
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            assert_eq!(content, "abc");
        }
    }
}
