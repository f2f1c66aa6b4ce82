//! What is written, in SQL. Each function runs inside a transaction that the writer commits.

use rusqlite::{Connection, OptionalExtension, named_params, params};

use super::{row, schema};
use crate::store::{
    FIRST_STATE, FIRST_VERSION, Idempotency, Inserted, Logs, NewJob, Payload, Results, Transition,
    Truncation, Work, Written,
};
use crate::time::Timestamp;

pub fn insert(connection: &Connection, job: &NewJob) -> rusqlite::Result<Inserted> {
    if let Some(idempotency) = &job.idempotency
        && let Some(used_before) = used_before(connection, idempotency, &job.work.sha256)?
    {
        return Ok(used_before);
    }
    connection
        .prepare_cached(
            "INSERT INTO jobs (id, version, priority, submitted_at, state, status, worker)
             VALUES (:id, :version, :priority, :submitted_at, :state, :status, :worker)",
        )?
        .execute(named_params! {
            ":id": job.id,
            ":version": FIRST_VERSION,
            ":priority": job.priority,
            ":submitted_at": job.submitted_at,
            ":state": FIRST_STATE,
            ":status": FIRST_STATE.status(),
            ":worker": FIRST_STATE.worker(),
        })?;
    let sequence = connection.last_insert_rowid();
    insert_work(connection, sequence, &job.work)?;
    if let Some(idempotency) = &job.idempotency {
        // An expired use of the key gives way.
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO idempotency_keys (key, job, sha256, used_at) VALUES (?, ?, ?, ?)",
            )?
            .execute(params![idempotency.key, sequence, job.work.sha256, job.submitted_at])?;
    }
    Ok(Inserted::New(job.row(sequence)))
}

fn used_before(
    connection: &Connection,
    idempotency: &Idempotency,
    sha256: &[u8; 32],
) -> rusqlite::Result<Option<Inserted>> {
    connection
        .prepare_cached(&format!(
            "SELECT idempotency_keys.sha256, {} FROM idempotency_keys JOIN jobs ON jobs.sequence = job
             WHERE key = ? AND used_at >= ?",
            row::JOB_COLUMNS
        ))?
        .query_row(params![idempotency.key, idempotency.valid_since], |found| {
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
        finish(connection, sequence, step.results.as_ref())?;
    }
    Ok(Written::Updated { version })
}

fn finish(connection: &Connection, sequence: i64, results: Option<&Results>) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM works WHERE job = ?")?.execute(params![sequence])?;
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
pub fn forget_finished(connection: &Connection, before: Timestamp, limit: usize) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "DELETE FROM jobs WHERE sequence IN
                 (SELECT sequence FROM jobs WHERE finished_at < ? ORDER BY finished_at, sequence LIMIT ?)",
        )?
        .execute(params![before, row::signed(limit as u64)])
}

/// Writes what stands there already: the least change that needs the disk.
pub fn touch(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "user_version", schema::VERSION)
}
