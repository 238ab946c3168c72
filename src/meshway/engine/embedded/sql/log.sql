-- name: insert_entries
-- Purpose: append; widened to a whole group. Index: none but the table itself, whose last page it fills.
INSERT INTO log_entries (position, subject_id, sequence, at_ms, message_id, headers, data)
VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: insert_subjects
-- Purpose: subjects written for the first time; widened. Index: the unique name.
INSERT INTO log_subjects (subject_id, subject) VALUES (?, ?);

-- name: find_subjects
-- Purpose: known subjects among a JSON list of names. Index: the unique name.
SELECT subject_id, subject, trimmed_to, trimmed_message_id FROM log_subjects
WHERE subject IN (SELECT value FROM json_each(?));

-- name: find_subject
-- Purpose: one subject. Index: the unique name.
SELECT subject_id, trimmed_to, trimmed_message_id FROM log_subjects WHERE subject = ?;

-- name: subject_id_max
-- Purpose: where numbering of subjects goes on. Index: primary key.
SELECT coalesce(max(subject_id), 0) FROM log_subjects;

-- name: indexed_to
-- Purpose: the position up to which log_index is complete. Index: primary key.
SELECT value FROM counters WHERE name = 'log_indexed';

-- name: position_max
-- Purpose: the last entry. Index: primary key.
SELECT coalesce(max(position), 0) FROM log_entries;

-- name: index_entries
-- Purpose: bring log_index up to the newest entry, sorted so that each of its pages is written once.
-- Index: primary key of log_entries, from the last run's end.
INSERT INTO log_index (subject_id, sequence, position)
SELECT subject_id, sequence, position FROM log_entries WHERE position > ? ORDER BY subject_id, sequence;

-- name: set_indexed
-- Purpose: remember how far log_index goes. Index: primary key.
INSERT INTO counters (name, value) VALUES ('log_indexed', ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: heads_unindexed
-- Purpose: the last entry of each subject that is not in log_index yet, read at opening.
-- Index: primary key of log_entries.
SELECT subject_id, sequence, position, at_ms, message_id FROM log_entries WHERE position > ? ORDER BY position;

-- name: last_indexed
-- Purpose: the last indexed entry of a subject. Index: primary key of log_index.
SELECT i.sequence, e.message_id FROM log_index i JOIN log_entries e ON e.position = i.position
WHERE i.subject_id = ? ORDER BY i.sequence DESC LIMIT 1;

-- name: entry_at
-- Purpose: one entry by its number. Index: primary key of log_index.
SELECT i.position, e.message_id, e.at_ms FROM log_index i JOIN log_entries e ON e.position = i.position
WHERE i.subject_id = ? AND i.sequence = ?;

-- name: next_indexed
-- Purpose: the first entry at or after a number. Index: primary key of log_index.
SELECT i.sequence, e.at_ms, e.position FROM log_index i JOIN log_entries e ON e.position = i.position
WHERE i.subject_id = ? AND i.sequence >= ? ORDER BY i.sequence LIMIT 1;

-- name: read_indexed
-- Purpose: entries of one subject in order. Index: primary key of log_index, then of log_entries.
SELECT e.sequence, e.position, e.message_id, e.data, e.headers, e.at_ms
FROM log_index i JOIN log_entries e ON e.position = i.position
WHERE i.subject_id = ? AND i.sequence >= ? AND i.position > ? AND i.position <= ? ORDER BY i.sequence LIMIT ?;

-- name: read_unindexed
-- Purpose: the same for the few entries after the indexed ones. Index: primary key of log_entries.
SELECT sequence, position, message_id, data, headers, at_ms FROM log_entries
WHERE position > ? AND position <= ? AND subject_id = ? AND sequence >= ? AND at_ms >= ? ORDER BY position LIMIT ?;

-- name: read_pattern
-- Purpose: entries of many subjects in order of position; the GLOB only sorts out, names are matched exactly later.
-- Index: primary key of log_entries; the subject by its primary key.
SELECT s.subject, e.sequence, e.position, e.message_id, e.data, e.headers, e.at_ms
FROM log_entries e JOIN log_subjects s ON s.subject_id = e.subject_id
WHERE e.position > ? AND e.position <= ? AND s.subject GLOB ? ORDER BY e.position LIMIT ?;

-- name: next_position
-- Purpose: the first entry at or after a position, for the search by time. Index: primary key of log_entries.
SELECT position, at_ms FROM log_entries WHERE position >= ? ORDER BY position LIMIT 1;

-- name: last_unindexed
-- Purpose: the last entry of a subject among those not indexed yet. Index: primary key of log_entries.
SELECT sequence, message_id FROM log_entries WHERE position > ? AND position <= ? AND subject_id = ?
ORDER BY position DESC LIMIT 1;

-- name: last_indexed_visible
-- Purpose: the last entry of a subject that readers may see. Index: primary key of log_index.
SELECT i.sequence, e.message_id FROM log_index i JOIN log_entries e ON e.position = i.position
WHERE i.subject_id = ? AND i.position <= ? ORDER BY i.sequence DESC LIMIT 1;

-- name: sizes_newest_first
-- Purpose: how many of the newest entries fit into a number of bytes. Index: primary key of log_index.
SELECT i.sequence, length(e.data) + length(e.message_id) + coalesce(length(e.headers), 0)
FROM log_index i JOIN log_entries e ON e.position = i.position WHERE i.subject_id = ? ORDER BY i.sequence DESC;

-- name: oldest_to
-- Purpose: a part of the entries to be trimmed. Index: primary key of log_index.
SELECT i.sequence, i.position, e.message_id FROM log_index i JOIN log_entries e ON e.position = i.position
WHERE i.subject_id = ? AND i.sequence <= ? ORDER BY i.sequence LIMIT ?;

-- name: delete_entries
-- Purpose: trim, a JSON list of positions. Index: primary key of log_entries.
DELETE FROM log_entries WHERE position IN (SELECT value FROM json_each(?));

-- name: delete_indexed
-- Purpose: trim the index alike. Index: primary key of log_index.
DELETE FROM log_index WHERE subject_id = ? AND sequence <= ?;

-- name: set_trimmed
-- Purpose: what a subject keeps when all its entries are gone. Index: primary key of log_subjects.
UPDATE log_subjects SET trimmed_to = ?, trimmed_message_id = ? WHERE subject_id = ?;

-- name: subjects_page
-- Purpose: names of a range that hold entries. Index: the unique name; then log_index by subject.
SELECT s.subject FROM log_subjects s
WHERE s.subject > ? AND s.subject < ? AND s.subject GLOB ?
  AND (EXISTS (SELECT 1 FROM log_index i WHERE i.subject_id = s.subject_id)
       OR s.subject_id IN (SELECT e.subject_id FROM log_entries e WHERE e.position > ?))
ORDER BY s.subject LIMIT ?;

-- name: recent
-- Purpose: ids of the newest entries, newest first, read at opening. Index: primary key of log_entries.
SELECT s.subject, e.message_id, e.at_ms, e.sequence, e.position
FROM log_entries e JOIN log_subjects s ON s.subject_id = e.subject_id
WHERE e.position >= ? ORDER BY e.position DESC LIMIT ?;
