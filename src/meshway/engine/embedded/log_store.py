"""The writer's side of Log: numbers the entries of each subject, recognises repetitions, keeps the index in step."""

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec

from meshway.engine.embedded.counters import Counter
from meshway.engine.embedded.log_search import first_position_at
from meshway.engine.embedded.queries import insert_rows, load_queries
from meshway.engine.embedded.recent_ids import RecentIds, Remembered, digest_of
from meshway.engine.embedded.writer import Publish, WriteCall
from meshway.engine.ports import Appended, LogAppend, LogOutcome, WrongLast

__all__ = ["EntryRow", "LogCall", "LogStore", "TrimCall"]

# Position, subject id, sequence, time, message id, headers (JSON or None), data.
EntryRow = tuple[int, int, int, int, str, bytes | None, bytes]

# Entries beyond the index: a read of one subject looks through them all, so they stay few.
_UNINDEXED_MAX = 2_048
# Rows of one statement; each number of them is a statement of its own, prepared once.
_ALONE_ROWS_MAX = 64
# Entries trimmed in one group, so that a large trim does not hold up others' writes.
_TRIM_MAX = 500


class LogCall(WriteCall):
    """One `Log.append`."""

    __slots__ = ("entries", "outcomes")

    entries: Sequence[LogAppend]
    outcomes: Sequence[LogOutcome]


class TrimCall(WriteCall):
    """Drop a part of a subject's entries up to `last_sequence`; `dropped` of them, `more` when some are left."""

    __slots__ = ("dropped", "last_sequence", "more", "subject")

    subject: str
    last_sequence: int
    dropped: int
    more: bool


class _Subject:
    """A subject's end as the running transaction sees it."""

    __slots__ = ("last", "last_message_id", "subject_id")

    def __init__(self, subject_id: int, last: int, last_message_id: str | None) -> None:
        self.subject_id = subject_id
        self.last = last
        self.last_message_id = last_message_id


class LogStore:
    """Writer's thread only. `publish` gets the subjects and rows of a group, in order, on the loop."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        recent: RecentIds,
        window_ms: int,
        subjects_cached_max: int,
        now_ms: int,
        publish: Callable[[Sequence[str], Sequence[EntryRow]], None],
    ) -> None:
        self._queries = load_queries("log.sql")
        self._publish = publish
        self._recent = recent
        self._subjects_cached_max = subjects_cached_max
        self._subjects: OrderedDict[str, _Subject] = OrderedDict()
        self._positions = Counter(connection, "log_position")
        self._next_subject_id: int = connection.execute(self._queries.text("subject_id_max")).fetchone()[0] + 1
        self._last_at_ms = 0
        self._indexed_to = 0
        self._unindexed = 0
        # Ends of the subjects beyond the index: what a lookup in the index would miss.
        self._unindexed_ends: dict[int, tuple[int, str]] = {}
        self._load_unindexed(connection)
        recent.load(connection, self._recent_ids(connection, now_ms - window_ms))

    @property
    def position(self) -> int:
        """The last position that was given out before opening; nothing after it exists yet."""
        return self._positions.last

    def apply_alone(self, connection: sqlite3.Connection, calls: Sequence[WriteCall], now_ms: int) -> Publish | None:
        """Events of streams under way, each after the one it says it follows: one statement instead of four."""
        entries: list[LogAppend] = []
        for call in calls:
            if not isinstance(call, LogCall):
                return None
            entries.extend(call.entries)
        ends = self._ends_if_all_follow(entries)
        if ends is None:
            return None
        now_ms = self._last_at_ms = max(now_ms, self._last_at_ms)
        first = self._positions.take(connection, len(entries))
        rows: list[EntryRow] = []
        for position, entry in enumerate(entries, first):
            assert entry.expected_last is not None
            subject_id, sequence = self._subjects[entry.subject].subject_id, entry.expected_last + 1
            headers = msgspec.json.encode(entry.headers) if entry.headers else None
            rows.append((position, subject_id, sequence, now_ms, entry.message_id, headers, entry.data))
        statement = self._queries["insert_entries"].for_rows(len(rows))
        connection.execute(statement, [value for row in rows for value in row])
        for name, end in ends.items():
            self._subjects.move_to_end(name)
            self._subjects[name].last, self._subjects[name].last_message_id = end
        self._remember_unindexed(rows)
        outcomes = iter([Appended(sequence=row[2], position=row[0], duplicate=False) for row in rows])
        for call in calls:
            assert isinstance(call, LogCall)
            call.outcomes = list(islice(outcomes, len(call.entries)))
        subjects = [entry.subject for entry in entries]
        return lambda: self._publish(subjects, rows)

    def _ends_if_all_follow(self, entries: Sequence[LogAppend]) -> dict[str, tuple[int, str]] | None:
        """The end of each subject after these; None where one may be refused, or something else has to be written."""
        if not (0 < len(entries) <= _ALONE_ROWS_MAX and self._positions.has(len(entries))):
            return None
        if self._indexed_to < 0 or self._unindexed + len(entries) >= _UNINDEXED_MAX:
            return None
        ends: dict[str, tuple[int, str]] = {}
        for entry in entries:
            subject = self._subjects.get(entry.subject)
            if subject is None or entry.is_repeatable or entry.expected_last is None:
                return None
            last = ends[entry.subject][0] if entry.subject in ends else subject.last
            if entry.expected_last != last:
                return None
            ends[entry.subject] = (last + 1, entry.message_id)
        return ends

    def apply(self, connection: sqlite3.Connection, calls: Sequence[WriteCall], now_ms: int) -> Publish | None:
        # Times never fall along the log, so that they can be searched.
        now_ms = self._last_at_ms = max(now_ms, self._last_at_ms)
        appending = [call for call in calls if isinstance(call, LogCall)]
        publish = self._append(connection, appending, now_ms) if appending else None
        for call in calls:
            if isinstance(call, TrimCall):
                self._trim(connection, call)
        return publish

    def rolled_back(self) -> None:
        self._positions.rolled_back()
        self._subjects.clear()
        # What the index holds is unknown now; the next group reads it again.
        self._indexed_to = -1

    def _append(self, connection: sqlite3.Connection, calls: Sequence[LogCall], now_ms: int) -> Publish | None:
        if self._indexed_to < 0:
            self._load_unindexed(connection)
        self._know_subjects(connection, {entry.subject for call in calls for entry in call.entries})
        digests = [
            digest_of("log", entry.subject, entry.message_id) if entry.is_repeatable else None
            for call in calls
            for entry in call.entries
        ]
        known = self._recent.find(connection, [digest for digest in digests if digest is not None], now_ms)
        # One number for each, whether or not it is needed: positions may have gaps.
        position = self._positions.take(connection, len(digests)) - 1
        rows: list[EntryRow] = []
        subjects: list[str] = []
        remembered: list[Remembered] = []
        next_digest = iter(digests)
        for call in calls:
            outcomes: list[LogOutcome] = []
            for entry in call.entries:
                digest = next(next_digest)
                subject = self._subjects[entry.subject]
                repeated = known.get(digest) if digest is not None else None
                refused = self._refuse(connection, entry, subject, repeated, rows)
                if refused is not None:
                    outcomes.append(refused)
                    continue
                position += 1
                sequence = subject.last = subject.last + 1
                subject.last_message_id = entry.message_id
                headers = msgspec.json.encode(entry.headers) if entry.headers else None
                rows.append((position, subject.subject_id, sequence, now_ms, entry.message_id, headers, entry.data))
                subjects.append(entry.subject)
                if digest is not None:
                    known[digest] = (sequence, position)
                    remembered.append((*digest, now_ms, sequence, position))
                outcomes.append(Appended(sequence=sequence, position=position, duplicate=False))
            call.outcomes = outcomes
        if not rows:
            return None
        insert_rows(connection, self._queries["insert_entries"], rows)
        if remembered:
            self._recent.remember(connection, remembered, now_ms)
        self._remember_unindexed(rows)
        if self._unindexed >= _UNINDEXED_MAX:
            self._index(connection)
        return lambda: self._publish(subjects, rows)

    def _remember_unindexed(self, rows: Sequence[EntryRow]) -> None:
        for row in rows:
            self._unindexed_ends[row[1]] = (row[2], row[4])
        self._unindexed += len(rows)

    def _refuse(
        self,
        connection: sqlite3.Connection,
        entry: LogAppend,
        subject: _Subject,
        known: tuple[int, int] | None,
        rows: Sequence[EntryRow],
    ) -> LogOutcome | None:
        """The outcome of an entry that is not to be written; None when it is."""
        if entry.expected_last is None:
            return None if known is None else Appended(sequence=known[0], position=known[1], duplicate=True)
        if entry.expected_last == subject.last:
            return None
        if entry.expected_last < subject.last:
            position = self._position_of(connection, subject.subject_id, entry, rows)
            if position is not None:
                return Appended(sequence=entry.expected_last + 1, position=position, duplicate=True)
        return WrongLast(last=subject.last, last_message_id=subject.last_message_id)

    def _position_of(
        self, connection: sqlite3.Connection, subject_id: int, entry: LogAppend, rows: Sequence[EntryRow]
    ) -> int | None:
        """Where the entry stands if it is the one that was appended after `expected_last`."""
        sequence = (entry.expected_last or 0) + 1
        for row in rows:
            if row[1] == subject_id and row[2] == sequence:
                return row[0] if row[4] == entry.message_id else None
        self._index(connection)
        found = connection.execute(self._queries.text("entry_at"), (subject_id, sequence)).fetchone()
        return found[0] if found is not None and found[1] == entry.message_id else None

    def _know_subjects(self, connection: sqlite3.Connection, names: set[str]) -> None:
        """Put the ends of all subjects of a group into the cache, making those that are new."""
        unknown = [name for name in names if name not in self._subjects]
        if unknown:
            found = connection.execute(self._queries.text("find_subjects"), (json.dumps(unknown),)).fetchall()
            for subject_id, name, trimmed_to, trimmed_message_id in found:
                end = self._end_of(connection, subject_id) or (trimmed_to, trimmed_message_id)
                self._subjects[name] = _Subject(subject_id, *end)
            new = [name for name in unknown if name not in self._subjects]
            for name in new:
                self._subjects[name] = _Subject(self._next_subject_id, 0, None)
                self._next_subject_id += 1
            insert_rows(
                connection, self._queries["insert_subjects"], [(self._subjects[name].subject_id, name) for name in new]
            )
        for name in names:
            self._subjects.move_to_end(name)
        while len(self._subjects) > max(self._subjects_cached_max, len(names)):
            self._subjects.popitem(last=False)

    def _end_of(self, connection: sqlite3.Connection, subject_id: int) -> tuple[int, str] | None:
        end = self._unindexed_ends.get(subject_id)
        if end is None:
            end = connection.execute(self._queries.text("last_indexed"), (subject_id,)).fetchone()
        return end

    def _index(self, connection: sqlite3.Connection) -> None:
        """Complete the index up to what the database holds; rows of this group not inserted yet are left out."""
        connection.execute(self._queries.text("index_entries"), (self._indexed_to,))
        position: int = connection.execute(self._queries.text("position_max")).fetchone()[0]
        self._indexed_to = max(position, self._indexed_to)
        connection.execute(self._queries.text("set_indexed"), (self._indexed_to,))
        self._unindexed = 0
        self._unindexed_ends.clear()

    def _load_unindexed(self, connection: sqlite3.Connection) -> None:
        found = connection.execute(self._queries.text("indexed_to")).fetchone()
        self._indexed_to = found[0] if found else 0
        self._unindexed = 0
        self._unindexed_ends.clear()
        for row in connection.execute(self._queries.text("heads_unindexed"), (self._indexed_to,)):
            subject_id, sequence, _position, at_ms, message_id = row
            self._unindexed_ends[subject_id] = (sequence, message_id)
            self._last_at_ms = max(self._last_at_ms, at_ms)
            self._unindexed += 1

    def _recent_ids(self, connection: sqlite3.Connection, since_ms: int) -> Iterator[Remembered]:
        begin = first_position_at(connection, self._queries, since_ms, self._positions.last)
        rows = connection.execute(self._queries.text("recent"), (begin, -1))
        for subject, message_id, at_ms, sequence, position in rows:
            yield *digest_of("log", subject, message_id), at_ms, sequence, position

    def _trim(self, connection: sqlite3.Connection, call: TrimCall) -> None:
        call.dropped = 0
        call.more = False
        found = connection.execute(self._queries.text("find_subject"), (call.subject,)).fetchone()
        if found is None:
            return
        subject_id = found[0]
        self._index(connection)
        rows = connection.execute(
            self._queries.text("oldest_to"), (subject_id, call.last_sequence, _TRIM_MAX)
        ).fetchall()
        if not rows:
            return
        last_sequence, _position, message_id = rows[-1]
        connection.execute(self._queries.text("delete_entries"), (json.dumps([row[1] for row in rows]),))
        connection.execute(self._queries.text("delete_indexed"), (subject_id, last_sequence))
        connection.execute(self._queries.text("set_trimmed"), (last_sequence, message_id, subject_id))
        call.dropped = len(rows)
        call.more = len(rows) == _TRIM_MAX
