//! `status`: how a job is doing.

use std::process::ExitCode;

use super::exit::Failure;
use super::pool::JobArgs;
use super::print;
use crate::client::answers::Status;

pub(super) async fn run(args: JobArgs) -> Result<ExitCode, Failure> {
    let status = args.pool.client()?.status(&args.job).await?;
    print::line(&if args.format.json { status.text } else { describe(&status.value) })?;
    Ok(ExitCode::SUCCESS)
}

fn describe(status: &Status) -> String {
    let mut lines = vec![
        format!("job        {}", status.job_id),
        format!("status     {}", status.pool_status.as_str()),
        format!("submitted  {}", print::age(status.submitted_at)),
    ];
    let mut add = |name: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("{name:10} {}", print::printable(&value))));
    };
    add("completed", status.completed_at.map(print::age));
    add("worker", status.worker_id.clone());
    add("attempts", status.attempts.map(|attempts| attempts.to_string()));
    add("position", status.queue_position.map(|position| position.to_string()));
    add("reason", status.reason.clone());
    add("exit code", status.exit_code().map(|code| code.to_string()));
    add("error", status.error.as_ref().map(|error| format!("{} ({})", error.message, error.code)));
    lines.join("\n")
}
