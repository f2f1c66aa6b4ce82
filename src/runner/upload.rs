//! Receives a submission: a multipart body, written to disk as it arrives.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Multipart;
use axum::extract::multipart::{Field, MultipartError};
use axum::http::StatusCode;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::jobdir::JobDir;
use super::manifest::MANIFEST_BYTES_MAX;
use super::outputs::hex;
use super::refusal::Refusal;
use super::unpack::ArchiveKind;
use crate::spool::ContentDigest;
use crate::worker::receipt::Sha256Sum;

/// Longest silence of a client in the middle of its upload. It holds a slot all the while.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Most file parts of one upload: more files belong in an archive.
const FILES_MAX: usize = 1_024;

/// Longest and largest tail of a refused upload that is still read. A client that is cut off while it sends may see a
/// reset in place of the answer.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);
pub const DRAIN_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a submission may still bring, in bytes. Counted here and not left to the body's limit, which would leave the
/// rest of the body unreadable.
struct Allowance {
    left: u64,
    limit: u64,
}

/// A received submission. Plain files are in the work directory already.
#[derive(Debug)]
pub struct Upload {
    /// The manifest's JSON, if there was one.
    pub manifest: Option<Vec<u8>>,
    /// Archives that wait to be unpacked.
    pub archives: Vec<(PathBuf, ArchiveKind)>,
    /// SHA-256 in hex of the manifest and of all files, with their names.
    pub hash: String,
    /// The same in the pool's way, for a receipt.
    pub payload_sha256: Sha256Sum,
    /// Of the manifest as it came; of nothing where there was none.
    pub manifest_sha256: Sha256Sum,
}

/// Receives a submission of at most `bytes_max` bytes into a job's directory.
///
/// # Errors
/// When the body is malformed, too large, stalls, or has a part that cannot be taken.
pub async fn receive(form: &mut Multipart, dir: &JobDir, bytes_max: u64) -> Result<Upload, Refusal> {
    let mut allowance = Allowance { left: bytes_max, limit: bytes_max };
    let work = dir.work().map_err(|error| Refusal::disk("opening a job's directory", &error))?;
    let mut manifest = None;
    let mut archives = Vec::new();
    let mut files = 0;
    let mut hasher = Sha256::new();
    let mut content = ContentDigest::default();
    while let Some(mut field) = in_time(form.next_field()).await? {
        match (field.name(), field.file_name().map(str::to_owned)) {
            (Some("manifest"), _) => {
                let json = receive_manifest(&mut field, &mut allowance).await?;
                hash_part(&mut hasher, "", &Sha256::digest(&json));
                manifest = Some(json);
            }
            (Some("files"), Some(name)) => {
                files += 1;
                if files > FILES_MAX {
                    return Err(Refusal::bad_request(format!(
                        "More than {FILES_MAX} files; upload an archive"
                    )));
                }
                let name = file_name(&name)?;
                let path = match ArchiveKind::of_name(&name) {
                    Some(kind) => {
                        let path = dir.upload().join(archives.len().to_string());
                        archives.push((path.clone(), kind));
                        path
                    }
                    None => work.path().join(&name),
                };
                content.begin_file(&name);
                let sha256 = receive_file(&mut field, &path, &mut allowance, &mut content).await?;
                content.end_file();
                hash_part(&mut hasher, &name, &sha256);
            }
            _ => while allowance.next_chunk(&mut field).await?.is_some() {},
        }
    }
    if files == 0 {
        return Err(Refusal::bad_request("No files uploaded"));
    }
    let sent = manifest.as_deref().unwrap_or_default();
    let manifest_sha256 = Sha256Sum(Sha256::digest(sent).into());
    let payload_sha256 = Sha256Sum(content.finish(sent));
    Ok(Upload { manifest, archives, hash: hex(&hasher.finalize()), payload_sha256, manifest_sha256 })
}

/// Reads on for a little while after a refusal, so that the client gets to read the answer.
pub async fn drain(mut form: Multipart) {
    let rest = async {
        let mut bytes: u64 = 0;
        while let Ok(Some(mut field)) = form.next_field().await {
            while let Ok(Some(chunk)) = field.chunk().await {
                bytes += chunk.len() as u64;
                if bytes > DRAIN_BYTES_MAX {
                    return;
                }
            }
        }
    };
    let _ = timeout(DRAIN_TIME_MAX, rest).await;
}

async fn receive_manifest(field: &mut Field<'_>, allowance: &mut Allowance) -> Result<Vec<u8>, Refusal> {
    let mut json = Vec::new();
    while let Some(chunk) = allowance.next_chunk(field).await? {
        json.extend_from_slice(&chunk);
        if json.len() > MANIFEST_BYTES_MAX {
            let sentence = format!("The manifest is larger than {MANIFEST_BYTES_MAX} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, sentence));
        }
    }
    Ok(json)
}

async fn receive_file(
    field: &mut Field<'_>,
    path: &Path,
    allowance: &mut Allowance,
    content: &mut ContentDigest,
) -> Result<Vec<u8>, Refusal> {
    let disk = |error: io::Error| Refusal::disk("storing an upload", &error);
    let mut file = File::create(path).await.map_err(disk)?;
    let mut hasher = Sha256::new();
    while let Some(chunk) = allowance.next_chunk(field).await? {
        hasher.update(&chunk);
        content.update(&chunk);
        file.write_all(&chunk).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    Ok(hasher.finalize().to_vec())
}

impl Allowance {
    async fn next_chunk(&mut self, field: &mut Field<'_>) -> Result<Option<Bytes>, Refusal> {
        let Some(chunk) = in_time(field.chunk()).await? else { return Ok(None) };
        match self.left.checked_sub(chunk.len() as u64) {
            Some(left) => self.left = left,
            None => return Err(too_large(self.limit)),
        }
        Ok(Some(chunk))
    }
}

/// The refusal of a submission of more than `limit` bytes.
pub fn too_large(limit: u64) -> Refusal {
    let sentence = format!("The upload is larger than the {limit} bytes that this worker takes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, sentence)
}

/// Awaits the next piece of the body, but not for ever.
async fn in_time<T>(piece: impl Future<Output = Result<T, MultipartError>>) -> Result<T, Refusal> {
    match timeout(SILENCE_MAX, piece).await {
        Ok(Ok(piece)) => Ok(piece),
        Ok(Err(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "The form has too many bytes beside its files"))
        }
        Ok(Err(error)) => Err(Refusal::bad_request(format!(
            "The body is no complete multipart form: {}",
            error.body_text()
        ))),
        Err(_) => {
            let sentence = format!("Nothing of the upload arrived for {} seconds", SILENCE_MAX.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, sentence))
        }
    }
}

/// Takes the name of an uploaded file, which must be one that stays in the work directory.
fn file_name(name: &str) -> Result<String, Refusal> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\\', '\0']) {
        return Err(Refusal::bad_request(format!(
            "The file name {name:?} is not a plain name; directories are uploaded as an archive"
        )));
    }
    Ok(name.to_owned())
}

fn hash_part(hasher: &mut Sha256, name: &str, content: &[u8]) {
    // Name and length first, so that no two uploads run together to the same text.
    hasher.update((name.len() as u64).to_be_bytes());
    hasher.update(name);
    hasher.update(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_plain() {
        for name in ["main.py", "a b%20é.txt", "..x", "-n"] {
            assert_eq!(file_name(name).unwrap(), name);
        }
        for name in ["", ".", "..", "a/b", "../x", "/etc/passwd", "C:\\x", "a\0b"] {
            assert!(file_name(name).is_err(), "{name:?}");
        }
    }
}
