//! A job's output files: the listing, and each file by its path.

use std::fs::Metadata;
use std::io::{Seek, SeekFrom};
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::{find, url};
use crate::api::range::{Asked, Requested};
use crate::runner::job::{Job, Phase};
use crate::runner::outputs::{Outputs, file_type, mime_type};
use crate::runner::path::JobPath;
use crate::runner::refusal::Refusal;
use crate::runner::workdir::{OpenError, OpenFile, Stamp};
use crate::runner::worker::Worker;

/// Bytes read from disk at once; what a download holds in memory.
const CHUNK_BYTES: usize = 64 * 1024;

/// `GET /outputs/{id}`: the outputs that there are now.
pub(super) async fn listing(
    State(worker): State<Arc<Worker>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let job = find(&worker, &id)?;
    let phase = job.phase();
    let outputs = match &phase {
        Phase::Finished(finished) => finished.outputs.clone(),
        Phase::Queued(order) | Phase::Running { order, .. } => {
            let order = Arc::clone(order);
            off_runtime(&job, move |job| order.rule.list(&job.work)).await?
        }
    };
    let mut body = json!({
        "job_id": id,
        "status": phase.status(),
        "total_files": outputs.files.len(),
        "files": files(&id, &outputs),
    });
    if outputs.truncated {
        body["truncated"] = true.into();
    }
    Ok(Json(body))
}

fn files(id: &str, outputs: &Outputs) -> Vec<Value> {
    let entry = |output: &crate::runner::outputs::Output| {
        let path = &output.found.path;
        let size = output.found.stamp.size;
        json!({
            "name": path.as_str(),
            "size": size,
            "size_formatted": size_formatted(size),
            "type": file_type(path),
            "mime_type": mime_type(path),
            "download_url": format!("/download/{id}/{}", url::encode_path(path.as_str())),
        })
    };
    outputs.files.iter().map(entry).collect()
}

/// `GET /download/{id}/{path}` and `GET /outputs/{id}/{path}`: any regular file of the job, listed or not.
pub(super) async fn download(
    State(worker): State<Arc<Worker>>,
    Path((id, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let job = find(&worker, &id)?;
    let path = JobPath::parse(&path).map_err(|error| Refusal::new(StatusCode::FORBIDDEN, error))?;
    let opened = off_runtime(&job, {
        let path = path.clone();
        move |job| job.work.open(&path)
    });
    let OpenFile { file, metadata } = opened.await?.map_err(|error| match error {
        OpenError::Missing => Refusal::new(StatusCode::NOT_FOUND, "File not found"),
        OpenError::Forbidden => {
            Refusal::new(StatusCode::FORBIDDEN, "The path leads through a link or may not be read")
        }
        OpenError::Io(error) => Refusal::disk("opening an output", &error),
    })?;
    let tag = entity_tag(&job, &path, &metadata);
    let length = metadata.len();

    let mut response = match Asked::of(&headers, &tag, length) {
        Asked::PreconditionFailed => StatusCode::PRECONDITION_FAILED.into_response(),
        Asked::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Asked::Content(Requested::Whole) => send(file, 0, length).await?,
        Asked::Content(Requested::Part { first, last }) => {
            let mut response = send(file, first, last - first + 1).await?;
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            insert(&mut response, header::CONTENT_RANGE, &format!("bytes {first}-{last}/{length}"));
            response
        }
        Asked::Content(Requested::Unsatisfiable) => {
            let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "The file has no such bytes");
            let mut response = refusal.into_response();
            insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{length}"));
            return Ok(response);
        }
    };
    insert(&mut response, header::ETAG, &tag);
    insert(&mut response, header::ACCEPT_RANGES, "bytes");
    insert(&mut response, header::CONTENT_TYPE, &mime_type(&path));
    insert(&mut response, header::CONTENT_DISPOSITION, &attachment(path.base_name()));
    // A job's file is whatever its author wanted a browser to believe.
    insert(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    Ok(response)
}

async fn send(mut file: std::fs::File, first: u64, length: u64) -> Result<Response, Refusal> {
    if first > 0 {
        file.seek(SeekFrom::Start(first)).map_err(|error| Refusal::disk("reading an output", &error))?;
    }
    let content = tokio::fs::File::from_std(file).take(length);
    let mut response = Body::from_stream(ReaderStream::with_capacity(content, CHUNK_BYTES)).into_response();
    // Should the file shrink meanwhile, the connection breaks off: a short answer would look complete.
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

/// Runs what touches the disk where it may block.
async fn off_runtime<T: Send + 'static>(
    job: &Arc<Job>,
    read: impl FnOnce(&Job) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let job = Arc::clone(job);
    let task = tokio::task::spawn_blocking(move || read(&job));
    task.await.map_err(|error| Refusal::disk("reading a job's files", &std::io::Error::other(error)))
}

/// The file's digest where it is known, else what tells its states apart.
fn entity_tag(job: &Job, path: &JobPath, metadata: &Metadata) -> String {
    let stamp = Stamp::of(metadata);
    let phase = job.phase();
    match phase.finished().and_then(|finished| finished.outputs.digest(path, stamp)) {
        Some(sha256) => format!("\"{sha256}\""),
        None => format!("\"{stamp}\""),
    }
}

/// `Content-Disposition` for a file name: as it is where a quoted string can hold it, else also in its encoded form.
fn attachment(name: &str) -> String {
    let plain = |char: char| matches!(char, ' '..='~') && !matches!(char, '"' | '\\');
    if name.chars().all(plain) {
        return format!("attachment; filename=\"{name}\"");
    }
    let fallback: String = name.chars().map(|char| if plain(char) { char } else { '_' }).collect();
    format!("attachment; filename=\"{fallback}\"; filename*=UTF-8''{}", url::encode_path(name))
}

fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    let value = HeaderValue::from_str(value).expect("only visible ASCII is put into headers");
    response.headers_mut().insert(name, value);
}

fn size_formatted(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KB", "MB", "GB", "TB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_fit_into_the_header() {
        assert_eq!(attachment("a b.txt"), "attachment; filename=\"a b.txt\"");
        assert_eq!(attachment("é\"\n"), "attachment; filename=\"___\"; filename*=UTF-8''%C3%A9%22%0A");
    }

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KB"), (1 << 30, "1.0 GB"), (1 << 52, "4096.0 TB")]
        {
            assert_eq!(size_formatted(bytes), text);
        }
    }
}
