//! `jobs`: the pool's jobs, the newest first.

use std::process::ExitCode;

use super::exit::Failure;
use super::pool::{FormatArgs, PoolArgs};
use super::print;
use crate::client::JobsQuery;
use crate::client::answers::Status;
use crate::job::PoolStatus;
use crate::worker::WorkerKey;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only jobs in this state
    #[arg(long, value_parser = status_names())]
    status: Option<String>,
    /// Only jobs that this worker has, by its id
    #[arg(long, value_name = "WORKER_ID", value_parser = WorkerKey::parse_any)]
    worker: Option<WorkerKey>,
    /// How many to list; with --all, how many to ask for at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    /// List all of them. With --json there is one answer of the pool on each line
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    format: FormatArgs,
}

fn status_names() -> clap::builder::PossibleValuesParser {
    PoolStatus::ALL.map(PoolStatus::as_str).into()
}

const HEAD: [&str; 5] = ["JOB", "STATUS", "SUBMITTED", "COMPLETED", "WORKER"];

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let client = args.pool.client()?;
    let worker = args.worker.map(|key| key.to_string());
    let mut query = JobsQuery { status: args.status, worker, limit: args.limit, cursor: None };
    let mut head = vec![HEAD.map(str::to_owned)];
    loop {
        let page = client.jobs(&query).await?;
        if args.format.json {
            print::line(&page.text)?;
        } else {
            // Each page as it comes: there may be a million jobs.
            let mut rows = std::mem::take(&mut head);
            rows.extend(page.value.jobs.iter().map(row));
            print::table(&rows)?;
        }
        match page.value.next_cursor {
            Some(cursor) if args.all => query.cursor = Some(cursor),
            Some(_) => {
                eprintln!("there are more: --all lists them");
                return Ok(ExitCode::SUCCESS);
            }
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn row(job: &Status) -> [String; 5] {
    [
        job.job_id.to_string(),
        format!("{:10}", job.pool_status.as_str()),
        format!("{:12}", print::age(job.submitted_at)),
        format!("{:12}", job.completed_at.map_or("-".to_owned(), print::age)),
        job.worker_id.as_deref().map_or("-".to_owned(), print::printable),
    ]
}
