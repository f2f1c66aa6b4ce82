//! `drain` and `resume`: whether a worker gets jobs.

use std::process::ExitCode;
use std::time::Duration;

use super::exit::Failure;
use super::pool::{FormatArgs, PoolArgs};
use super::print;
use crate::client::Answer;
use crate::client::answers::Drained;
use crate::worker::WorkerKey;

/// Between two looks whether a worker is idle.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The worker's id, as `workers` shows it
    #[arg(value_parser = WorkerKey::parse_any)]
    worker: WorkerKey,
    /// Why, for those who look at the pool
    #[arg(long, default_value = "")]
    reason: String,
    /// Return when the worker has no more jobs
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// The worker's id, as `workers` shows it
    #[arg(value_parser = WorkerKey::parse_any)]
    worker: WorkerKey,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    format: FormatArgs,
}

pub(super) async fn drain(args: Args) -> Result<ExitCode, Failure> {
    let client = args.pool.client()?;
    let drained = client.drain(&args.worker, &args.reason).await?;
    let mut active_jobs = drained.value.active_jobs;
    while args.wait && active_jobs > 0 {
        eprintln!("{active_jobs} jobs are running there");
        tokio::time::sleep(LOOK).await;
        let pool = client.pool().await?.value;
        let id = args.worker.to_string();
        active_jobs =
            pool.workers.iter().find(|worker| worker.worker_id == id).map_or(0, |worker| worker.active_jobs);
    }
    show(&drained, "gets no more jobs", &args.format)
}

pub(super) async fn resume(args: ResumeArgs) -> Result<ExitCode, Failure> {
    let resumed = args.pool.client()?.resume(&args.worker).await?;
    show(&resumed, "gets jobs again", &args.format)
}

fn show(answer: &Answer<Drained>, what: &str, format: &FormatArgs) -> Result<ExitCode, Failure> {
    let line = format!("worker {} {what}", print::printable(&answer.value.worker_id));
    print::line(if format.json { &answer.text } else { &line })?;
    Ok(ExitCode::SUCCESS)
}
