//! `download`: fetches what a job has put out.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::ProgressBar;

use super::exit::Failure;
use super::pool::PoolArgs;
use super::{print, progress};
use crate::client::{Client, ClientError, Progress, local_path};
use crate::job::JobId;

/// A download that broke off leaves NAME.JOB.part, from which the next one carries on. The paths written are printed
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    job: JobId,
    /// One output, as the listing names it; without it, all of them
    #[arg(conflicts_with = "archive")]
    path: Option<String>,
    /// Where to: a file for one output or the archive (- for standard output), else a directory [default: the name of
    /// the output, or of the job]
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// All of them, as one .tar.gz
    #[arg(long)]
    archive: bool,
    #[command(flatten)]
    pool: PoolArgs,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let client = args.pool.client()?;
    let job = &args.job;
    if args.archive {
        let to = args.output.unwrap_or_else(|| format!("{job}.tar.gz").into());
        let bar = progress::bar(None);
        let done = client.download_archive(job, &to, &mut shown_on(&bar)).await;
        bar.finish_and_clear();
        done?;
        print::line(&to.display().to_string())?;
    } else if let Some(path) = &args.path {
        one(&client, job, path, args.output.as_deref()).await?;
    } else {
        all(&client, job, &args.output.unwrap_or_else(|| job.as_str().into())).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn one(client: &Client, job: &JobId, path: &str, to: Option<&Path>) -> Result<(), Failure> {
    if to == Some(Path::new("-")) {
        let mut out = io::stdout().lock();
        client.stream_output(job, path, &mut out).await??;
        return Ok(out.flush()?);
    }
    // Into a directory that is there, as `cp` does it.
    let name =
        Path::new(path).file_name().ok_or_else(|| Failure::Setup(format!("{path:?} names no file")))?;
    let to = match to {
        Some(directory) if directory.is_dir() => directory.join(name),
        Some(file) => file.to_owned(),
        None => name.into(),
    };
    fetch(client, job, path, &to).await
}

/// Every file of the listing, below `directory`. A file that fails does not keep the rest from being fetched.
pub(super) async fn all(client: &Client, job: &JobId, directory: &Path) -> Result<(), Failure> {
    let listing = client.outputs(job).await?.value;
    let mut failed: Option<Failure> = None;
    for file in &listing.files {
        let fetched = match local_path(directory, &file.name) {
            Ok(to) => fetch(client, job, &file.name, &to).await,
            Err(error) => Err(error.into()),
        };
        match fetched {
            Ok(()) => {}
            // The next one would fail the same way.
            Err(failure @ (Failure::Client(ClientError::Unreachable(_)) | Failure::Output(_))) => {
                return Err(failure);
            }
            // All of them are told; the last one ends the command.
            Err(failure) => drop(failed.replace(failure).map(|before| before.report())),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn fetch(client: &Client, job: &JobId, path: &str, to: &Path) -> Result<(), Failure> {
    let bar = progress::bar(None).with_message(print::printable(path));
    let done = client.download(job, path, to, &mut shown_on(&bar)).await;
    bar.finish_and_clear();
    done?;
    Ok(print::line(&to.display().to_string())?)
}

fn shown_on(bar: &ProgressBar) -> impl FnMut(Progress) + use<'_> {
    |progress| match progress {
        Progress::Begins { there, total } => {
            if let Some(total) = total {
                bar.set_length(total);
            }
            // What was there before says nothing about the speed now.
            bar.set_position(there);
            bar.reset_eta();
        }
        Progress::Received(bytes) => bar.inc(bytes),
    }
}
