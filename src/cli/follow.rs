//! Follows a job to its end, from outside: by asking for its status again and again, and for its log live.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use super::exit::Failure;
use super::live_log::{Screen, Shown};
use crate::client::answers::Status;
use crate::client::{Answer, Client, ClientError};
use crate::job::{JobId, PoolStatus};

/// What is shown of a job on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogMode {
    /// What becomes of it.
    Quiet,
    /// Its log.
    Live(Shown),
}

/// Short jobs are seen to end at once; long ones are asked for rarely.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A pool that is being restarted comes back within this time.
pub(super) const OUTAGE_MAX: Duration = Duration::from_secs(60);

/// Waits until the job is over, at most for `timeout`; its last status.
pub(super) async fn until_finished(
    client: &Client,
    job: &JobId,
    timeout: Option<Duration>,
    log: LogMode,
) -> Result<Answer<Status>, Failure> {
    match log {
        LogMode::Quiet => ended(client, job, timeout, show_change).await,
        LogMode::Live(shown) => with_log(client, job, timeout, shown).await,
    }
}

/// The same, with its log. The status is asked for beside it, because a worker may be unable to tell the log before the end.
async fn with_log(
    client: &Client,
    job: &JobId,
    timeout: Option<Duration>,
    shown: Shown,
) -> Result<Answer<Status>, Failure> {
    let mut screen = Screen::new(client, job, shown);
    let status = {
        let mut ended = pin!(ended(client, job, timeout, |_, _| ()));
        tokio::select! {
            status = &mut ended => status?,
            live = screen.show_live() => {
                live?;
                ended.await?
            }
        }
    };
    // The pool has kept the log by now.
    screen.show_rest().await?;
    Ok(status)
}

/// Asks until the job has ended, and shows each status.
async fn ended(
    client: &Client,
    job: &JobId,
    timeout: Option<Duration>,
    show: impl Fn(Option<PoolStatus>, &Status),
) -> Result<Answer<Status>, Failure> {
    let start = Instant::now();
    let mut shown = None;
    let mut outage: Option<Instant> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        match client.status(job).await {
            Ok(status) => {
                outage = None;
                show(shown.replace(status.value.pool_status), &status.value);
                if status.value.is_finished() {
                    return Ok(status);
                }
            }
            Err(error) if is_transient(&error) => {
                if outage.get_or_insert_with(Instant::now).elapsed() > OUTAGE_MAX {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(timeout) = timeout.filter(|timeout| start.elapsed() >= *timeout) {
            let status = shown.map_or("not known to run", PoolStatus::as_str);
            return Err(Failure::TimedOut(format!("{job} is still {status} after {} s", timeout.as_secs())));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// What a job that is over came to, in words.
pub(super) fn outcome(status: &Status) -> String {
    match &status.error {
        Some(error) => format!("{}: {} ({})", status.pool_status.as_str(), error.message, error.code),
        None => status.pool_status.as_str().to_owned(),
    }
}

fn show_change(before: Option<PoolStatus>, status: &Status) {
    if before != Some(status.pool_status) && !status.is_finished() {
        eprintln!("{}: {}", status.job_id, status.pool_status.as_str());
    }
}

pub(super) fn is_transient(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) => true,
        ClientError::Refused { status, .. } => status.is_server_error(),
        ClientError::Usage(_) | ClientError::Unexpected(_) | ClientError::File(_) => false,
    }
}
