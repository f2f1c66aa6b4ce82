//! `cancel` and `retry`: what a client may still want of a job.

use std::process::ExitCode;

use super::exit::Failure;
use super::pool::{FormatArgs, PoolArgs};
use super::print;
use crate::client::Answer;
use crate::client::answers::Moved;
use crate::job::JobId;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    job: JobId,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    format: FormatArgs,
}

pub(super) async fn cancel(args: Args) -> Result<ExitCode, Failure> {
    show(args.pool.client()?.cancel(&args.job).await?, &args.format)
}

pub(super) async fn retry(args: Args) -> Result<ExitCode, Failure> {
    show(args.pool.client()?.retry(&args.job).await?, &args.format)
}

fn show(moved: Answer<Moved>, format: &FormatArgs) -> Result<ExitCode, Failure> {
    let Answer { value, text } = moved;
    let line = format!("{}: {}", print::printable(&value.job_id), value.pool_status.as_str());
    print::line(if format.json { &text } else { &line })?;
    Ok(ExitCode::SUCCESS)
}
