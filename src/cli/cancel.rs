//! `cancel` and `retry`: what a client may still want of a job.

use std::process::ExitCode;

use super::exit::Failure;
use super::pool::{FormatArgs, JobArgs};
use super::print;
use crate::client::Answer;
use crate::client::answers::Moved;

pub(super) async fn cancel(args: JobArgs) -> Result<ExitCode, Failure> {
    show(args.pool.client()?.cancel(&args.job).await?, &args.format)
}

pub(super) async fn retry(args: JobArgs) -> Result<ExitCode, Failure> {
    show(args.pool.client()?.retry(&args.job).await?, &args.format)
}

fn show(moved: Answer<Moved>, format: &FormatArgs) -> Result<ExitCode, Failure> {
    let Answer { value, text } = moved;
    let line = format!("{}: {}", print::printable(&value.job_id), value.pool_status.as_str());
    print::line(if format.json { &text } else { &line })?;
    Ok(ExitCode::SUCCESS)
}
