//! Where outputs are, in SQL.

use rusqlite::types::FromSqlError;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::row;
use crate::job::JobState;
use crate::store::{EndedRun, JobRow, KeptRun, OutputsPlace, Settled};
use crate::worker::WorkerKey;

/// A job that a worker took has ended.
pub fn left_on_worker(connection: &Connection, sequence: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO outputs (job, state, bytes) VALUES (?, ?, 0)")?
        .execute(params![sequence, OutputsPlace::ToCollect.as_str()])?;
    Ok(())
}

/// The job is to run again.
pub fn drop_place(connection: &Connection, sequence: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM outputs WHERE job = ?")?.execute(params![sequence])?;
    Ok(())
}

pub fn settle(connection: &Connection, run: &EndedRun, to: &OutputsPlace) -> rusqlite::Result<Settled> {
    let (reason, kept) = match to {
        OutputsPlace::OnWorker { reason } => (Some(reason), None),
        OutputsPlace::Kept { at, files } => (None, Some((at, row::to_json(files)?))),
        OutputsPlace::ToCollect | OutputsPlace::Expired => (None, None),
    };
    let (kept_at, files) = kept.unzip();
    let changed = connection
        .prepare_cached(
            "UPDATE outputs SET state = :state, reason = :reason, bytes = :bytes, kept_at = :kept_at, files = :files
             WHERE job = (SELECT sequence FROM jobs WHERE id = :id AND version = :version)",
        )?
        .execute(named_params! {
            ":id": run.job,
            ":version": run.version,
            ":state": to.as_str(),
            ":reason": reason,
            ":bytes": row::signed(to.bytes()),
            ":kept_at": kept_at,
            ":files": files,
        })?;
    Ok(if changed > 0 { Settled::Done } else { Settled::Overtaken })
}

/// The outputs stay on the worker, and the run came to another end.
pub fn refuse(
    connection: &Connection,
    run: &EndedRun,
    end: &JobState,
    reason: &str,
) -> rusqlite::Result<Settled> {
    let settled = settle(connection, run, &OutputsPlace::OnWorker { reason: reason.to_owned() })?;
    if settled == Settled::Done {
        connection
            .prepare_cached(
                "UPDATE jobs SET state = :state, status = :status WHERE id = :id AND version = :version",
            )?
            .execute(named_params! {
                ":state": end,
                ":status": end.status(),
                ":id": run.job,
                ":version": run.version,
            })?;
    }
    Ok(settled)
}

pub fn place(connection: &Connection, sequence: i64) -> rusqlite::Result<Option<OutputsPlace>> {
    connection
        .prepare_cached("SELECT state, reason, kept_at, files FROM outputs WHERE job = ?")?
        .query_row(params![sequence], read)
        .optional()
}

fn read(found: &Row<'_>) -> rusqlite::Result<OutputsPlace> {
    let state = found.get_ref("state")?.as_str()?;
    Ok(match (state, found.get("reason")?) {
        ("on_worker", None) => OutputsPlace::ToCollect,
        ("on_worker", Some(reason)) => OutputsPlace::OnWorker { reason },
        ("kept", _) => {
            let files = row::from_json(found.get_ref("files")?)?;
            OutputsPlace::Kept { at: found.get("kept_at")?, files }
        }
        ("expired", _) => OutputsPlace::Expired,
        _ => return Err(FromSqlError::InvalidType.into()),
    })
}

pub fn next_to_collect(connection: &Connection, except: &[WorkerKey]) -> rusqlite::Result<Option<JobRow>> {
    let except: Vec<String> = except.iter().map(WorkerKey::to_string).collect();
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM outputs JOIN jobs ON jobs.sequence = outputs.job
             WHERE outputs.state = 'on_worker' AND reason IS NULL
                   AND worker NOT IN (SELECT value FROM json_each(?))
             ORDER BY outputs.job LIMIT 1",
            row::JOB_COLUMNS
        ))?
        .query_row(params![row::to_json(&except)?], row::job)
        .optional()
}

pub fn has_to_collect(connection: &Connection, worker: WorkerKey) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM outputs JOIN jobs ON jobs.sequence = outputs.job
             WHERE outputs.state = 'on_worker' AND reason IS NULL AND worker = ? LIMIT 1",
        )?
        .exists(params![worker.to_string()])
}

pub fn oldest_kept(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<KeptRun>> {
    connection
        .prepare_cached(
            "SELECT jobs.id, jobs.version, bytes, kept_at FROM outputs JOIN jobs ON jobs.sequence = outputs.job
             WHERE outputs.state = 'kept' ORDER BY kept_at, outputs.job LIMIT ?",
        )?
        .query_map(params![row::signed(limit as u64)], |found| {
            Ok(KeptRun {
                run: EndedRun { job: found.get("id")?, version: found.get("version")? },
                bytes: row::unsigned(found.get("bytes")?),
                kept_at: found.get("kept_at")?,
            })
        })?
        .collect()
}

pub fn kept_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM outputs WHERE state = 'kept'")?
        .query_row([], |sum| sum.get(0).map(row::unsigned))
}
