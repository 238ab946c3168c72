-- name: all_queues
-- Purpose: known queues, read at opening. Index: none, all rows.
SELECT queue_id, name, settings FROM queues;

-- name: all_counts
-- Purpose: figures per queue and state, read at opening. Index: none, all rows once.
SELECT queue_id, state, count(*), coalesce(sum(size), 0) FROM queue_states GROUP BY queue_id, state;

-- name: all_dead_counts
-- Purpose: dead letters per queue, read at opening. Index: dead_letters_by_queue.
SELECT queue_id, count(*) FROM dead_letters GROUP BY queue_id;

-- name: insert_queue
-- Purpose: a queue's first use. Index: the unique name.
INSERT INTO queues (queue_id, name, settings) VALUES (?, ?, ?);

-- name: set_settings
-- Purpose: configure. Index: primary key.
UPDATE queues SET settings = ? WHERE queue_id = ?;

-- name: delete_queue
-- Purpose: remove. Index: primary key.
DELETE FROM queues WHERE queue_id = ?;

-- name: insert_messages
-- Purpose: what was sent; widened. Index: the table itself, whose last page it fills.
INSERT INTO queue_messages (row, queue_id, priority, enqueued_at_ms, message_id, ordering_key, headers, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_states
-- Purpose: where the new messages stand; widened. Index: the table itself and queue_states_by_turn.
INSERT INTO queue_states (row, queue_id, state, rank, visible_at_ms, deliver_at_ms, expires_at_ms, attempt, size, ordering_key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_plain_states
-- Purpose: the same for messages that are due at once, without expiry or ordering key; widened. Index: as insert_states.
INSERT INTO queue_states (row, queue_id, state, rank, attempt, size) VALUES (?, ?, ?, ?, ?, ?);

-- name: insert_recent
-- Purpose: ids that filter repeated appends over a restart; widened. Index: the table itself.
INSERT INTO queue_recent (at_ms, digest, rest) VALUES (?, ?, ?);

-- name: load_recent
-- Purpose: those ids, newest first, read at opening. Index: primary key, backwards.
SELECT digest, rest, at_ms FROM queue_recent WHERE at_ms > ? ORDER BY recent_id DESC;

-- name: old_recent
-- Purpose: how far the window has left ids behind; they are in order of time. Index: primary key.
SELECT max(recent_id) FROM (SELECT recent_id, at_ms FROM queue_recent ORDER BY recent_id LIMIT ?) WHERE at_ms <= ?;

-- name: delete_recent
-- Purpose: forget them. Index: primary key.
DELETE FROM queue_recent WHERE recent_id <= ?;

-- name: find_dedupe
-- Purpose: dedupe ids (a JSON list) of a queue that still hold. Index: primary key.
SELECT dedupe_id FROM queue_dedupe
WHERE queue_id = ? AND dedupe_id IN (SELECT value FROM json_each(?)) AND expires_at_ms > ?;

-- name: insert_dedupe
-- Purpose: remember dedupe ids; widened. Index: primary key.
INSERT OR REPLACE INTO queue_dedupe (queue_id, dedupe_id, expires_at_ms) VALUES (?, ?, ?);

-- name: delete_dedupe
-- Purpose: forget dedupe ids whose window is over. Index: queue_dedupe_by_expiry.
DELETE FROM queue_dedupe WHERE (queue_id, dedupe_id) IN
  (SELECT queue_id, dedupe_id FROM queue_dedupe WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?);

-- name: delete_dedupe_of_queue
-- Purpose: remove. Index: primary key.
DELETE FROM queue_dedupe WHERE queue_id = ?;

-- name: key_head
-- Purpose: the oldest message of an ordering key. Index: queue_states_by_key.
SELECT row, state, deliver_at_ms FROM queue_states
WHERE queue_id = ? AND ordering_key IS NOT NULL AND ordering_key = ? ORDER BY row LIMIT 1;

-- name: next_waiting
-- Purpose: what a lease hands out: highest priority first, then oldest. Index: queue_states_by_turn, read in order.
SELECT s.row, s.attempt, s.expires_at_ms, s.size, s.ordering_key,
       m.message_id, m.data, m.headers, m.priority, m.enqueued_at_ms, m.ordering_key
FROM queue_states s JOIN queue_messages m ON m.row = s.row
WHERE s.queue_id = ? AND s.state = 0 ORDER BY s.rank, s.row LIMIT ?;

-- name: lease_rows
-- Purpose: hand out, a JSON list of rows. Index: primary key.
UPDATE queue_states SET state = 2, visible_at_ms = ?, attempt = attempt + 1, nonce = ?, leased_at_ms = ?
WHERE row IN (SELECT value FROM json_each(?));

-- name: release_rows
-- Purpose: undo a hand-out that nobody received, a JSON list of rows. Index: primary key.
UPDATE queue_states SET state = 0, visible_at_ms = NULL, attempt = attempt - 1, nonce = NULL
WHERE row IN (SELECT value FROM json_each(?)) AND state = 2 AND nonce = ?;

-- name: find_rows
-- Purpose: what settlements are decided by, a JSON list of rows. Index: primary key.
SELECT row, queue_id, state, attempt, nonce, visible_at_ms, leased_at_ms, size, ordering_key, history, deliver_at_ms
FROM queue_states WHERE row IN (SELECT value FROM json_each(?));

-- name: due_rows
-- Purpose: delays, back-offs and leases that are over. Index: queue_states_by_due.
SELECT row, queue_id, state, attempt, nonce, visible_at_ms, leased_at_ms, size, ordering_key, history, deliver_at_ms
FROM queue_states WHERE visible_at_ms IS NOT NULL AND visible_at_ms <= ? ORDER BY visible_at_ms LIMIT ?;

-- name: next_due
-- Purpose: when the next of them will be over. Index: queue_states_by_due.
SELECT min(visible_at_ms) FROM queue_states WHERE visible_at_ms IS NOT NULL;

-- name: expired_rows
-- Purpose: messages past their expiry that nobody holds. Index: queue_states_by_expiry.
SELECT row, queue_id, state, attempt, nonce, visible_at_ms, leased_at_ms, size, ordering_key, history, deliver_at_ms
FROM queue_states
WHERE expires_at_ms IS NOT NULL AND expires_at_ms <= ? AND state <> 2 ORDER BY expires_at_ms LIMIT ?;

-- name: is_sweep_due
-- Purpose: whether a sweep (now, end of the window of message ids) would find anything.
-- Index: queue_states_by_expiry; queue_dedupe_by_expiry; the first row of queue_recent.
SELECT EXISTS (SELECT 1 FROM queue_states
    WHERE expires_at_ms IS NOT NULL AND expires_at_ms <= ?1 AND (state <> 2 OR visible_at_ms <= ?1))
    OR EXISTS (SELECT 1 FROM queue_dedupe WHERE expires_at_ms <= ?1)
    OR coalesce((SELECT at_ms FROM queue_recent ORDER BY recent_id LIMIT 1) <= ?2, 0);

-- name: rows_of_queue
-- Purpose: a part of a queue to be purged. Index: queue_states_by_turn.
SELECT row, queue_id, state, attempt, nonce, visible_at_ms, leased_at_ms, size, ordering_key, history, deliver_at_ms
FROM queue_states WHERE queue_id = ? AND row <= ? LIMIT ?;

-- name: leases
-- Purpose: hand-outs found at a start. Index: queue_states_by_turn.
SELECT row, queue_id, state, attempt, nonce, visible_at_ms, leased_at_ms, size, ordering_key, history, deliver_at_ms
FROM queue_states WHERE queue_id = ? AND state = 2;

-- name: wake_rows
-- Purpose: timed messages that are due now, a JSON list of rows. Index: primary key.
UPDATE queue_states SET state = 0, visible_at_ms = NULL, nonce = NULL WHERE row IN (SELECT value FROM json_each(?));

-- name: set_state
-- Purpose: move one message. Index: primary key.
UPDATE queue_states SET state = ?, visible_at_ms = ?, nonce = NULL, history = ? WHERE row = ?;

-- name: set_visible
-- Purpose: extend leases. Index: primary key.
UPDATE queue_states SET visible_at_ms = ? WHERE row IN (SELECT value FROM json_each(?));

-- name: delete_states
-- Purpose: messages that leave, a JSON list of rows. Index: primary key.
DELETE FROM queue_states WHERE row IN (SELECT value FROM json_each(?));

-- name: delete_messages
-- Purpose: and their payloads. Index: primary key.
DELETE FROM queue_messages WHERE row IN (SELECT value FROM json_each(?));

-- name: bury
-- Purpose: a message becomes a dead letter. Index: primary key.
INSERT INTO dead_letters
  (queue_id, message_id, priority, enqueued_at_ms, dead_at_ms, ordering_key, reason, history, headers, data)
SELECT queue_id, message_id, priority, enqueued_at_ms, ?, ordering_key, ?, ?, headers, data
FROM queue_messages WHERE row = ?;

-- name: find_dead
-- Purpose: the oldest dead letter of a message id. Index: dead_letters_by_message.
SELECT dead_id, message_id, priority, enqueued_at_ms, ordering_key, headers, data
FROM dead_letters WHERE queue_id = ? AND message_id = ? ORDER BY dead_id LIMIT 1;

-- name: delete_dead
-- Purpose: redriven ones. Index: primary key.
DELETE FROM dead_letters WHERE dead_id = ?;

-- name: delete_dead_of_queue
-- Purpose: remove, part by part. Index: dead_letters_by_queue.
DELETE FROM dead_letters WHERE dead_id IN (SELECT dead_id FROM dead_letters WHERE queue_id = ? LIMIT ?);

-- name: list_dead
-- Purpose: dead letters, oldest first. Index: dead_letters_by_queue.
SELECT message_id, data, headers, priority, enqueued_at_ms, ordering_key, dead_id, reason, history, dead_at_ms
FROM dead_letters WHERE queue_id = ? AND dead_id > ? ORDER BY dead_id LIMIT ?;

-- name: queue_id
-- Purpose: a queue by its name, for readers. Index: the unique name.
SELECT queue_id, settings FROM queues WHERE name = ?;

-- name: names
-- Purpose: queues in order. Index: the unique name.
SELECT name FROM queues WHERE name > ? ORDER BY name LIMIT ?;

-- name: peek
-- Purpose: messages in hand-out order, from each state as many as a page takes. Index: queue_states_by_turn, five times.
WITH turn (rank, row) AS (
  SELECT * FROM (SELECT rank, row FROM queue_states WHERE queue_id = ?1 AND state = 0 AND (rank, row) > (?2, ?3) ORDER BY rank, row LIMIT ?4)
  UNION ALL
  SELECT * FROM (SELECT rank, row FROM queue_states WHERE queue_id = ?1 AND state = 1 AND (rank, row) > (?2, ?3) ORDER BY rank, row LIMIT ?4)
  UNION ALL
  SELECT * FROM (SELECT rank, row FROM queue_states WHERE queue_id = ?1 AND state = 2 AND (rank, row) > (?2, ?3) ORDER BY rank, row LIMIT ?4)
  UNION ALL
  SELECT * FROM (SELECT rank, row FROM queue_states WHERE queue_id = ?1 AND state = 3 AND (rank, row) > (?2, ?3) ORDER BY rank, row LIMIT ?4)
  UNION ALL
  SELECT * FROM (SELECT rank, row FROM queue_states WHERE queue_id = ?1 AND state = 4 AND (rank, row) > (?2, ?3) ORDER BY rank, row LIMIT ?4)
)
SELECT t.rank, t.row, m.message_id, m.data, m.headers, m.priority, m.enqueued_at_ms, m.ordering_key
FROM turn t JOIN queue_messages m ON m.row = t.row ORDER BY t.rank, t.row LIMIT ?4;

-- name: keyed_rows
-- Purpose: messages of a queue that becomes ordered or stops being so. Index: queue_states_by_key.
SELECT s.row, s.state, s.ordering_key, s.deliver_at_ms, m.priority, s.visible_at_ms, s.history
FROM queue_states s JOIN queue_messages m ON m.row = s.row
WHERE s.queue_id = ? AND s.ordering_key IS NOT NULL ORDER BY s.row;

-- name: rank_all_equal
-- Purpose: a queue becomes ordered. Index: queue_states_by_turn.
UPDATE queue_states SET rank = 0 WHERE queue_id = ?;

-- name: rank_by_priority
-- Purpose: a queue stops being ordered. Index: queue_states_by_turn; queue_messages by row.
UPDATE queue_states SET rank = -(SELECT m.priority FROM queue_messages m WHERE m.row = queue_states.row)
WHERE queue_id = ?;
