//! What is written, in SQL. Each function runs inside a transaction that the writer commits.

use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::{outputs, row, schema};
use crate::job::{ClientName, JobId, JobState};
use crate::store::{
    Drain, EndedRun, FIRST_VERSION, Idempotency, Inserted, Logs, NewJob, Payload, Reopened, Results,
    Transition, Truncation, Work, Written,
};
use crate::time::Timestamp;
use crate::worker::WorkerKey;

pub fn insert(connection: &Connection, job: &NewJob) -> rusqlite::Result<Inserted> {
    if let Some(idempotency) = &job.idempotency
        && let Some(used_before) =
            used_before(connection, job.client.as_ref(), idempotency, &job.work.sha256)?
    {
        return Ok(used_before);
    }
    let state = JobState::submitted(job.submitted_at);
    connection
        .prepare_cached(
            "INSERT INTO jobs (id, version, client, priority, submitted_at, terms, state, status, worker)
             VALUES (:id, :version, :client, :priority, :submitted_at, :terms, :state, :status, :worker)",
        )?
        .execute(named_params! {
            ":id": job.id,
            ":version": FIRST_VERSION,
            ":client": job.client,
            ":priority": job.priority,
            ":submitted_at": job.submitted_at,
            ":terms": *job.terms,
            ":state": state,
            ":status": state.status(),
            ":worker": state.worker(),
        })?;
    let sequence = connection.last_insert_rowid();
    insert_work(connection, sequence, &job.work)?;
    if let Some(idempotency) = &job.idempotency {
        // An expired use of the key gives way.
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO idempotency_keys (client, key, job, sha256, used_at) VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![
                owner(job.client.as_ref()),
                idempotency.key,
                sequence,
                job.work.sha256,
                job.submitted_at
            ])?;
    }
    Ok(Inserted::New(job.row(sequence)))
}

/// How a key's owner stands in its column, which takes no NULL.
fn owner(client: Option<&ClientName>) -> &str {
    client.map_or("", ClientName::as_str)
}

fn used_before(
    connection: &Connection,
    client: Option<&ClientName>,
    idempotency: &Idempotency,
    sha256: &[u8; 32],
) -> rusqlite::Result<Option<Inserted>> {
    connection
        .prepare_cached(&format!(
            "SELECT idempotency_keys.sha256, {} FROM idempotency_keys JOIN jobs ON jobs.sequence = job
             WHERE idempotency_keys.client = ? AND key = ? AND used_at >= ?",
            row::JOB_COLUMNS
        ))?
        .query_row(params![owner(client), idempotency.key, idempotency.valid_since], |found| {
            let job = row::job(found)?;
            let same = found.get::<_, [u8; 32]>("sha256")? == *sha256;
            Ok(if same { Inserted::Same(job) } else { Inserted::Conflict(job.id) })
        })
        .optional()
}

fn insert_work(connection: &Connection, sequence: i64, work: &Work) -> rusqlite::Result<()> {
    let inline = match &work.payload {
        Payload::Inline(bytes) => Some(&bytes[..]),
        Payload::Spooled { .. } => None,
    };
    connection
        .prepare_cached(
            "INSERT INTO works (job, manifest, boundary, sha256, payload, payload_bytes) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![sequence, work.manifest, work.boundary, work.sha256, inline, row::signed(work.payload.bytes())])?;
    Ok(())
}

pub fn transition(connection: &Connection, step: &Transition) -> rusqlite::Result<Written> {
    let updated = connection
        .prepare_cached(
            "UPDATE jobs SET version = version + 1, state = :state, status = :status, worker = :worker,
                             finished_at = :finished_at
             WHERE id = :id AND version = :version AND finished_at IS NULL
             RETURNING sequence, version",
        )?
        .query_row(
            named_params! {
                ":id": step.id,
                ":version": step.version,
                ":state": step.state,
                ":status": step.state.status(),
                ":worker": step.state.worker(),
                ":finished_at": row::finished_at(&step.state),
            },
            |updated| Ok((updated.get(0)?, updated.get(1)?)),
        )
        .optional()?;
    let Some((sequence, version)) = updated else {
        let exists =
            connection.prepare_cached("SELECT 1 FROM jobs WHERE id = ?")?.exists(params![step.id])?;
        return Ok(if exists { Written::Conflict } else { Written::NotFound });
    };
    if step.state.is_finished() {
        if !step.state.may_be_retried() {
            connection.prepare_cached("DELETE FROM works WHERE job = ?")?.execute(params![sequence])?;
        }
        keep(connection, sequence, step.results.as_ref())?;
        if step.state.place().is_some() {
            outputs::left_on_worker(connection, sequence)?;
        }
    }
    Ok(Written::Updated { version })
}

pub fn reopen(connection: &Connection, step: &Transition) -> rusqlite::Result<Reopened> {
    let found: Option<(i64, i64, bool, bool)> = connection
        .prepare_cached(
            "SELECT sequence, version, finished_at IS NOT NULL, EXISTS (SELECT 1 FROM works WHERE job = sequence)
             FROM jobs WHERE id = ?",
        )?
        .query_row(params![step.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((sequence, version, finished, has_work)) = found else { return Ok(Reopened::NotFound) };
    if version != step.version || !finished {
        return Ok(Reopened::Conflict);
    }
    if !has_work {
        return Ok(Reopened::WorkGone);
    }
    connection
        .prepare_cached(
            "UPDATE jobs SET version = version + 1, state = :state, status = :status, worker = :worker,
                             finished_at = NULL
             WHERE sequence = :sequence",
        )?
        .execute(named_params! {
            ":sequence": sequence,
            ":state": step.state,
            ":status": step.state.status(),
            ":worker": step.state.worker(),
        })?;
    connection.prepare_cached("DELETE FROM results WHERE job = ?")?.execute(params![sequence])?;
    outputs::drop_place(connection, sequence)?;
    Ok(Reopened::Queued { version: version + 1 })
}

pub fn drop_work(connection: &Connection, before: Timestamp, limit: usize) -> rusqlite::Result<Vec<JobId>> {
    let found: Vec<(i64, JobId)> = connection
        .prepare_cached(
            "SELECT sequence, id FROM works JOIN jobs ON sequence = job
             WHERE finished_at < ? ORDER BY finished_at, sequence LIMIT ?",
        )?
        .query_map(params![before, row::signed(limit as u64)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    delete_works(connection, found)
}

pub fn drop_spooled_work(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<JobId>> {
    let found: Vec<(i64, JobId)> = connection
        .prepare_cached(
            "SELECT sequence, id FROM works JOIN jobs ON sequence = job
             WHERE payload IS NULL AND finished_at IS NOT NULL ORDER BY finished_at, sequence LIMIT ?",
        )?
        .query_map(params![row::signed(limit as u64)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    delete_works(connection, found)
}

fn delete_works(connection: &Connection, jobs: Vec<(i64, JobId)>) -> rusqlite::Result<Vec<JobId>> {
    for (sequence, _) in &jobs {
        connection.prepare_cached("DELETE FROM works WHERE job = ?")?.execute(params![sequence])?;
    }
    Ok(jobs.into_iter().map(|(_, id)| id).collect())
}

pub fn drain(connection: &Connection, drain: &Drain) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO drains (worker, reason, since) VALUES (?, ?, ?)")?
        .execute(params![drain.worker, drain.reason, drain.since])?;
    Ok(())
}

pub fn resume(connection: &Connection, worker: WorkerKey) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM drains WHERE worker = ?")?.execute(params![worker])?;
    Ok(())
}

fn keep(connection: &Connection, sequence: i64, results: Option<&Results>) -> rusqlite::Result<()> {
    let Some(Results { worker_status, logs, listing }) = results else { return Ok(()) };
    let (stdout, stderr, cut) = match logs {
        Some(Logs { stdout, stderr, truncation }) => {
            (Some(stdout), Some(stderr), Some(*truncation == Truncation::Cut))
        }
        None => (None, None, None),
    };
    connection
        .prepare_cached(
            "INSERT INTO results (job, worker_status, listing, stdout, stderr, logs_cut) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![sequence, worker_status, listing, stdout, stderr, cut])?;
    Ok(())
}

/// What belongs to the jobs goes with them: the schema cascades.
pub fn forget_finished(
    connection: &Connection,
    before: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<EndedRun>> {
    connection
        .prepare_cached(
            "DELETE FROM jobs WHERE sequence IN
                 (SELECT sequence FROM jobs WHERE finished_at < ? ORDER BY finished_at, sequence LIMIT ?)
             RETURNING id, version",
        )?
        .query_map(params![before, row::signed(limit as u64)], |forgotten| {
            Ok(EndedRun { job: forgotten.get(0)?, version: forgotten.get(1)? })
        })?
        .collect()
}

/// Writes what stands there already: the least change that needs the disk.
pub fn touch(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "user_version", schema::VERSION)
}
