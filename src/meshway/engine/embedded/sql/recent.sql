-- name: create_a
-- Purpose: one of two generations of remembered ids; private to the writer's connection and in memory.
CREATE TEMP TABLE recent_a (digest INTEGER PRIMARY KEY, rest INTEGER, at_ms INTEGER, sequence INTEGER, position INTEGER);

-- name: create_b
-- Purpose: the other generation.
CREATE TEMP TABLE recent_b (digest INTEGER PRIMARY KEY, rest INTEGER, at_ms INTEGER, sequence INTEGER, position INTEGER);

-- name: insert_a
-- Purpose: remember ids; an id that was forgotten and came back takes the newer place. Index: primary key.
INSERT OR REPLACE INTO temp.recent_a (digest, rest, at_ms, sequence, position) VALUES (?, ?, ?, ?, ?);

-- name: insert_b
-- Purpose: as insert_a. Index: primary key.
INSERT OR REPLACE INTO temp.recent_b (digest, rest, at_ms, sequence, position) VALUES (?, ?, ?, ?, ?);

-- name: clear_a
-- Purpose: forget the older generation at once (SQLite drops the tree whole). Index: none.
DELETE FROM temp.recent_a;

-- name: clear_b
-- Purpose: as clear_a. Index: none.
DELETE FROM temp.recent_b;

-- name: find_a
-- Purpose: remembered ids of a group that are no older than a time; widened. Index: primary key.
SELECT digest, rest, sequence, position FROM temp.recent_a WHERE at_ms > ?1 AND digest IN (VALUES (?));

-- name: find_b
-- Purpose: as find_a. Index: primary key.
SELECT digest, rest, sequence, position FROM temp.recent_b WHERE at_ms > ?1 AND digest IN (VALUES (?));
