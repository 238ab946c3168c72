-- name: put
-- Purpose: write values whatever is there; widened to a whole batch. Index: primary key.
INSERT INTO kv (key, revision, expires_at_ms, value) VALUES (?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
  revision = excluded.revision, expires_at_ms = excluded.expires_at_ms, value = excluded.value;

-- name: create
-- Purpose: write values where nothing is, or what is there has expired; widened to a whole batch, the last parameter is
-- the time. Index: primary key.
INSERT INTO kv (key, revision, expires_at_ms, value) VALUES (?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
  revision = excluded.revision, expires_at_ms = excluded.expires_at_ms, value = excluded.value
WHERE kv.expires_at_ms <= ?;

-- name: delete
-- Purpose: remove keys, a JSON list. Index: primary key.
DELETE FROM kv WHERE key IN (SELECT value FROM json_each(?));

-- name: heads
-- Purpose: what conditional writes are decided by; the values stay where they are. Index: primary key.
SELECT key, revision, expires_at_ms FROM kv WHERE key IN (SELECT value FROM json_each(?));

-- name: get
-- Purpose: whole entries, a JSON list of keys. Index: primary key.
SELECT key, revision, expires_at_ms, value FROM kv WHERE key IN (SELECT value FROM json_each(?));

-- name: get_one
-- Purpose: one entry. Index: primary key.
SELECT key, revision, expires_at_ms, value FROM kv WHERE key = ?;

-- name: page
-- Purpose: live entries of a range of keys, in order. Index: primary key, read in order.
SELECT key, revision, value FROM kv
WHERE key > ? AND key < ? AND (expires_at_ms IS NULL OR expires_at_ms > ?)
ORDER BY key LIMIT ?;

-- name: expired
-- Purpose: keys whose time is over, for the sweep. Index: kv_by_expiry.
SELECT key FROM kv WHERE expires_at_ms IS NOT NULL AND expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?;
