//! `submit`: sends a job.

mod manifest;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;

use self::manifest::ManifestArgs;
use super::exit::Failure;
use super::follow::{self, LogMode};
use super::pool::{FormatArgs, PoolArgs};
use super::{pack, print, progress};
use crate::client::answers::Status;
use crate::client::{Part, Upload};
use crate::config::units;
use crate::job::{PoolStatus, Priority};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to send: a file goes as it is, a directory as a .tar.gz of what is in it
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    manifest: ManifestArgs,
    /// high, normal or low
    #[arg(long)]
    priority: Option<Priority>,
    /// Your own name for this submit: a second one under the same name is the same job
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait until the job is over
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this, for example 90s or 2h
    #[arg(long, requires = "wait", value_name = "DURATION", value_parser = wait_timeout)]
    wait_timeout: Option<Duration>,
    /// Exit as the job did: 0 if it completed, else its own exit code, or 1 if it has none
    #[arg(long, requires = "wait")]
    exit_status: bool,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    format: FormatArgs,
}

fn wait_timeout(text: &str) -> Result<Duration, String> {
    units::duration(text, &(Duration::ZERO..=Duration::from_secs(365 * 86_400)))
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let client = args.pool.client()?;
    let manifest = args.manifest.json(&args.paths)?;
    let files = args.paths.iter().map(|path| part(path)).collect::<Result<Vec<_>, _>>()?;
    let bar = progress::bar(Some(files.iter().map(Part::bytes).sum()));
    let counted: ProgressBar = bar.clone();
    let upload = Upload {
        files,
        manifest,
        priority: args.priority,
        idempotency_key: args.idempotency_key,
        progress: Box::new(move |bytes| counted.inc(bytes)),
    };
    let submitted = client.submit(upload).await;
    bar.finish_and_clear();
    let submitted = submitted?;
    let job = submitted.value.job_id;
    print::line(if args.format.json { &submitted.text } else { job.as_str() })?;
    if !args.wait {
        return Ok(ExitCode::SUCCESS);
    }
    let status = follow::until_finished(&client, &job, args.wait_timeout, LogMode::Quiet).await?;
    if args.format.json {
        print::line(&status.text)?;
    } else {
        eprintln!("{job}: {}", print::printable(&follow::outcome(&status.value)));
    }
    Ok(if args.exit_status { exit_status(&status.value) } else { ExitCode::SUCCESS })
}

fn exit_status(status: &Status) -> ExitCode {
    if status.pool_status == PoolStatus::Completed {
        return ExitCode::SUCCESS;
    }
    // A job that failed must not seem to have ended well.
    let code = status.exit_code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    ExitCode::from(code.unwrap_or(1))
}

/// What is sent for a path.
fn part(path: &Path) -> Result<Part, Failure> {
    let wrong = |error: std::io::Error| Failure::Setup(format!("{}: {error}", path.display()));
    // Of the thing itself: the name of `.` is that of the directory it stands for.
    let real = fs::canonicalize(path).map_err(wrong)?;
    let name = real.file_name().map_or("job".into(), |name| name.to_string_lossy().into_owned());
    let kind = fs::metadata(&real).map_err(wrong)?.file_type();
    if kind.is_dir() {
        let packed = pack::directory(&real).map_err(wrong)?;
        return Part::new(format!("{name}.tar.gz"), packed).map_err(wrong);
    }
    if !kind.is_file() {
        return Err(Failure::Setup(format!("{}: is neither a file nor a directory", path.display())));
    }
    // A link's own name, not that of what it points to.
    let name = path.file_name().map_or(name, |name| name.to_string_lossy().into_owned());
    Part::new(name, File::open(&real).map_err(wrong)?).map_err(wrong)
}
