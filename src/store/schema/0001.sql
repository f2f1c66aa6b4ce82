-- A job. `status`, `worker` and `finished_at` say what `state` says, for filters and indexes; they are written with it.
CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again, so that a cursor stays true
    id TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    priority TEXT NOT NULL,
    submitted_at INTEGER NOT NULL, -- this and every other time: microseconds since the Unix epoch
    terms TEXT NOT NULL, -- JSON
    state TEXT NOT NULL, -- JSON
    status TEXT NOT NULL,
    worker TEXT,
    finished_at INTEGER -- NULL until the job is finished
) STRICT;

-- Every index ends with the rowid, which is the sequence: each of these also gives the order of submission.
CREATE INDEX jobs_by_status ON jobs (status);
CREATE INDEX jobs_by_worker ON jobs (worker);
CREATE INDEX jobs_by_end ON jobs (finished_at); -- its NULLs are the unfinished jobs

-- What is sent for a job that is not finished, or may be retried; apart, so that a scan of the jobs does not read payloads.
CREATE TABLE works (
    job INTEGER PRIMARY KEY REFERENCES jobs (sequence) ON DELETE CASCADE,
    manifest TEXT NOT NULL,
    boundary TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    payload BLOB, -- NULL when it is a file of the spool
    payload_bytes INTEGER NOT NULL
) STRICT;

-- What is kept of a finished job.
CREATE TABLE results (
    job INTEGER PRIMARY KEY REFERENCES jobs (sequence) ON DELETE CASCADE,
    worker_status TEXT,
    listing TEXT,
    stdout TEXT, -- NULL, as are the next two, when no logs were kept
    stderr TEXT,
    logs_cut INTEGER
) STRICT;

-- Clients' names for submits. The digest is kept here because the work goes when the job is finished.
CREATE TABLE idempotency_keys (
    key TEXT PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,
    sha256 BLOB NOT NULL,
    used_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_keys_by_job ON idempotency_keys (job);

-- Workers that get no more jobs.
CREATE TABLE drains (
    worker TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
