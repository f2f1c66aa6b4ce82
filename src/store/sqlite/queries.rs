//! What is read, in SQL.

use bytes::Bytes;
use rusqlite::{Connection, MAIN_DB, OptionalExtension, Row, named_params, params};

use super::{outputs, row};
use crate::job::JobId;
use crate::store::{
    Drain, EndedJob, EndedRun, JobFilter, JobRow, Logs, Payload, Results, ResultsText, SHORT_TEXT_BYTES,
    TEXT_PIECE_BYTES, Truncation, Work,
};

pub fn unfinished(connection: &Connection) -> rusqlite::Result<Vec<JobRow>> {
    connection
        .prepare_cached(&format!(
            "SELECT {} FROM jobs WHERE finished_at IS NULL ORDER BY sequence",
            row::JOB_COLUMNS
        ))?
        .query_map([], row::job)?
        .collect()
}

pub fn job(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<JobRow>> {
    connection
        .prepare_cached(&format!("SELECT {} FROM jobs WHERE id = ?", row::JOB_COLUMNS))?
        .query_row(params![id], row::job)
        .optional()
}

/// What is known of a job that has ended, all of it as of one commit.
pub fn ended(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<EndedJob>> {
    let snapshot = connection.unchecked_transaction()?;
    let Some(row) = job(&snapshot, id)?.filter(|row| row.state.is_finished()) else { return Ok(None) };
    let short_status = snapshot
        .prepare_cached(&format!(
            "SELECT worker_status FROM results WHERE job = ? AND octet_length(worker_status) <= {SHORT_TEXT_BYTES}"
        ))?
        .query_row(params![row.sequence], |found| found.get::<_, String>(0))
        .optional()?;
    let outputs = outputs::place(&snapshot, row.sequence)?;
    Ok(Some(EndedJob { row, outputs, short_status: short_status.map(Bytes::from) }))
}

pub fn work(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<Work>> {
    connection
        .prepare_cached(
            "SELECT manifest, boundary, sha256, payload, payload_bytes
             FROM works JOIN jobs ON jobs.sequence = works.job WHERE jobs.id = ?",
        )?
        .query_row(params![id], |found| {
            let payload = match found.get::<_, Option<Vec<u8>>>("payload")? {
                Some(bytes) => Payload::Inline(Bytes::from(bytes)),
                None => Payload::Spooled { bytes: row::unsigned(found.get("payload_bytes")?) },
            };
            Ok(Work {
                manifest: found.get("manifest")?,
                boundary: found.get("boundary")?,
                payload,
                sha256: found.get("sha256")?,
            })
        })
        .optional()
}

pub fn results(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<Results>> {
    connection
        .prepare_cached(
            "SELECT worker_status, listing, stdout, stderr, logs_cut
             FROM results JOIN jobs ON jobs.sequence = results.job WHERE jobs.id = ?",
        )?
        .query_row(params![id], |found| {
            Ok(Results {
                worker_status: found.get("worker_status")?,
                logs: logs(found)?,
                listing: found.get("listing")?,
            })
        })
        .optional()
}

pub fn results_text(
    connection: &Connection,
    run: &EndedRun,
    text: ResultsText,
    from: u64,
) -> rusqlite::Result<Option<Bytes>> {
    let column = match text {
        ResultsText::WorkerStatus => "worker_status",
        ResultsText::Listing => "listing",
        ResultsText::Stdout => "stdout",
        ResultsText::Stderr => "stderr",
        ResultsText::LogsCut => "logs_cut",
    };
    let value = match text {
        ResultsText::LogsCut => "CASE logs_cut WHEN TRUE THEN 'true' END",
        // A short text is read with the row that holds it; of a long one only its pages are.
        _ => &format!("CASE WHEN octet_length({column}) < {TEXT_PIECE_BYTES} THEN {column} END"),
    };
    let found = connection
        .prepare_cached(&format!(
            "SELECT results.job, {column} IS NOT NULL, {value}
             FROM results JOIN jobs ON jobs.sequence = results.job WHERE jobs.id = ? AND version = ?"
        ))?
        .query_row(params![run.job, run.version], |found| {
            Ok((found.get::<_, i64>(0)?, found.get::<_, bool>(1)?, found.get::<_, Option<String>>(2)?))
        })
        .optional()?;
    let long = match found {
        None | Some((_, false, _)) => return Ok(None),
        Some((_, true, Some(whole))) => {
            let from = usize::try_from(from).map_or(whole.len(), |from| from.min(whole.len()));
            return Ok(Some(Bytes::from(whole).slice(from..)));
        }
        Some((_, true, None)) if text == ResultsText::LogsCut => return Ok(None),
        Some((job, true, None)) => connection.blob_open(MAIN_DB, "results", column, job, true)?,
    };
    let from = usize::try_from(from).map_or(long.len(), |from| from.min(long.len()));
    let mut piece = vec![0; (long.len() - from).min(TEXT_PIECE_BYTES)];
    long.read_at_exact(&mut piece, from)?;
    Ok(Some(Bytes::from(piece)))
}

fn logs(found: &Row<'_>) -> rusqlite::Result<Option<Logs>> {
    let truncation = match found.get("logs_cut")? {
        Some(true) => Truncation::Cut,
        Some(false) => Truncation::Whole,
        None => return Ok(None),
    };
    Ok(Some(Logs { stdout: found.get("stdout")?, stderr: found.get("stderr")?, truncation }))
}

pub fn list(connection: &Connection, filter: &JobFilter, limit: usize) -> rusqlite::Result<Vec<JobRow>> {
    connection
        .prepare_cached(&list_sql(filter))?
        .query_map(
            named_params! {
                ":before": filter.before,
                ":status": filter.status,
                ":worker": filter.worker,
                ":client": filter.client,
                ":limit": row::signed(limit as u64),
            },
            row::job,
        )?
        .collect()
}

/// A condition for each field that is there, and for no other: `field IS NULL OR …` would keep SQLite from its indexes.
pub fn list_sql(filter: &JobFilter) -> String {
    let columns = row::JOB_COLUMNS;
    let before = if filter.before.is_some() { "sequence < :before" } else { ":before IS NULL" };
    let status = if filter.status.is_some() { "status = :status" } else { ":status IS NULL" };
    let worker = if filter.worker.is_some() { "worker = :worker" } else { ":worker IS NULL" };
    let client = if filter.client.is_some() { "client = :client" } else { ":client IS NULL" };
    format!(
        "SELECT {columns} FROM jobs WHERE {before} AND {status} AND {worker} AND {client} ORDER BY sequence DESC LIMIT :limit"
    )
}

pub fn count(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM jobs")?
        .query_row([], |count| count.get(0).map(row::unsigned))
}

pub fn spooled(connection: &Connection) -> rusqlite::Result<Vec<JobId>> {
    connection
        .prepare_cached("SELECT id FROM works JOIN jobs ON sequence = job WHERE payload IS NULL")?
        .query_map([], |row| row.get(0))?
        .collect()
}

pub fn drains(connection: &Connection) -> rusqlite::Result<Vec<Drain>> {
    connection
        .prepare_cached("SELECT worker, reason, since FROM drains ORDER BY worker")?
        .query_map([], |row| Ok(Drain { worker: row.get(0)?, reason: row.get(1)?, since: row.get(2)? }))?
        .collect()
}
