//! `trusted-pool keygen FILE`: makes a worker's identity.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::keyfile;
use crate::worker::identity::SecretKey;

/// Make a worker's key: writes the file, prints the id for the pool's allowlist
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to write the secret key (PKCS#8 PEM, mode 0600); must not exist
    #[arg(value_name = "FILE")]
    path: PathBuf,
}

/// Writes the key and prints `Worker ID: <base64>`, or says why not.
pub fn run(args: Args) -> ExitCode {
    let identity = SecretKey::generate();
    match keyfile::create(&args.path, &identity) {
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
    use super::*;

    #[test]
    fn a_key_that_exists_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.pem");
        assert_eq!(run(Args { path: path.clone() }), ExitCode::SUCCESS);
        let first = keyfile::read(&path).unwrap().public();
        assert_eq!(run(Args { path: path.clone() }), ExitCode::FAILURE);
        assert_eq!(keyfile::read(&path).unwrap().public(), first);
    }
}
