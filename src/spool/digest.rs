//! What makes two submits the same.

use sha2::{Digest, Sha256};

/// Marks what follows in a [`ContentDigest`].
const FILE: [u8; 1] = [1];
const MANIFEST: [u8; 1] = [2];

/// SHA-256 over what a client sent, whatever boundary and chunks it was sent in.
///
/// With `len` as 8 bytes, most significant first, the hashed bytes are, for each file in the order sent,
/// `01 len(name) name len(content) SHA-256(content)`, then `02 len(manifest) manifest`: the names as they are sent to the
/// worker, the manifest re-encoded. So a worker can compute it of what it receives. Every item is bounded by its length, so no two submits share them.
#[derive(Debug, Default)]
pub struct ContentDigest {
    whole: Sha256,
    file: Sha256,
    file_bytes: u64,
}

impl ContentDigest {
    pub fn begin_file(&mut self, name: &str) {
        self.whole.update(FILE);
        self.bytes(name.as_bytes());
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.file.update(bytes);
        self.file_bytes += bytes.len() as u64;
    }

    pub fn end_file(&mut self) {
        self.whole.update(std::mem::take(&mut self.file_bytes).to_be_bytes());
        self.whole.update(self.file.finalize_reset());
    }

    pub fn finish(mut self, manifest: &[u8]) -> [u8; 32] {
        self.whole.update(MANIFEST);
        self.bytes(manifest);
        self.whole.finalize().into()
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.whole.update((bytes.len() as u64).to_be_bytes());
        self.whole.update(bytes);
    }
}
