//! Fetches outputs into files, carrying on where an earlier try broke off.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Response, StatusCode};

use super::{Client, ClientError, percent_encoded};
use crate::job::JobId;

/// No byte for so long: the connection is dead.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// How a download goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It begins: bytes that are there from an earlier try, and bytes in all where the pool tells.
    Begins { there: u64, total: Option<u64> },
    /// So many bytes more.
    Received(u64),
}

impl Client {
    /// Writes one output of a job to the file `to`. Until it is whole it is `NAME.JOB.part` beside it, from which the
    /// next try carries on; the job's id keeps one job's beginning from another's end.
    pub async fn download(
        &self,
        job: &JobId,
        path: &str,
        to: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ClientError> {
        let part = part_path(to, job);
        let there = fs::metadata(&part).map_or(0, |metadata| metadata.len());
        let resumed = if there > 0 { self.rest(job, path, there).await? } else { None };
        let (response, there) = match resumed {
            Some(response) => (response, there),
            None => (self.send(self.output(job, path)).await?, 0),
        };
        let mut file = OpenOptions::new()
            .create(true)
            .append(there > 0)
            .write(true)
            .truncate(there == 0)
            .open(&part)
            .map_err(|error| file_error(&part, &error))?;
        copy(response, there, &mut file, progress).await?.map_err(|error| file_error(&part, &error))?;
        fs::rename(&part, to).map_err(|error| file_error(to, &error))
    }

    /// Writes one output of a job to a stream.
    pub async fn stream_output(
        &self,
        job: &JobId,
        path: &str,
        out: &mut dyn Write,
    ) -> Result<io::Result<()>, ClientError> {
        let response = self.send(self.output(job, path)).await?;
        copy(response, 0, out, &mut |_| ()).await
    }

    /// Writes all outputs of a job, as one `.tar.gz`, to the file `to`. The pool makes the archive as it sends it, so
    /// there is no carrying on.
    pub async fn download_archive(
        &self,
        job: &JobId,
        to: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ClientError> {
        let response = self.send(self.get(&format!("/download/{job}"))).await?;
        let part = part_path(to, job);
        let mut file = File::create(&part).map_err(|error| file_error(&part, &error))?;
        let copied = copy(response, 0, &mut file, progress).await;
        if !matches!(copied, Ok(Ok(()))) {
            // Nothing can be made of the beginning of an archive.
            let _ = fs::remove_file(&part);
        }
        copied?.map_err(|error| file_error(&part, &error))?;
        fs::rename(&part, to).map_err(|error| file_error(to, &error))
    }

    fn output(&self, job: &JobId, path: &str) -> reqwest::RequestBuilder {
        self.get(&format!("/outputs/{job}/{}", percent_encoded(path, "/")))
    }

    /// The output from this byte on; `None` when it has to be fetched from its beginning.
    async fn rest(&self, job: &JobId, path: &str, from: u64) -> Result<Option<Response>, ClientError> {
        let request = self.output(job, path).header(RANGE, format!("bytes={from}-"));
        let response = match self.send(request).await {
            Ok(response) => response,
            // The file ends before: what is here is the beginning of something else.
            Err(ClientError::Refused { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let range =
            response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let carries_on =
            response.status() == StatusCode::PARTIAL_CONTENT && range.starts_with(&format!("bytes {from}-"));
        Ok(carries_on.then_some(response))
    }
}

/// Copies an answer's body. The outer error is the pool's, the inner one that of writing.
async fn copy(
    response: Response,
    there: u64,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Progress),
) -> Result<io::Result<()>, ClientError> {
    progress(Progress::Begins { there, total: response.content_length().map(|length| there + length) });
    let mut body = response.bytes_stream();
    loop {
        let piece = tokio::time::timeout(STALL_TIMEOUT, body.next()).await.map_err(|_| {
            ClientError::Unreachable(format!("the pool sent nothing for {} s", STALL_TIMEOUT.as_secs()))
        })?;
        let Some(piece) = piece else { return Ok(out.flush()) };
        let piece = piece.map_err(|error| ClientError::broken(&error))?;
        if let Err(error) = out.write_all(&piece) {
            return Ok(Err(error));
        }
        progress(Progress::Received(piece.len() as u64));
    }
}

fn part_path(to: &Path, job: &JobId) -> PathBuf {
    let mut path = OsString::from(to);
    path.push(format!(".{job}.part"));
    PathBuf::from(path)
}

/// Where a listed output goes below `dir`, with the directories on the way made. What a worker lists is not to be
/// trusted: a name that leads out of `dir`, through `..`, from the root or through a link, is refused.
pub fn local_path(dir: &Path, name: &str) -> Result<PathBuf, ClientError> {
    let refused = || {
        let dir = dir.display();
        ClientError::Unexpected(format!("the listing names {name:?}, which would not stay below {dir}"))
    };
    let components: Vec<Component<'_>> = Path::new(name).components().collect();
    let inside = components.iter().all(|component| matches!(component, Component::Normal(_)));
    let Some((file_name, parents)) = components.split_last() else { return Err(refused()) };
    if !inside || name.ends_with('/') || name.contains('\0') {
        return Err(refused());
    }
    fs::create_dir_all(dir).map_err(|error| file_error(dir, &error))?;
    let mut path = dir.to_owned();
    for parent in parents {
        path.push(parent);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Of the thing itself, not of what it may point to.
                let metadata = fs::symlink_metadata(&path).map_err(|error| file_error(&path, &error))?;
                if !metadata.is_dir() {
                    return Err(refused());
                }
            }
            Err(error) => return Err(file_error(&path, &error)),
        }
    }
    path.push(file_name);
    Ok(path)
}

fn file_error(path: &Path, error: &io::Error) -> ClientError {
    ClientError::File(format!("{}: {error}", path.display()))
}
