//! Turns a received upload into a job that can run: unpacks it, and decides what is run how.

use std::fs;
use std::io::Read;

use super::environment::{Environment, Environments};
use super::interpreter::Interpreter;
use super::job::Order;
use super::jobdir::JobDir;
use super::limits::Grant;
use super::manifest::{MANIFEST_BYTES_MAX, Manifest};
use super::outputs::OutputRule;
use super::path::JobPath;
use super::refusal::Refusal;
use super::sandbox::{Network, Plan};
use super::unpack::{self, UnpackError, Unpacker};
use super::upload::Upload;
use super::workdir::WorkDir;
use crate::worker::receipt::Subject;

/// What the archives of one job may unpack to: room for eight times the largest usual upload, and as many files as
/// can be looked through quickly when the outputs are listed.
const UNPACKED_MAX: unpack::Limits = unpack::Limits { entries: 50_000, bytes: 8 * 1024 * 1024 * 1024 };

/// What is run when nobody says so: the first of these that was uploaded.
const DEFAULT_ENTRYPOINTS: [(&str, Interpreter); 3] =
    [("main.py", Interpreter::Python3), ("index.js", Interpreter::Node), ("run.sh", Interpreter::Bash)];

impl Order {
    /// Prepares a job in its directory. Blocks: call it where that is allowed.
    ///
    /// # Errors
    /// When the upload cannot be unpacked, or asks for what cannot be run.
    pub fn prepare(
        dir: &JobDir,
        upload: &Upload,
        subject: Option<Subject>,
        grant: Grant,
        environments: &Environments,
    ) -> Result<Self, Refusal> {
        let disk = |error| Refusal::disk("preparing a job's directory", &error);
        let part = match &upload.manifest {
            Some(json) => Manifest::parse(json).map_err(Refusal::bad_request)?,
            None => Manifest::default(),
        };
        let work = dir.work().map_err(disk)?;
        let bytes = UNPACKED_MAX.bytes.min(grant.limits.disk_bytes);
        let mut unpacker = Unpacker::new(&work, unpack::Limits { bytes, ..UNPACKED_MAX });
        for (archive, kind) in &upload.archives {
            unpacker.unpack(archive, *kind).map_err(refusal)?;
        }
        fs::remove_dir_all(dir.upload()).map_err(disk)?;

        let manifest = complete(part, &work)?;
        let rule = OutputRule::new(&manifest.outputs, &work).map_err(Refusal::bad_request)?;
        let timeout = manifest.timeout.unwrap_or(grant.default_timeout);
        let limits = grant.limits.asked(manifest.memory_bytes, manifest.cpu).map_err(Refusal::bad_request)?;
        let network = match manifest.network {
            Some(true) => grant.network.ask().map(|()| Network::Host).map_err(Refusal::bad_request)?,
            Some(false) | None => Network::None,
        };
        let environment = manifest.environment.as_deref().map(|name| environments.find(name)).transpose();
        let environment = environment.map_err(Refusal::bad_request)?;
        let plan = plan(manifest, network, environment, &work)?;
        Ok(Self { plan, timeout, limits, rule, subject })
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
        memory_bytes: part.memory_bytes.or(file.memory_bytes),
        cpu: part.cpu.or(file.cpu),
        network: part.network.or(file.network),
        environment: part.environment.or(file.environment),
    })
}

fn plan(
    manifest: Manifest,
    network: Network,
    environment: Option<Environment>,
    work: &WorkDir,
) -> Result<Plan, Refusal> {
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
    let program = match environment.as_ref().and_then(|environment| environment.program(interpreter)) {
        Some(program) => program,
        None => interpreter.locate().map_err(Refusal::bad_request)?,
    };
    Ok(Plan {
        interpreter,
        program,
        entrypoint,
        args: manifest.args,
        env: manifest.env,
        environment,
        network,
    })
}

fn refusal(error: UnpackError) -> Refusal {
    match error {
        UnpackError::Io(error) => Refusal::disk("unpacking an upload", &error),
        error @ (UnpackError::Damaged(_) | UnpackError::Entry(..) | UnpackError::TooLarge(..)) => {
            Refusal::bad_request(error)
        }
    }
}
