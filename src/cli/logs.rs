//! `logs`: what a job has printed.

use std::process::ExitCode;

use super::exit::Failure;
use super::follow::{self, LogMode};
use super::live_log::{Screen, Shown};
use super::pool::{FormatArgs, PoolArgs};
use super::print;
use crate::job::JobId;

/// The job's standard output goes to standard output, its standard error to standard error, unless one of them is asked for
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    job: JobId,
    /// Go on while the job writes, until it has ended
    #[arg(short, long, conflicts_with = "json")]
    follow: bool,
    /// Only the job's standard output
    #[arg(long, conflicts_with_all = ["stderr", "json"])]
    stdout: bool,
    /// Only the job's standard error, on standard output
    #[arg(long, conflicts_with = "json")]
    stderr: bool,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    format: FormatArgs,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let client = args.pool.client()?;
    if args.format.json {
        print::line(&client.logs(&args.job).await?.text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let shown = match (args.stdout, args.stderr) {
        (true, _) => Shown::Stdout,
        (false, true) => Shown::Stderr,
        (false, false) => Shown::Both,
    };
    if args.follow {
        follow::until_finished(&client, &args.job, None, LogMode::Live(shown)).await?;
    } else {
        Screen::new(&client, &args.job, shown).show_rest().await?;
    }
    Ok(ExitCode::SUCCESS)
}
