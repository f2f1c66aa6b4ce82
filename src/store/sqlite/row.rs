//! How the domain's values stand in columns.

use std::error::Error;
use std::str::FromStr;
use std::sync::Arc;

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::job::{ClientName, JobId, JobState, PoolStatus, Priority, Terms};
use crate::store::JobRow;
use crate::time::Timestamp;
use crate::worker::WorkerKey;

/// The columns that [`job`] reads.
pub const JOB_COLUMNS: &str = "jobs.id, jobs.sequence, jobs.version, jobs.client, jobs.priority, jobs.submitted_at, jobs.terms, jobs.state";

/// Reads a row of [`JOB_COLUMNS`].
pub fn job(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    Ok(JobRow {
        id: row.get("id")?,
        sequence: row.get("sequence")?,
        version: row.get("version")?,
        client: row.get("client")?,
        priority: row.get("priority")?,
        submitted_at: row.get("submitted_at")?,
        terms: Arc::new(row.get("terms")?),
        state: row.get("state")?,
    })
}

/// When a job in this state was over.
pub fn finished_at(state: &JobState) -> Option<Timestamp> {
    match state {
        JobState::Finished { at, .. } => Some(*at),
        JobState::Queued { .. }
        | JobState::Assigned { .. }
        | JobState::Unknown { .. }
        | JobState::Running { .. }
        | JobState::Collecting { .. }
        | JobState::Settling { .. } => None,
    }
}

/// SQLite's integers have a sign, which no length or count uses.
pub fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What [`signed`] wrote, or SQLite counted.
pub fn unsigned(count: i64) -> u64 {
    u64::try_from(count).expect("no length or count is negative")
}

fn parse<T: FromStr<Err: Error + Send + Sync + 'static>>(value: ValueRef<'_>) -> FromSqlResult<T> {
    value.as_str()?.parse().map_err(|error| FromSqlError::Other(Box::new(error)))
}

impl FromSql for JobId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        parse(value)
    }
}

impl ToSql for JobId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for ClientName {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        parse(value)
    }
}

impl ToSql for ClientName {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for Priority {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        parse(value)
    }
}

impl ToSql for Priority {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.to_string().into())
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self::from_micros)
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_micros().into())
    }
}

pub fn from_json<T: DeserializeOwned>(value: ValueRef<'_>) -> FromSqlResult<T> {
    serde_json::from_str(value.as_str()?).map_err(|error| FromSqlError::Other(Box::new(error)))
}

pub fn to_json(value: &impl Serialize) -> rusqlite::Result<ToSqlOutput<'_>> {
    let text = serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    Ok(text.into())
}

impl FromSql for JobState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        from_json(value)
    }
}

impl ToSql for JobState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        to_json(self)
    }
}

impl FromSql for Terms {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        from_json(value)
    }
}

impl ToSql for Terms {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        to_json(self)
    }
}

impl FromSql for WorkerKey {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        parse(value)
    }
}

impl ToSql for PoolStatus {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl ToSql for WorkerKey {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.to_string().into())
    }
}
