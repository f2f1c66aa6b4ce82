//! `logs`: what a job has printed.

use std::io::{self, Write};
use std::process::ExitCode;

use super::exit::Failure;
use super::pool::{FormatArgs, PoolArgs};
use super::print;
use crate::job::JobId;

/// The job's standard output goes to standard output, its standard error to standard error, unless one of them is asked for
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    job: JobId,
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
    let logs = args.pool.client()?.logs(&args.job).await?;
    if args.format.json {
        print::line(&logs.text)?;
    } else if args.stderr {
        write_exactly(&logs.value.stderr)?;
    } else {
        write_exactly(&logs.value.stdout)?;
        if !args.stdout {
            // Nothing can be said when standard error takes nothing.
            let _ = io::stderr().write_all(logs.value.stderr.as_bytes());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Not a byte more than the job wrote: the text may go to a file.
fn write_exactly(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
