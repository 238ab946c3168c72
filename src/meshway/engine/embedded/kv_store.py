"""The writer's side of KeyValue: decides each write by what is there and what the group wrote before it."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence

from meshway.engine.embedded.counters import Counter
from meshway.engine.embedded.queries import insert_rows, load_queries
from meshway.engine.embedded.writer import Publish, WriteCall
from meshway.engine.ports import KvConflict, KvCreate, KvDelete, KvEntry, KvOutcome, KvPut, KvUpdate, KvWrite, KvWritten

__all__ = ["KvCall", "KvChange", "KvStore", "KvSweep", "whole_seconds"]

# A put of one key is one row; more rows than this go through the ordinary transaction.
_ALONE_ROWS_MAX = 64
# What needs no look at what is there before it is written.
_ALONE = (KvPut, KvCreate)
# Expired keys removed per sweep and call: a sweep must not hold up the group it is part of.
_SWEEP_MAX = 1_000


class KvChange:
    """A key's newest state: a value, or none (deleted, or expired)."""

    __slots__ = ("expired", "expires_at_ms", "key", "revision", "value")

    def __init__(
        self, key: str, revision: int, value: bytes | None, *, expires_at_ms: int | None = None, expired: bool = False
    ) -> None:
        self.key = key
        self.revision = revision
        self.value = value
        self.expires_at_ms = expires_at_ms
        self.expired = expired

    def is_live(self, now_ms: int) -> bool:
        return self.value is not None and (self.expires_at_ms is None or self.expires_at_ms > now_ms)


class KvCall(WriteCall):
    """One `KeyValue.write`."""

    __slots__ = ("outcomes", "writes")

    writes: Sequence[KvWrite]
    outcomes: Sequence[KvOutcome]


class KvSweep(WriteCall):
    """Remove expired keys; `more` when there may be further ones."""

    __slots__ = ("more",)

    more: bool


class _Head:
    """What is under a key as the running transaction sees it."""

    __slots__ = ("revision", "value")

    def __init__(self, revision: int, value: bytes | None) -> None:
        self.revision = revision
        # None: not read from the database yet.
        self.value = value


class KvStore:
    """Writer's thread only. `publish` gets the changes of a group, in order, on the loop."""

    def __init__(self, connection: sqlite3.Connection, publish: Callable[[Sequence[KvChange]], None]) -> None:
        self._queries = load_queries("kv.sql")
        self._revisions = Counter(connection, "kv_revision")
        self._publish = publish

    def apply_alone(self, connection: sqlite3.Connection, calls: Sequence[WriteCall], now_ms: int) -> Publish | None:
        """A few puts, or a few creates (the owner records of the relay): one statement instead of four."""
        writes: list[KvWrite] = []
        for call in calls:
            if not isinstance(call, KvCall):
                return None
            writes.extend(call.writes)
        kind = type(writes[0]) if 0 < len(writes) <= _ALONE_ROWS_MAX else KvDelete
        if kind not in _ALONE or any(type(write) is not kind for write in writes):
            return None
        if not self._revisions.has(len(writes)):
            return None
        changes = self._insert_alone(connection, kind, writes, now_ms)
        kept = [change for change in changes if change is not None]
        outcomes: Iterator[KvOutcome] = (
            self._lost(connection, write) if change is None else KvWritten(revision=change.revision)
            for write, change in zip(writes, changes, strict=True)
        )
        for call in calls:
            if isinstance(call, KvCall):
                call.outcomes = [next(outcomes) for _ in call.writes]
        return lambda: self._publish(kept)

    def _insert_alone(
        self, connection: sqlite3.Connection, kind: type[KvWrite], writes: Sequence[KvWrite], now_ms: int
    ) -> Sequence[KvChange | None]:
        """What became of each: its change, None where something was there."""
        revision = self._revisions.take(connection, len(writes))
        values: list[int | str | bytes | None] = []
        changes: list[KvChange | None] = []
        for write in writes:
            assert isinstance(write, KvPut | KvCreate)
            expires_at_ms = _expiry(write.ttl_ms, now_ms)
            values += (write.key, revision, expires_at_ms, write.value)
            changes.append(KvChange(write.key, revision, write.value, expires_at_ms=expires_at_ms))
            revision += 1
        if kind is KvPut:
            connection.execute(self._queries["put"].for_rows(len(writes)), values)
            return changes
        written = connection.execute(self._queries["create"].for_rows(len(writes)), (*values, now_ms)).rowcount
        if written == len(writes):
            return changes
        found = connection.execute(self._queries.text("heads"), (json.dumps([write.key for write in writes]),))
        revisions = {key: revision for key, revision, _expires in found}
        return [change if change and revisions.get(change.key) == change.revision else None for change in changes]

    def _lost(self, connection: sqlite3.Connection, write: KvWrite) -> KvConflict:
        """The conflict of a create that found something; it is still there, since nobody else writes."""
        key, revision, _expires, value = connection.execute(self._queries.text("get_one"), (write.key,)).fetchone()
        return KvConflict(current=KvEntry(key=key, value=value, revision=revision))

    def apply(self, connection: sqlite3.Connection, calls: Sequence[WriteCall], now_ms: int) -> Publish | None:
        writing = [call for call in calls if isinstance(call, KvCall)]
        heads = self._read_heads(connection, writing, now_ms)
        newest: dict[str, KvChange] = {}
        changes: list[KvChange] = []
        for call in writing:
            outcomes: list[KvOutcome] = []
            for write in call.writes:
                outcome, change = self._decide(connection, heads, write, now_ms)
                outcomes.append(outcome)
                if change is not None:
                    changes.append(change)
                    newest[change.key] = change
                    if change.value is None:
                        heads.pop(change.key, None)
                    else:
                        heads[change.key] = _Head(change.revision, change.value)
            call.outcomes = outcomes
        self._store(connection, newest)
        for sweep in calls:
            if isinstance(sweep, KvSweep):
                changes.extend(self._sweep(connection, sweep, now_ms))
        return (lambda: self._publish(changes)) if changes else None

    def rolled_back(self) -> None:
        self._revisions.rolled_back()

    def _read_heads(self, connection: sqlite3.Connection, calls: Sequence[KvCall], now_ms: int) -> dict[str, _Head]:
        keys = {write.key for call in calls for write in call.writes if type(write) is not KvPut}
        if not keys:
            return {}
        rows = connection.execute(self._queries.text("heads"), (json.dumps(list(keys)),))
        return {key: _Head(revision, None) for key, revision, expires in rows if expires is None or expires > now_ms}

    def _decide(
        self, connection: sqlite3.Connection, heads: Mapping[str, _Head], write: KvWrite, now_ms: int
    ) -> tuple[KvOutcome, KvChange | None]:
        head = heads.get(write.key)
        if isinstance(write, KvDelete):
            if head is not None and write.revision not in (None, head.revision):
                return KvConflict(current=self._entry(connection, write.key, head)), None
            revision = self._revisions.take(connection, 1)
            # A delete of what is not there changes nothing, so nobody is told.
            return KvWritten(revision=revision), None if head is None else KvChange(write.key, revision, None)
        if isinstance(write, KvCreate) and head is not None:
            return KvConflict(current=self._entry(connection, write.key, head)), None
        if isinstance(write, KvUpdate) and (head is None or head.revision != write.revision):
            return KvConflict(current=self._entry(connection, write.key, head)), None
        revision = self._revisions.take(connection, 1)
        change = KvChange(write.key, revision, write.value, expires_at_ms=_expiry(write.ttl_ms, now_ms))
        return KvWritten(revision=revision), change

    def _entry(self, connection: sqlite3.Connection, key: str, head: _Head | None) -> KvEntry | None:
        if head is None:
            return None
        if head.value is None:
            (_key, _revision, _expires, head.value) = connection.execute(
                self._queries.text("get_one"), (key,)
            ).fetchone()
        return KvEntry(key=key, value=head.value or b"", revision=head.revision)

    def _store(self, connection: sqlite3.Connection, newest: Mapping[str, KvChange]) -> None:
        rows = [
            (change.key, change.revision, change.expires_at_ms, change.value)
            for change in newest.values()
            if change.value is not None
        ]
        if rows:
            insert_rows(connection, self._queries["put"], rows)
        gone = [change.key for change in newest.values() if change.value is None]
        if gone:
            connection.execute(self._queries.text("delete"), (json.dumps(gone),))

    def _sweep(self, connection: sqlite3.Connection, call: KvSweep, now_ms: int) -> Sequence[KvChange]:
        keys = [row[0] for row in connection.execute(self._queries.text("expired"), (now_ms, _SWEEP_MAX))]
        call.more = len(keys) == _SWEEP_MAX
        if not keys:
            return ()
        connection.execute(self._queries.text("delete"), (json.dumps(keys),))
        revision = self._revisions.take(connection, len(keys))
        return [KvChange(key, revision + number, None, expired=True) for number, key in enumerate(keys)]


def whole_seconds(duration_ms: int) -> int:
    """Rounded up to whole seconds, at least one: what every engine can keep."""
    return max(1, -(-duration_ms // 1000)) * 1000


def _expiry(ttl_ms: int | None, now_ms: int) -> int | None:
    return None if ttl_ms is None else now_ms + whole_seconds(ttl_ms)
