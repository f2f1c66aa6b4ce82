//! Follows a job to its end, from outside: by asking for its status, and for its log, again and again.

use std::io::{self, Write};
use std::time::Duration;

use tokio::time::Instant;

use super::exit::Failure;
use crate::client::answers::{Logs, Status};
use crate::client::{Answer, Client, ClientError};
use crate::job::{JobId, PoolStatus};

/// What is shown of a job's log on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogMode {
    Quiet,
    Live,
}

/// Short jobs are seen to end at once; long ones are asked for rarely.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A log that comes later does not look live.
const LONGEST_LIVE_PAUSE: Duration = Duration::from_millis(300);

/// A worker may be unable to tell the log while the job runs; the end of the job must not go unseen for it.
const LIVE_LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// A pool that is being restarted comes back within this time.
const OUTAGE_MAX: Duration = Duration::from_secs(60);

/// Waits until the job is over, at most for `timeout`; its last status.
pub(super) async fn until_finished(
    client: &Client,
    job: &JobId,
    timeout: Option<Duration>,
    log: LogMode,
) -> Result<Answer<Status>, Failure> {
    let start = Instant::now();
    let mut shown = None;
    let mut printed = Printed::default();
    let mut outage: Option<Instant> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        match client.status(job).await {
            Ok(status) => {
                outage = None;
                show_change(&mut shown, &status.value);
                let finished = status.value.is_finished();
                if log == LogMode::Live {
                    printed.update(client, job, finished).await?;
                }
                if finished {
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
        let longest = match log {
            LogMode::Quiet => LONGEST_PAUSE,
            LogMode::Live => LONGEST_LIVE_PAUSE,
        };
        pause = (pause * 3 / 2).min(longest);
    }
}

/// What a job that is over came to, in words.
pub(super) fn outcome(status: &Status) -> String {
    match &status.error {
        Some(error) => format!("{}: {} ({})", status.pool_status.as_str(), error.message, error.code),
        None => status.pool_status.as_str().to_owned(),
    }
}

fn show_change(shown: &mut Option<PoolStatus>, status: &Status) {
    if shown.replace(status.pool_status) != Some(status.pool_status) && !status.is_finished() {
        eprintln!("{}: {}", status.job_id, status.pool_status.as_str());
    }
}

fn is_transient(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) => true,
        ClientError::Refused { status, .. } => status.is_server_error(),
        ClientError::Usage(_) | ClientError::Unexpected(_) | ClientError::File(_) => false,
    }
}

/// How much of a log has been printed, in bytes.
#[derive(Default)]
struct Printed {
    stdout: usize,
    stderr: usize,
}

impl Printed {
    /// Prints what the log has more by now. That it cannot be had is no failure: the job's end is what counts.
    async fn update(&mut self, client: &Client, job: &JobId, finished: bool) -> Result<(), Failure> {
        let logs = if finished {
            client.logs(job).await
        } else {
            match tokio::time::timeout(LIVE_LOG_TIMEOUT, client.logs(job)).await {
                Ok(logs) => logs,
                Err(_) => return Ok(()),
            }
        };
        let Ok(Answer { value: Logs { stdout, stderr }, .. }) = logs else { return Ok(()) };
        print_rest(&stdout, &mut self.stdout, &mut io::stdout())?;
        print_rest(&stderr, &mut self.stderr, &mut io::stderr())?;
        Ok(())
    }
}

fn print_rest(text: &str, printed: &mut usize, out: &mut dyn Write) -> io::Result<()> {
    // `None` when the log was cut meanwhile, or ends within a character.
    if let Some(rest) = text.get(*printed..) {
        out.write_all(rest.as_bytes())?;
        out.flush()?;
        *printed = text.len();
    }
    Ok(())
}
