-- name: keys
-- Purpose: values in order of their names. Index: primary key, read in order.
SELECT key, expires_at_ms, value FROM kv WHERE key > ? AND (expires_at_ms IS NULL OR expires_at_ms > ?) ORDER BY key;

-- name: entries
-- Purpose: the whole log in order of arrival. Index: primary key of log_entries; the subject by its primary key.
SELECT s.subject, e.sequence, e.position, e.message_id, e.data, e.headers, e.at_ms
FROM log_entries e CROSS JOIN log_subjects s ON s.subject_id = e.subject_id WHERE e.position > ? ORDER BY e.position;

-- name: ends
-- Purpose: subjects whose entries were all trimmed. Index: the unique name; log_index by subject; the newest entries.
SELECT s.subject, s.trimmed_to, coalesce(s.trimmed_message_id, '') FROM log_subjects s
WHERE s.subject > ? AND s.trimmed_to > 0
  AND NOT EXISTS (SELECT 1 FROM log_index i WHERE i.subject_id = s.subject_id)
  AND s.subject_id NOT IN (
    SELECT e.subject_id FROM log_entries e
    WHERE e.position > coalesce((SELECT value FROM counters WHERE name = 'log_indexed'), 0))
ORDER BY s.subject;

-- name: queues
-- Purpose: queues that were configured. Index: the unique name.
SELECT name, settings FROM queues WHERE name > ? AND settings IS NOT NULL ORDER BY name;

-- name: messages
-- Purpose: what is not done, in order of arrival. Index: primary keys.
SELECT m.row, q.name, m.message_id, m.data, m.headers, m.priority, m.enqueued_at_ms, m.ordering_key,
       s.state, s.visible_at_ms, s.expires_at_ms, s.history, s.attempt, s.leased_at_ms, q.settings
FROM queue_messages m CROSS JOIN queue_states s ON s.row = m.row CROSS JOIN queues q ON q.queue_id = m.queue_id
WHERE m.row > ? AND (s.expires_at_ms IS NULL OR s.expires_at_ms > ?) ORDER BY m.row;

-- name: dead_letters
-- Purpose: dead letters of all queues, oldest first. Index: primary keys.
SELECT d.dead_id, q.name, d.message_id, d.data, d.headers, d.priority, d.enqueued_at_ms, d.ordering_key,
       d.reason, d.history, d.dead_at_ms
FROM dead_letters d CROSS JOIN queues q ON q.queue_id = d.queue_id WHERE d.dead_id > ? ORDER BY d.dead_id;

-- name: dedupe_ids
-- Purpose: dedupe ids that still hold. Index: primary keys.
SELECT d.queue_id, q.name, d.dedupe_id, d.expires_at_ms FROM queue_dedupe d CROSS JOIN queues q ON q.queue_id = d.queue_id
WHERE (d.queue_id, d.dedupe_id) > (?, ?) AND d.expires_at_ms > ? ORDER BY d.queue_id, d.dedupe_id;

-- name: blobs
-- Purpose: contents in order of their names. Index: primary key, read in order.
SELECT sha256, size, expires_at_ms FROM blobs
WHERE sha256 > ? AND (expires_at_ms IS NULL OR expires_at_ms > ?) ORDER BY sha256;

-- name: key_expiries
-- Purpose: when some keys end. Index: primary key.
SELECT key, expires_at_ms FROM kv WHERE key IN (SELECT value FROM json_each(?));

-- name: blob_expiries
-- Purpose: when some contents end. Index: primary key.
SELECT sha256, expires_at_ms FROM blobs WHERE sha256 IN (SELECT value FROM json_each(?));

-- name: counts
-- Purpose: how many records there are of each kind, in the order of CopyKind. Index: none, counts whole tables.
SELECT (SELECT count(*) FROM kv),
  (SELECT count(*) FROM log_index)
    + (SELECT count(*) FROM log_entries
       WHERE position > coalesce((SELECT value FROM counters WHERE name = 'log_indexed'), 0)),
  (SELECT count(*) FROM log_subjects s WHERE trimmed_to > 0
     AND NOT EXISTS (SELECT 1 FROM log_index i WHERE i.subject_id = s.subject_id)),
  (SELECT count(*) FROM queues WHERE settings IS NOT NULL),
  (SELECT count(*) FROM queue_states), (SELECT count(*) FROM dead_letters), (SELECT count(*) FROM queue_dedupe),
  (SELECT count(*) FROM blobs);

-- name: traces
-- Purpose: figures that are others after every change; no payload is read. Index: none, sums up whole tables.
SELECT (SELECT group_concat(name || value) FROM counters),
  (SELECT count(*) || '/' || coalesce(sum(revision % 1000000007), 0) FROM kv),
  (SELECT coalesce(max(position), 0) FROM log_entries),
  (SELECT count(*) || '/' || coalesce(sum(trimmed_to % 1000000007), 0) FROM log_subjects),
  (SELECT group_concat(name || coalesce(settings, '')) FROM queues),
  (SELECT count(*) || '/' || coalesce(sum((row * 8 + state) % 1000000007), 0) || '/' || coalesce(sum(attempt), 0)
     || '/' || coalesce(sum(visible_at_ms % 1000000007), 0) FROM queue_states),
  (SELECT count(*) || '/' || coalesce(sum(dead_id % 1000000007), 0) FROM dead_letters),
  (SELECT count(*) || '/' || coalesce(sum(expires_at_ms % 1000000007), 0) FROM queue_dedupe),
  (SELECT count(*) || '/' || coalesce(sum(size % 1000000007), 0) || '/'
     || coalesce(sum(expires_at_ms % 1000000007), 0) FROM blobs);

-- name: largest
-- Purpose: the largest record with what belongs to it; no payload is read. Index: none, looks at whole tables.
SELECT max(
  coalesce((SELECT max(length(value)) FROM kv), 0),
  coalesce((SELECT max(length(data) + coalesce(length(headers), 0)) FROM log_entries), 0),
  coalesce((SELECT max(length(data) + coalesce(length(headers), 0)) FROM queue_messages), 0),
  coalesce((SELECT max(length(data) + coalesce(length(headers), 0) + coalesce(length(history), 0))
            FROM dead_letters), 0));

-- name: highest
-- Purpose: the highest numbers that were given out. Index: primary key.
SELECT coalesce(max(CASE WHEN name = 'kv_revision' THEN value END), 0),
  coalesce(max(CASE WHEN name = 'log_position' THEN value END), 0) FROM counters;
