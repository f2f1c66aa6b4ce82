//! A job's log while it is written.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::{Client, ClientError};
use crate::api::live_log::{EventReader, LogEvent, Position};
use crate::job::JobId;

/// A log that is being told. Dropping it ends that.
pub struct LiveLog {
    body: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    reader: EventReader,
}

impl Client {
    /// Follows a job's log from this position on.
    ///
    /// # Errors
    /// When the pool cannot be asked or does not tell this log live.
    pub async fn follow(&self, job: &JobId, from: Position) -> Result<LiveLog, ClientError> {
        // No timeout: it takes as long as the job.
        let request = self.get(&format!("/logs/{job}?follow=1")).header("Last-Event-ID", from.to_string());
        let body = self.send(request).await?.bytes_stream();
        Ok(LiveLog { body: Box::pin(body), reader: EventReader::default() })
    }
}

impl LiveLog {
    /// Waits for the next event; `None` when the answer is over, which the log need not be.
    ///
    /// # Errors
    /// When the answer breaks off or is not the pool's.
    pub async fn next(&mut self) -> Result<Option<LogEvent>, ClientError> {
        let unexpected = |error: crate::api::live_log::Unreadable| ClientError::Unexpected(error.to_string());
        loop {
            if let Some(event) = self.reader.next_event().map_err(unexpected)? {
                return Ok(Some(event));
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.reader.take_in(&bytes).map_err(unexpected)?,
                Some(Err(error)) => return Err(ClientError::broken(&error)),
                None => return Ok(None),
            }
        }
    }
}
