//! Tests of the spool as a whole, and what they share.

mod directory;
mod recorded;
mod refusals;
mod speed;
mod upload;

use std::io;

use bytes::Bytes;
use futures_util::stream;
use tempfile::TempDir;

use super::*;
use crate::store::{Payload, Work};

pub const LIMITS: UploadLimits =
    UploadLimits { body_bytes_max: 4 << 20, files_max: 4, inspect: Inspect::Tar(ARCHIVES) };
pub const ARCHIVES: ArchiveLimits = ArchiveLimits { entries_max: 1000, unpacked_bytes_max: 256 << 20 };
pub const BOUNDARY: &str = "client-boundary";

pub fn spool() -> (TempDir, Spool) {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path().join("spool"), u64::MAX).unwrap();
    (dir, spool)
}

pub fn job(n: u8) -> JobId {
    JobId::from_random([n; 12])
}

/// A part as a client would send it.
pub fn part(disposition: &str, content: &[u8]) -> Vec<u8> {
    part_of(BOUNDARY, disposition, content)
}

pub fn part_of(boundary: &str, disposition: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

pub fn file(name: &str, content: &[u8]) -> Vec<u8> {
    part(&format!("name=\"files\"; filename=\"{name}\""), content)
}

pub fn manifest(json: &str) -> Vec<u8> {
    part("name=\"manifest\"", json.as_bytes())
}

pub fn body(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat().as_slice(), b"--", BOUNDARY.as_bytes(), b"--\r\n"].concat()
}

pub async fn parse(spool: &Spool, body: &[u8]) -> Result<Upload, UploadError<io::Error>> {
    parse_chunks(spool, BOUNDARY, body.chunks(64 << 10)).await
}

pub async fn parse_chunks<'a>(
    spool: &Spool,
    boundary: &str,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Result<Upload, UploadError<io::Error>> {
    let chunks = stream::iter(chunks.map(|chunk| Ok(Bytes::copy_from_slice(chunk))));
    parse_upload(chunks, &encode::content_type(boundary), &LIMITS, spool).await
}

/// Names and contents of the files, and the manifest, of the body that would be sent to a worker.
pub async fn sent(spool: &Spool, job: &JobId, work: &Work) -> (Vec<(String, Vec<u8>)>, String) {
    let tail = encode::manifest_part(&work.boundary, &work.manifest);
    let length = encode::content_length(&work.payload, &tail);
    let mut body = match &work.payload {
        Payload::Inline(bytes) => bytes.to_vec(),
        Payload::Spooled { .. } => std::fs::read(spool.path(job)).unwrap(),
    };
    body.extend_from_slice(tail.as_bytes());
    assert_eq!(body.len() as u64, length);
    let stream = stream::iter([Ok::<_, io::Error>(Bytes::from(body))]);
    let mut multipart = multer::Multipart::new(stream, work.boundary.clone());
    let (mut files, mut manifest) = (Vec::new(), None);
    while let Some(field) = multipart.next_field().await.unwrap() {
        match field.name().unwrap() {
            "files" => {
                let name = field.file_name().unwrap().to_owned();
                files.push((name, field.bytes().await.unwrap().to_vec()));
            }
            _ => assert_eq!(manifest.replace(field.text().await.unwrap()), None),
        }
    }
    (files, manifest.unwrap())
}

/// Runs to the end, with everything that was handed to other threads.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let output = runtime.block_on(future);
    // Waits for the blocking threads.
    drop(runtime);
    output
}

/// Number of entries below the spool, its own directory aside.
pub fn entries(spool: &Spool) -> usize {
    let count = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
    count(&spool.dir) - 1 + count(&spool.incoming())
}
