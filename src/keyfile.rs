//! A secret key in a file: written once, for its owner alone, and read only where nobody else can.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::worker::identity::SecretKey;

/// Largest key file read, in bytes: a PEM of an Ed25519 key has about 120.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Writes a key to a new file, created with its final mode, so that no moment exists in which others could open it.
///
/// # Errors
/// When the file exists, or cannot be written.
pub fn create(path: &Path, key: &SecretKey) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(key.to_pkcs8_pem().as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key is worse than none: it would stop the next one from being made, and start nothing.
        let _ = fs::remove_file(path);
    }
    written
}

/// Reads a key, if nobody else can.
///
/// # Errors
/// When there is none, others can read it, or it is no key; in words that name the file and the remedy.
pub fn read(path: &Path) -> Result<SecretKey, String> {
    let named = path.display();
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{named} does not exist: make it with trusted-pool keygen {named}")
        }
        _ => format!("{named}: {error}"),
    })?;
    let metadata = file.metadata().map_err(|error| format!("{named}: {error}"))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{named} has mode {mode:04o}, so others than its owner can reach the secret key: chmod 600 {named}"
        ));
    }
    let mut pem = String::new();
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut pem).map_err(|error| format!("{named}: {error}"))?;
    SecretKey::from_pkcs8_pem(&pem).map_err(|error| format!("{named}: {error}"))
}

/// Reads a key, or makes it where there is none yet.
///
/// # Errors
/// As [`read`], and when it cannot be written.
pub fn read_or_create(path: &Path) -> Result<SecretKey, String> {
    let key = SecretKey::generate();
    match create(path, &key) {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(path),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_written_once_and_only_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool.pem");
        let key = read_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_or_create(&path).unwrap().public(), key.public());
        let error = create(&path, &SecretKey::generate()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path).unwrap().public(), key.public());
    }

    #[test]
    fn key_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.pem");
        assert!(read(&path).unwrap_err().contains("keygen"));
        create(&path, &SecretKey::generate()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).unwrap_err().contains("chmod 600"));
        assert!(read_or_create(&path).unwrap_err().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        read(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "nonsense").unwrap();
        assert!(read(&path).unwrap_err().contains("PEM"));
    }
}
