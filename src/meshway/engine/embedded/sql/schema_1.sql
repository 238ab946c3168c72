-- Version 1 of the database. Later versions only add (schema_2.sql, ...), so that the release before still runs on them.

-- Highest numbers given out, reserved in blocks: revisions, positions and rows never repeat, even after a crash.
CREATE TABLE counters (
  name TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE kv (
  key TEXT PRIMARY KEY,
  revision INTEGER NOT NULL,
  expires_at_ms INTEGER,
  value BLOB NOT NULL
) WITHOUT ROWID;

CREATE INDEX kv_by_expiry ON kv (expires_at_ms) WHERE expires_at_ms IS NOT NULL;

-- trimmed_to: the highest sequence that was trimmed, with its message id.
CREATE TABLE log_subjects (
  subject_id INTEGER PRIMARY KEY,
  subject TEXT NOT NULL UNIQUE,
  trimmed_to INTEGER NOT NULL DEFAULT 0,
  trimmed_message_id TEXT
);

-- In order of arrival, so appending touches only the last page. Columns that searches need come before the payload.
CREATE TABLE log_entries (
  position INTEGER PRIMARY KEY,
  subject_id INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  at_ms INTEGER NOT NULL,
  message_id TEXT NOT NULL,
  headers BLOB,
  data BLOB NOT NULL
);

-- Filled in sorted runs (counter log_indexed says up to which position): inserting at once would dirty one page per
-- subject and batch and quadruple what each commit writes.
CREATE TABLE log_index (
  subject_id INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  position INTEGER NOT NULL,
  PRIMARY KEY (subject_id, sequence)
) WITHOUT ROWID;

CREATE TABLE queues (
  queue_id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  -- JSON of QueueSettings; NULL where the queue was never configured.
  settings BLOB
);

-- What was sent; never changed. The row number is the order of arrival.
CREATE TABLE queue_messages (
  row INTEGER PRIMARY KEY,
  queue_id INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  enqueued_at_ms INTEGER NOT NULL,
  message_id TEXT NOT NULL,
  ordering_key TEXT,
  headers BLOB,
  data BLOB NOT NULL
);

-- Where each message stands (states: queue_life.py); small, because every hand-out rewrites it.
CREATE TABLE queue_states (
  row INTEGER PRIMARY KEY,
  queue_id INTEGER NOT NULL,
  state INTEGER NOT NULL,
  -- Lower is handed out first: minus the priority, 0 in ordered queues.
  rank INTEGER NOT NULL,
  -- When it is due: end of the delay, of the back-off or of the lease. NULL while waiting or blocked.
  visible_at_ms INTEGER,
  deliver_at_ms INTEGER,
  expires_at_ms INTEGER,
  attempt INTEGER NOT NULL,
  nonce INTEGER,
  leased_at_ms INTEGER,
  size INTEGER NOT NULL,
  ordering_key TEXT,
  -- JSON list of AttemptRecord of attempts that ended without success.
  history BLOB
);

CREATE INDEX queue_states_by_turn ON queue_states (queue_id, state, rank, row);
CREATE INDEX queue_states_by_due ON queue_states (visible_at_ms) WHERE visible_at_ms IS NOT NULL;
CREATE INDEX queue_states_by_expiry ON queue_states (expires_at_ms) WHERE expires_at_ms IS NOT NULL;
CREATE INDEX queue_states_by_key ON queue_states (queue_id, ordering_key, row) WHERE ordering_key IS NOT NULL;

-- Digests of recently appended message ids, in order of arrival; the memory index is rebuilt from them at a start.
CREATE TABLE queue_recent (
  recent_id INTEGER PRIMARY KEY,
  at_ms INTEGER NOT NULL,
  digest INTEGER NOT NULL,
  rest INTEGER NOT NULL
);

CREATE TABLE queue_dedupe (
  queue_id INTEGER NOT NULL,
  dedupe_id TEXT NOT NULL,
  expires_at_ms INTEGER NOT NULL,
  PRIMARY KEY (queue_id, dedupe_id)
) WITHOUT ROWID;

CREATE INDEX queue_dedupe_by_expiry ON queue_dedupe (expires_at_ms);

CREATE TABLE dead_letters (
  dead_id INTEGER PRIMARY KEY,
  queue_id INTEGER NOT NULL,
  message_id TEXT NOT NULL,
  priority INTEGER NOT NULL,
  enqueued_at_ms INTEGER NOT NULL,
  dead_at_ms INTEGER NOT NULL,
  ordering_key TEXT,
  reason TEXT NOT NULL,
  history BLOB,
  headers BLOB,
  data BLOB NOT NULL
);

CREATE INDEX dead_letters_by_queue ON dead_letters (queue_id, dead_id);
CREATE INDEX dead_letters_by_message ON dead_letters (queue_id, message_id);

CREATE TABLE blobs (
  sha256 TEXT PRIMARY KEY,
  size INTEGER NOT NULL,
  expires_at_ms INTEGER
) WITHOUT ROWID;

CREATE INDEX blobs_by_expiry ON blobs (expires_at_ms) WHERE expires_at_ms IS NOT NULL;
