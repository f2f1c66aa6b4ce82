//! `verify`: checks a receipt, and files by it, without asking anybody.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use sha2::{Digest, Sha256};

use super::exit::Failure;
use super::print;
use crate::worker::WorkerKey;
use crate::worker::receipt::{OutputSum, Receipt, Sha256Sum};

/// Longest receipt that is read, in bytes: a worker's status, which holds it, is not longer for the pool.
const RECEIPT_BYTES_MAX: u64 = 16 << 20;

/// Bytes hashed at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Check what a worker has signed of a job's run, and files by it
///
/// It says whether the receipt (from GET /receipt/{job}) is signed by the worker that it names, and whether each FILE is
/// one of its outputs: the one whose path is the end of the FILE's path, whole names only, and the longest of those.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The receipt; - reads it from standard input
    #[arg(value_name = "RECEIPT")]
    receipt: PathBuf,
    /// The worker that must have signed it. Without it, whoever made a key for the purpose may have
    #[arg(long, value_name = "WORKER_ID", value_parser = |text: &str| WorkerKey::parse_any(text).map_err(|error| error.to_string()))]
    key: Option<WorkerKey>,
    /// Outputs as they were downloaded
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let receipt =
        read(&args.receipt).map_err(|why| Failure::Setup(format!("{}: {why}", args.receipt.display())))?;
    let worker = args.key.unwrap_or(receipt.worker_id());
    if let Err(error) = receipt.verify(worker) {
        print::line(&format!("WRONG  {error}"))?;
        return Ok(ExitCode::FAILURE);
    }
    print::line(&format!(
        "ok     worker {worker} signed: job {}, attempt {}, exit code {}, {} outputs",
        receipt.job_id,
        receipt.attempt,
        receipt.exit_code,
        receipt.outputs.len()
    ))?;
    if args.key.is_none() {
        eprintln!(
            "whether that is a worker of the pool the receipt cannot tell: say which it must be by --key"
        );
    }
    let mut code = ExitCode::SUCCESS;
    for file in &args.files {
        match check(&receipt, file) {
            Ok(output) => print::line(&format!("ok     {} is {:?}", file.display(), output.path))?,
            Err(why) => {
                print::line(&format!("WRONG  {}: {why}", file.display()))?;
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn read(path: &Path) -> Result<Receipt, String> {
    let words = |error: io::Error| error.to_string();
    let source: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(path).map_err(words)?),
    };
    let mut json = Vec::new();
    source.take(RECEIPT_BYTES_MAX + 1).read_to_end(&mut json).map_err(words)?;
    if json.len() as u64 > RECEIPT_BYTES_MAX {
        return Err(format!("is longer than {RECEIPT_BYTES_MAX} bytes"));
    }
    serde_json::from_slice(&json).map_err(|error| format!("is no receipt: {error}"))
}

/// The output that a file is, or why it is none.
fn check<'a>(receipt: &'a Receipt, file: &Path) -> Result<&'a OutputSum, String> {
    let output = named(receipt, file).ok_or("the receipt names no output of this path")?;
    let Some(signed) = output.sha256 else {
        return Err(format!("the worker signed no digest of {:?}", output.path));
    };
    let (size, sum) = summed(file).map_err(|error| error.to_string())?;
    if size != output.size {
        return Err(format!("has {size} bytes; the worker signed {} for {:?}", output.size, output.path));
    }
    if sum != signed {
        return Err(format!("has the SHA-256 {sum}; the worker signed {signed} for {:?}", output.path));
    }
    Ok(output)
}

fn named<'a>(receipt: &'a Receipt, file: &Path) -> Option<&'a OutputSum> {
    let names: Vec<&str> = file
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => name.to_str(),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
        })
        .collect();
    (0..names.len()).find_map(|from| receipt.output(&names[from..].join("/")))
}

fn summed(path: &Path) -> io::Result<(u64, Sha256Sum)> {
    let mut file = File::open(path)?;
    let (mut hash, mut size, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok((size, Sha256Sum(hash.finalize().into()))),
            read => {
                hash.update(&chunk[..read]);
                size += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::identity::SecretKey;
    use crate::worker::receipt::{Ending, Subject};

    fn receipt(files: &[(&str, &[u8])]) -> Receipt {
        let sum = |bytes: &[u8]| Sha256Sum(Sha256::digest(bytes).into());
        let outputs = files.iter().map(|(path, content)| OutputSum {
            path: (*path).to_owned(),
            size: content.len() as u64,
            sha256: Some(sum(content)),
        });
        let outputs = outputs.collect();
        let subject = Subject {
            job_id: "pool-0123456789abcdef".to_owned(),
            attempt: 1,
            payload_sha256: sum(b""),
            manifest_sha256: sum(b""),
        };
        let ending = Ending { exit_code: 0, started_at_micros: 1, finished_at_micros: 2, outputs };
        Receipt::sign(&SecretKey::generate(), subject, ending)
    }

    #[test]
    fn a_file_is_the_output_that_its_path_ends_in() {
        let receipt = receipt(&[("a", b"1"), ("r/a", b"2"), ("r/b", b"3")]);
        let found = |file: &str| named(&receipt, Path::new(file)).map(|output| output.path.as_str());
        for (file, output) in [
            ("a", Some("a")),
            ("./out/r/a", Some("r/a")),
            ("/tmp/r/b", Some("r/b")),
            ("b", None),
            ("/tmp/ba", None),
            ("x/b", None),
            ("..", None),
        ] {
            assert_eq!(found(file), output, "{file}");
        }
    }

    #[test]
    fn a_file_is_checked_by_its_size_and_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let receipt = receipt(&[("a", b"one")]);
        for (content, why) in [("one", None), ("ones", Some("4 bytes")), ("two", Some("SHA-256"))] {
            std::fs::write(&path, content).unwrap();
            match (check(&receipt, &path), why) {
                (Ok(output), None) => assert_eq!(output.path, "a"),
                (Err(error), Some(why)) => assert!(error.contains(why), "{error}"),
                (got, why) => panic!("{content}: {got:?}, {why:?}"),
            }
        }
    }
}
