//! A submit's body, parsed into work while it streams.

use std::collections::HashSet;
use std::io;
use std::pin::pin;

use bytes::Bytes;
use futures_util::Stream;

use super::digest::ContentDigest;
use super::gate::{ArchiveGate, Inspect};
use super::parts::{Part, Parts};
use super::{Spool, SpoolWriter, UploadError, encode, file_name, front_end};
use crate::job::manifest::MANIFEST_BYTES_MAX;
use crate::job::{JobId, Manifest, Priority};
use crate::store::Work;

/// Longest idempotency key in bytes: room for any UUID or digest with a prefix.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Longest text of a priority in bytes: more than the longest one and some white space.
const PRIORITY_BYTES_MAX: usize = 64;

/// Fields that no worker knows are ignored, as the workers do; these many, each of this many bytes.
const IGNORED_FIELDS_MAX: usize = 32;
const IGNORED_FIELD_BYTES_MAX: usize = 64 << 10;

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    /// Longest body in bytes, with everything that is in it.
    pub body_bytes_max: u64,
    /// Most `files` parts.
    pub files_max: usize,
    /// What is done about archives.
    pub inspect: Inspect,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self { body_bytes_max: 1 << 30, files_max: 1024, inspect: Inspect::Nothing }
    }
}

/// A submit that was read to its end and found good. Dropped, it leaves nothing in the spool.
#[derive(Debug)]
pub struct Upload {
    pub manifest: Manifest,
    /// The encoded `files` parts.
    pub writer: SpoolWriter,
    /// The boundary that they are encoded with.
    pub boundary: String,
    /// The digest of what the client sent, the same however it was sent.
    pub sha256: [u8; 32],
    pub priority: Option<Priority>,
    pub idempotency_key: Option<String>,
    /// The names that the files are sent under.
    pub file_names: Vec<String>,
}

impl Upload {
    /// Makes the payload durable. To be awaited to its end, as [`SpoolWriter::finish`].
    pub async fn into_work(self, job: &JobId) -> io::Result<Work> {
        let Self { manifest, writer, boundary, sha256, .. } = self;
        let payload = writer.finish(job).await?;
        Ok(Work { manifest: manifest.to_worker_json(), boundary, payload, sha256 })
    }
}

/// Reads a submit's body to its end.
///
/// It has one or more `files` with a file name, one `manifest`, and may have a `priority` and an `Idempotency-Key` (also
/// spelled `idempotency_key`).
pub async fn parse_upload<S, E>(
    stream: S,
    content_type: &str,
    limits: &UploadLimits,
    spool: &Spool,
) -> Result<Upload, UploadError<E>>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    let stream = pin!(stream);
    let mut parts = Parts::new(stream, content_type, limits.body_bytes_max)?;
    let mut form = Form::new(spool, limits.inspect);
    while let Some(Part { name, file_name }) = parts.next().await? {
        match name.as_str() {
            "files" => form.file(file_name, limits.files_max, &mut parts).await?,
            "manifest" => {
                let json = content(&mut parts, &name, MANIFEST_BYTES_MAX).await?;
                once(&mut form.manifest, &name, Manifest::parse(&json)?)?;
            }
            "priority" => {
                let text = text(&mut parts, &name, PRIORITY_BYTES_MAX).await?;
                let priority =
                    text.parse().map_err(|e| UploadError::bad(&name, format!("is {text:?}: {e}")))?;
                once(&mut form.priority, &name, priority)?;
            }
            "Idempotency-Key" | "idempotency_key" => {
                let key = text(&mut parts, &name, IDEMPOTENCY_KEY_BYTES_MAX).await?;
                once(&mut form.idempotency_key, &name, key)?;
            }
            _ => form.ignore(&name, &mut parts).await?,
        }
    }
    parts.drain().await?;
    form.finish()
}

/// What has been read so far.
struct Form {
    gate: ArchiveGate,
    boundary: String,
    writer: SpoolWriter,
    digest: ContentDigest,
    file_names: Vec<String>,
    names_seen: HashSet<String>,
    from_front_end: usize,
    manifest: Option<Manifest>,
    priority: Option<Priority>,
    idempotency_key: Option<String>,
    ignored: usize,
}

impl Form {
    fn new(spool: &Spool, inspect: Inspect) -> Self {
        Self {
            gate: ArchiveGate::new(inspect),
            // 128 random bits: no file contains it, and nobody can make one that does.
            boundary: format!("{:032x}", rand::random::<u128>()),
            writer: spool.begin(),
            digest: ContentDigest::default(),
            file_names: Vec::new(),
            names_seen: HashSet::new(),
            from_front_end: 0,
            manifest: None,
            priority: None,
            idempotency_key: None,
            ignored: 0,
        }
    }

    /// Copies a file's bytes, untouched, from the client's part to one of ours.
    async fn file<S, E>(
        &mut self,
        given_name: Option<String>,
        files_max: usize,
        parts: &mut Parts<S>,
    ) -> Result<(), UploadError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let bad = |message: String| UploadError::bad("files", message);
        let given_name = given_name.ok_or_else(|| bad("has no file name: send each file with one".into()))?;
        let name = file_name::safe(&given_name).map_err(bad)?;
        if self.file_names.len() == files_max {
            return Err(bad(format!("are more than {files_max}: pack them into an archive")));
        }
        if !self.names_seen.insert(name.clone()) {
            return Err(bad(format!("has two files named {name:?}: one would overwrite the other")));
        }
        self.writer.write(encode::file_head(&self.boundary, &name).as_bytes()).await?;
        self.digest.begin_file(&name);
        let mut head = Vec::new();
        let mut passing = self.gate.begin(&name);
        while let Some(bytes) = parts.chunk().await? {
            head.extend_from_slice(&bytes[..bytes.len().min(front_end::HEAD_BYTES - head.len())]);
            self.digest.update(&bytes);
            passing.take(&bytes).await?;
            self.writer.write(&bytes).await?;
        }
        self.gate.end(passing).await?;
        self.digest.end_file();
        self.writer.write(encode::PART_END).await?;
        self.from_front_end += usize::from(front_end::recognise(&head).map_err(bad)?);
        self.file_names.push(name);
        Ok(())
    }

    async fn ignore<S, E>(&mut self, name: &str, parts: &mut Parts<S>) -> Result<(), UploadError<E>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        self.ignored += 1;
        if self.ignored > IGNORED_FIELDS_MAX {
            return Err(UploadError::bad(
                name,
                "is no field of a submit, and too many others are none either",
            ));
        }
        content(parts, name, IGNORED_FIELD_BYTES_MAX).await.map(drop)
    }

    fn finish<E>(self) -> Result<Upload, UploadError<E>> {
        if self.file_names.is_empty() {
            return Err(UploadError::bad("files", "is missing: upload at least one file"));
        }
        let manifest = self.manifest.ok_or_else(|| UploadError::bad("manifest", "is missing"))?;
        // What the front end wraps has a name of its own inside.
        if self.from_front_end == 0 {
            manifest.check_entrypoint(self.file_names.iter().map(String::as_str))?;
        }
        Ok(Upload {
            sha256: self.digest.finish(manifest.to_worker_json().as_bytes()),
            manifest,
            writer: self.writer,
            boundary: self.boundary,
            priority: self.priority,
            idempotency_key: self.idempotency_key,
            file_names: self.file_names,
        })
    }
}

fn once<T, E>(place: &mut Option<T>, name: &str, value: T) -> Result<(), UploadError<E>> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(UploadError::bad(name, "occurs twice")),
    }
}

async fn content<S, E>(parts: &mut Parts<S>, name: &str, bytes_max: usize) -> Result<Vec<u8>, UploadError<E>>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let mut content = Vec::new();
    while let Some(bytes) = parts.chunk().await? {
        if content.len() + bytes.len() > bytes_max {
            return Err(UploadError::TooLarge { field: name.into(), limit: bytes_max as u64 });
        }
        content.extend_from_slice(&bytes);
    }
    Ok(content)
}

/// A short text without the white space around it.
async fn text<S, E>(parts: &mut Parts<S>, name: &str, bytes_max: usize) -> Result<String, UploadError<E>>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let content = content(parts, name, bytes_max).await?;
    match std::str::from_utf8(&content).map(str::trim) {
        Ok(text) if !text.is_empty() => Ok(text.to_owned()),
        Ok(_) => Err(UploadError::bad(name, "must not be empty")),
        Err(_) => Err(UploadError::bad(name, "is not UTF-8")),
    }
}
