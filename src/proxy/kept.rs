//! An output that the pool keeps, answered from disk.

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::{ErrorType, OrErr, Result};
use pingora_proxy::Session;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};

use super::file::content_disposition;
use super::{Front, respond};
use crate::api::range::{Asked, Requested};
use crate::api::{OutputPath, Problem, ProblemCode};
use crate::store::{EndedRun, KeptFile};

/// Bytes read from disk and sent on at once; what a download holds in memory.
const CHUNK_BYTES: usize = 256 << 10;

/// Some bytes of a kept file, being read.
pub(super) struct Reading {
    file: File,
    left: u64,
}

impl Reading {
    pub(super) fn new(mut file: File, left: u64) -> Self {
        file.set_max_buf_size(CHUNK_BYTES);
        Self { file, left }
    }

    /// The next bytes. A file that ends too soon is an error: a short answer must not look whole.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let most = usize::try_from(self.left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let mut chunk = BytesMut::with_capacity(most);
        let read = (&mut self.file).take(most as u64).read_buf(&mut chunk).await;
        let read = read.or_err(ErrorType::FileReadError, "reading a kept output")?;
        if read == 0 {
            return pingora::Error::e_explain(ErrorType::FileReadError, "a kept output is too short");
        }
        self.left -= read as u64;
        Ok(Some(chunk.freeze()))
    }
}

impl Front {
    /// Answers `GET` and `HEAD` of a kept file.
    pub(super) async fn serve_kept(
        &self,
        session: &mut Session,
        run: &EndedRun,
        file: &KeptFile,
        path: &OutputPath,
    ) -> Result<()> {
        let tag = format!("\"{}\"", file.sha256);
        let (first, length, status) = match Asked::of(&session.req_header().headers, &tag, file.size) {
            Asked::PreconditionFailed => {
                return bare(session, StatusCode::PRECONDITION_FAILED, &tag, None).await;
            }
            Asked::NotModified => return bare(session, StatusCode::NOT_MODIFIED, &tag, None).await,
            Asked::Content(Requested::Unsatisfiable) => {
                return bare(session, StatusCode::RANGE_NOT_SATISFIABLE, &tag, Some(file.size)).await;
            }
            Asked::Content(Requested::Whole) => (0, file.size, StatusCode::OK),
            Asked::Content(Requested::Part { first, last }) => {
                (first, last - first + 1, StatusCode::PARTIAL_CONTENT)
            }
        };
        let mut content = match self.open_kept(run, file).await {
            Ok(content) => content,
            Err(problem) => return respond::problem(session, &problem).await,
        };
        content
            .seek(SeekFrom::Start(first))
            .await
            .or_err(ErrorType::FileReadError, "reading a kept output")?;
        let mut head = file_head(status, &tag)?;
        head.insert_header(header::CONTENT_TYPE, content_type(path))?;
        head.insert_header(header::CONTENT_DISPOSITION, content_disposition(path))?;
        head.insert_header(header::CONTENT_LENGTH, length.to_string())?;
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {first}-{}/{}", first + length - 1, file.size);
            head.insert_header(header::CONTENT_RANGE, range)?;
        }
        let head_only = session.req_header().method == Method::HEAD || length == 0;
        session.write_response_header(Box::new(head), head_only).await?;
        if head_only {
            return Ok(());
        }
        let mut reading = Reading::new(content, length);
        while let Some(chunk) = reading.next().await? {
            session.write_response_body(Some(chunk), reading.left == 0).await?;
        }
        Ok(())
    }

    pub(super) async fn open_kept(
        &self,
        run: &EndedRun,
        file: &KeptFile,
    ) -> std::result::Result<File, Problem> {
        self.outputs.open_file(run, file.index).await.map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                return expired_problem();
            }
            log::error!("an output of job {} cannot be read: {error}", run.job);
            Problem::new(ProblemCode::Internal, "the pool cannot read what it keeps of this job")
        })
    }
}

/// The outputs are no longer to be had.
pub(super) fn expired_problem() -> Problem {
    Problem::new(
        ProblemCode::OutputExpired,
        "this job's outputs are no longer kept; its status, logs and listing still are",
    )
}

async fn bare(session: &mut Session, status: StatusCode, tag: &str, size: Option<u64>) -> Result<()> {
    let mut head = file_head(status, tag)?;
    if let Some(size) = size {
        head.insert_header(header::CONTENT_RANGE, format!("bytes */{size}"))?;
    }
    if status != StatusCode::NOT_MODIFIED {
        head.insert_header(header::CONTENT_LENGTH, "0")?;
    }
    session.write_response_header(Box::new(head), true).await
}

fn file_head(status: StatusCode, tag: &str) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(12))?;
    head.insert_header(header::ETAG, tag)?;
    head.insert_header(header::ACCEPT_RANGES, "bytes")?;
    respond::distrust_content(&mut head)?;
    Ok(head)
}

fn content_type(path: &OutputPath) -> String {
    let name = String::from_utf8_lossy(path.base_name());
    mime_guess::from_path(&*name).first_or_octet_stream().to_string()
}
