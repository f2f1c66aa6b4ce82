//! The pool's side of a submit, and what comes of it.

use std::convert::Infallible;
use std::sync::LazyLock;

use bytes::Bytes;
use futures_util::stream;
use tokio::runtime::{Builder, Runtime};
use trusted_pool::job::{JobId, Priority};
use trusted_pool::spool::{Spool, Upload, UploadError, UploadLimits, encode, parse_upload};
use trusted_pool::store::{Payload, Work};

/// Made once for all inputs; they run one after another.
static POOL: LazyLock<(Runtime, Spool)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().build().expect("a runtime without I/O");
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/target/spool");
    (runtime, Spool::open(dir, u64::MAX).expect("a directory below target"))
});

/// All that is told of an upload that was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Of the names, the contents and the manifest.
    pub sha256: [u8; 32],
    pub file_names: Vec<String>,
    pub manifest: String,
    pub bytes: u64,
    pub priority: Option<Priority>,
    pub idempotency_key: Option<String>,
}

/// Sends a body in pieces.
pub fn submit<'a>(
    boundary: &str,
    pieces: impl Iterator<Item = &'a [u8]>,
    limits: &UploadLimits,
) -> Result<Upload, UploadError<Infallible>> {
    let (runtime, spool) = &*POOL;
    let body = stream::iter(pieces.map(|piece| Ok(Bytes::copy_from_slice(piece))));
    runtime.block_on(parse_upload(body, &encode::content_type(boundary), limits, spool))
}

/// What a submit comes to: what is told of it, or the refusal in words.
pub fn outcome(submitted: &Result<Upload, UploadError<Infallible>>) -> Result<Told, String> {
    let upload = submitted.as_ref().map_err(ToString::to_string)?;
    Ok(Told {
        sha256: upload.sha256,
        file_names: upload.file_names.clone(),
        manifest: upload.manifest.to_worker_json(),
        bytes: upload.writer.bytes(),
        priority: upload.priority,
        idempotency_key: upload.idempotency_key.clone(),
    })
}

/// The body that a worker is sent, with its boundary. The upload must be small enough for a row.
pub fn to_worker(upload: Upload) -> (String, Vec<u8>) {
    let job = JobId::from_random([7; 12]);
    let Work { manifest, boundary, payload, .. } =
        POOL.0.block_on(upload.into_work(&job)).expect("nothing goes to the disk");
    let Payload::Inline(files) = payload else { panic!("the input is too long for this") };
    let body = [&files[..], encode::manifest_part(&boundary, &manifest).as_bytes()].concat();
    (boundary, body)
}
