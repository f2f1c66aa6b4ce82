//! Shows a job's log while it is written.

use std::io::{self, Write};
use std::time::Duration;

use reqwest::StatusCode;
use tokio::time::Instant;

use super::exit::Failure;
use super::follow::{OUTAGE_MAX, is_transient};
use crate::api::live_log::{LogEvent, LogStream, Position};
use crate::client::answers::Logs;
use crate::client::{Client, ClientError};
use crate::job::JobId;

/// Before a log that broke off is asked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Where a job's log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Standard output to standard output, standard error to standard error.
    Both,
    /// Standard output only.
    Stdout,
    /// Standard error only, to standard output.
    Stderr,
}

/// A log as far as it has been shown.
pub(super) struct Screen<'a> {
    client: &'a Client,
    job: &'a JobId,
    shown: Shown,
    position: Position,
    end: bool,
}

impl<'a> Screen<'a> {
    pub(super) fn new(client: &'a Client, job: &'a JobId, shown: Shown) -> Self {
        Self { client, job, shown, position: Position::default(), end: false }
    }

    /// Shows the log as it comes: until its end, or until it is clear that the job's worker does not tell it live.
    pub(super) async fn show_live(&mut self) -> Result<(), Failure> {
        let mut outage: Option<Instant> = None;
        while !self.end {
            match self.show_events().await {
                Ok(()) => outage = None,
                Err(Failure::Client(ClientError::Refused { status: StatusCode::CONFLICT, .. })) => {
                    return Ok(());
                }
                Err(Failure::Client(error)) if is_transient(&error) => {
                    if outage.get_or_insert_with(Instant::now).elapsed() > OUTAGE_MAX {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error),
            }
            if !self.end {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        Ok(())
    }

    /// Shows what is left of the log of a job that is over.
    pub(super) async fn show_rest(&mut self) -> Result<(), Failure> {
        if self.end {
            return Ok(());
        }
        let Logs { stdout, stderr } = self.client.logs(self.job).await?.value;
        for (stream, text) in [(LogStream::Stdout, stdout), (LogStream::Stderr, stderr)] {
            let shown = usize::try_from(self.position.of(stream)).unwrap_or(usize::MAX);
            // `None` when the log was cut meanwhile.
            self.write(stream, text.get(shown..).unwrap_or_default())?;
        }
        self.end = true;
        Ok(())
    }

    async fn show_events(&mut self) -> Result<(), Failure> {
        let mut log = self.client.follow(self.job, self.position).await?;
        while let Some(event) = log.next().await? {
            match event {
                LogEvent::Status(_) => {}
                LogEvent::Text { stream, text, position } => {
                    self.write(stream, &text)?;
                    self.position = position;
                }
                LogEvent::End { .. } => {
                    self.end = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Not a byte more than the job wrote: the text may go to a file.
    fn write(&self, stream: LogStream, text: &str) -> io::Result<()> {
        match (self.shown, stream) {
            (Shown::Both | Shown::Stdout, LogStream::Stdout) | (Shown::Stderr, LogStream::Stderr) => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes())?;
                out.flush()
            }
            (Shown::Both, LogStream::Stderr) => {
                // Nothing can be said when standard error takes nothing.
                let _ = io::stderr().write_all(text.as_bytes());
                Ok(())
            }
            (Shown::Stdout, LogStream::Stderr) | (Shown::Stderr, LogStream::Stdout) => Ok(()),
        }
    }
}
