//! The multipart body that is sent to a worker: `payload`, then the manifest part and the closing boundary.

use crate::store::Payload;

/// The head of a `files` part. `name` is a safe base name: it goes into the quotes as it is.
pub(super) fn file_head(boundary: &str, name: &str) -> String {
    format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"files\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
}

/// What ends a part's content.
pub(super) const PART_END: &[u8] = b"\r\n";

/// What follows the payload: the manifest part and the closing boundary.
pub fn manifest_part(boundary: &str, manifest: &str) -> String {
    format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"manifest\"\r\n\
         Content-Type: application/json\r\n\r\n{manifest}\r\n--{boundary}--\r\n"
    )
}

/// The value of the request's `Content-Type`.
pub fn content_type(boundary: &str) -> String {
    format!("multipart/form-data; boundary={boundary}")
}

/// The length of the whole body in bytes.
pub fn content_length(payload: &Payload, manifest_part: &str) -> u64 {
    payload.bytes() + manifest_part.len() as u64
}
