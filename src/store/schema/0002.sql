-- Where the outputs of a finished job are, if a worker took it.
CREATE TABLE outputs (
    job INTEGER PRIMARY KEY REFERENCES jobs (sequence) ON DELETE CASCADE,
    state TEXT NOT NULL, -- on_worker, kept, expired
    reason TEXT, -- why they stay on the worker; NULL there when they are still to be fetched
    bytes INTEGER NOT NULL, -- what the pool keeps of them
    kept_at INTEGER, -- NULL unless they are kept, as is the next
    files TEXT -- JSON: [{name, size, sha256, index}]
) STRICT;

CREATE INDEX outputs_to_collect ON outputs (job) WHERE state = 'on_worker' AND reason IS NULL;
CREATE INDEX outputs_kept ON outputs (kept_at, bytes) WHERE state = 'kept';

INSERT INTO outputs (job, state, bytes)
SELECT sequence, 'on_worker', 0 FROM jobs WHERE json_extract(state, '$.finished.last.remote') IS NOT NULL;
