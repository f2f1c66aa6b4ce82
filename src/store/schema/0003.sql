-- Whose job it is; NULL where the pool asked nobody who they are.
ALTER TABLE jobs ADD COLUMN client TEXT;

CREATE INDEX jobs_by_client ON jobs (client);

-- A key is its client's: two clients may use the same. An empty client is nobody in particular.
CREATE TABLE client_keys (
    client TEXT NOT NULL,
    key TEXT NOT NULL,
    job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,
    sha256 BLOB NOT NULL,
    used_at INTEGER NOT NULL,
    PRIMARY KEY (client, key)
) STRICT, WITHOUT ROWID;

INSERT INTO client_keys (client, key, job, sha256, used_at)
SELECT '', key, job, sha256, used_at FROM idempotency_keys;

DROP TABLE idempotency_keys;
ALTER TABLE client_keys RENAME TO idempotency_keys;

CREATE INDEX idempotency_keys_by_job ON idempotency_keys (job);
