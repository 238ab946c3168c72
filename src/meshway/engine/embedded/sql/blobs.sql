-- name: put
-- Purpose: a blob is there; kept with the longer time to live (NULL: for ever). Index: primary key.
INSERT INTO blobs (sha256, size, expires_at_ms) VALUES (?, ?, ?)
ON CONFLICT (sha256) DO UPDATE SET expires_at_ms = CASE
  WHEN expires_at_ms IS NULL OR excluded.expires_at_ms IS NULL THEN NULL
  ELSE max(expires_at_ms, excluded.expires_at_ms) END;

-- name: stat
-- Purpose: which of a JSON list are there. Index: primary key.
SELECT sha256, size FROM blobs
WHERE sha256 IN (SELECT value FROM json_each(?)) AND (expires_at_ms IS NULL OR expires_at_ms > ?);

-- name: delete
-- Purpose: forget. Index: primary key.
DELETE FROM blobs WHERE sha256 IN (SELECT value FROM json_each(?));

-- name: delete_expired
-- Purpose: forget one whose time is over, unless it was put again meanwhile. Index: primary key.
DELETE FROM blobs WHERE sha256 = ? AND expires_at_ms IS NOT NULL AND expires_at_ms <= ?;

-- name: expired
-- Purpose: whose time is over. Index: blobs_by_expiry.
SELECT sha256 FROM blobs WHERE expires_at_ms IS NOT NULL AND expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?;
