//! `workers`: the pool's workers, and what they are doing.

use std::process::ExitCode;

use super::exit::Failure;
use super::pool::{FormatArgs, PoolArgs};
use super::print;
use crate::client::answers::PoolWorker;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    format: FormatArgs,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let pool = args.pool.client()?.pool().await?;
    if args.format.json {
        print::line(&pool.text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["WORKER", "ENDPOINT", "IDENTITY", "HEALTH", "JOBS", "CHECKED"].map(str::to_owned)];
    rows.extend(pool.value.workers.iter().map(row));
    print::table(&rows)?;
    let pool = pool.value;
    eprintln!(
        "{} of {} workers are healthy; {} jobs wait",
        pool.healthy_workers, pool.total_workers, pool.queued_jobs
    );
    Ok(ExitCode::SUCCESS)
}

fn row(worker: &PoolWorker) -> [String; 6] {
    let health = match (worker.is_healthy, &worker.reason) {
        (true, None) => "healthy".to_owned(),
        (false, None) => "down".to_owned(),
        (true, Some(reason)) => format!("healthy: {}", print::printable(reason)),
        (false, Some(reason)) => format!("down: {}", print::printable(reason)),
    };
    let health = match &worker.draining {
        Some(draining) => {
            format!("{health}; draining {}", print::printable(&draining.reason)).trim_end().to_owned()
        }
        None => health,
    };
    [
        print::printable(&worker.worker_id),
        print::printable(&worker.endpoint),
        worker.identity.as_deref().map_or("unknown".to_owned(), print::printable),
        health,
        format!("{}/{}", worker.active_jobs, worker.max_concurrent_jobs),
        worker.last_health_check.map_or("never".to_owned(), print::age),
    ]
}
