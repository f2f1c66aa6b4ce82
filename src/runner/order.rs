//! Turns a received upload into a job that can run: unpacks it, and decides what is run how.

use std::fs;
use std::io::Read;
use std::time::Duration;

use super::interpreter::Interpreter;
use super::job::Order;
use super::jobdir::JobDir;
use super::manifest::{MANIFEST_BYTES_MAX, Manifest};
use super::outputs::OutputRule;
use super::path::JobPath;
use super::refusal::Refusal;
use super::sandbox::Plan;
use super::unpack::{Limits, UnpackError, Unpacker};
use super::upload::Upload;
use super::workdir::WorkDir;

/// What the archives of one job may unpack to: room for eight times the largest usual upload, and as many files as
/// can be looked through quickly when the outputs are listed.
const UNPACKED_MAX: Limits = Limits { entries: 50_000, bytes: 8 * 1024 * 1024 * 1024 };

/// What is run when nobody says so: the first of these that was uploaded.
const DEFAULT_ENTRYPOINTS: [(&str, Interpreter); 3] =
    [("main.py", Interpreter::Python3), ("index.js", Interpreter::Node), ("run.sh", Interpreter::Bash)];

impl Order {
    /// Prepares a job. Blocks: call it where that is allowed.
    ///
    /// # Errors
    /// When the upload cannot be unpacked, or asks for what cannot be run.
    pub fn prepare(dir: JobDir, upload: Upload, default_timeout: Duration) -> Result<Self, Refusal> {
        let disk = |error| Refusal::disk("preparing a job's directory", &error);
        let part = match &upload.manifest {
            Some(json) => Manifest::parse(json).map_err(Refusal::bad_request)?,
            None => Manifest::default(),
        };
        let work = dir.work().map_err(disk)?;
        let mut unpacker = Unpacker::new(&work, UNPACKED_MAX);
        for (archive, kind) in &upload.archives {
            unpacker.unpack(archive, *kind).map_err(refusal)?;
        }
        fs::remove_dir_all(dir.upload()).map_err(disk)?;

        let manifest = complete(part, &work)?;
        let rule = OutputRule::new(&manifest.outputs, &work).map_err(Refusal::bad_request)?;
        let timeout = manifest.timeout.unwrap_or(default_timeout);
        let plan = plan(manifest, &work)?;
        Ok(Self { plan, timeout, work, rule, hash: upload.hash, dir })
    }
}

/// Without an entrypoint in the manifest, an uploaded `job.json` is the manifest, as far as the other does not say.
fn complete(part: Manifest, work: &WorkDir) -> Result<Manifest, Refusal> {
    if part.entrypoint.is_some() {
        return Ok(part);
    }
    let name = JobPath::parse("job.json").expect("a plain name");
    let Ok(open) = work.open(&name) else { return Ok(part) };
    let mut json = Vec::new();
    open.file
        .take(MANIFEST_BYTES_MAX as u64 + 1)
        .read_to_end(&mut json)
        .map_err(|error| Refusal::disk("reading job.json", &error))?;
    let file = Manifest::parse(&json).map_err(|error| Refusal::bad_request(format!("job.json: {error}")))?;
    Ok(Manifest {
        entrypoint: file.entrypoint,
        interpreter: part.interpreter.or(file.interpreter),
        args: if part.args.is_empty() { file.args } else { part.args },
        env: if part.env.is_empty() { file.env } else { part.env },
        outputs: if part.outputs.is_empty() { file.outputs } else { part.outputs },
        timeout: part.timeout.or(file.timeout),
    })
}

fn plan(manifest: Manifest, work: &WorkDir) -> Result<Plan, Refusal> {
    let (entrypoint, usual) = match manifest.entrypoint {
        Some(entrypoint) => (entrypoint, Interpreter::Python3),
        None => DEFAULT_ENTRYPOINTS
            .into_iter()
            .map(|(name, interpreter)| (JobPath::parse(name).expect("a plain name"), interpreter))
            .find(|(path, _)| work.open(path).is_ok())
            .ok_or_else(|| Refusal::bad_request("No entrypoint specified"))?,
    };
    if work.open(&entrypoint).is_err() {
        return Err(Refusal::bad_request(format!("The entrypoint {entrypoint} is no file of the upload")));
    }
    let interpreter = manifest.interpreter.unwrap_or(usual);
    let program = interpreter.locate().map_err(Refusal::bad_request)?;
    Ok(Plan { interpreter, program, entrypoint, args: manifest.args, env: manifest.env })
}

fn refusal(error: UnpackError) -> Refusal {
    match error {
        UnpackError::Io(error) => Refusal::disk("unpacking an upload", &error),
        error @ (UnpackError::Damaged(_) | UnpackError::Entry(..) | UnpackError::TooLarge(..)) => {
            Refusal::bad_request(error)
        }
    }
}
