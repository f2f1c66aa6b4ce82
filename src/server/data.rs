//! The data directory as a whole: private, one pool's alone, and that pool's identity.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::keyfile;
use crate::worker::identity::SecretKey;

/// Makes the data directory private, and takes it for this process alone.
pub fn lock(data: &Path) -> Result<File, String> {
    let wrong = |error: io::Error| format!("data directory {}: {error}", data.display());
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(wrong)?;
    let lock = File::create(data.join("lock")).map_err(wrong)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(format!(
            "data directory {} is in use by another pool; give each its own `data`",
            data.display()
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(wrong(error)),
    }
}

/// The pool's own key, made at its first start.
pub fn own_key(data: &Path) -> Result<SecretKey, String> {
    keyfile::read_or_create(&data.join("pool.pem"))
}
