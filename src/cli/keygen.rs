//! `trusted-pool keygen FILE`: makes a worker's identity.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::worker::identity::WorkerIdentity;

/// Make a worker's key: writes the file, prints the id for the pool's allowlist
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to write the secret key (PKCS#8 PEM, mode 0600); must not exist
    #[arg(value_name = "FILE")]
    path: PathBuf,
}

/// Writes the key and prints `Worker ID: <base64>`, or says why not.
pub fn run(args: Args) -> ExitCode {
    let identity = WorkerIdentity::generate();
    match write_new(&args.path, identity.to_pkcs8_pem().as_bytes()) {
        Ok(()) => {
            println!("Worker ID: {}", identity.public());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", explain(&args.path, &error));
            ExitCode::FAILURE
        }
    }
}

/// Creates the file with its final mode, so that no moment exists in which others could open it.
fn write_new(path: &Path, pem: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(pem).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key is worse than none: it would stop the next keygen and start no worker.
        let _ = fs::remove_file(path);
    }
    written
}

fn explain(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        ErrorKind::AlreadyExists => {
            format!(
                "{path} exists and is not overwritten: name another file, or remove it if its key is not in use"
            )
        }
        ErrorKind::NotFound => format!("{path}: its directory does not exist"),
        _ => format!("{path}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn key_is_written_once_and_only_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.pem");
        assert_eq!(run(Args { path: path.clone() }), ExitCode::SUCCESS);
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        WorkerIdentity::from_pkcs8_pem(&first).unwrap();

        assert_eq!(run(Args { path: path.clone() }), ExitCode::FAILURE);
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
    }
}
