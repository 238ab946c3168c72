"""Tails of the log: replay from the store, then live from memory, and back to the store when the reader is slow.

A tail collects what is published from before it reads the store, and reads the store only up to what was published
then; whatever comes later is in its buffer. So nothing falls between, and the position tells what was seen already.
"""

import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from meshway.engine.embedded.log_search import Cursor, decode_headers, read_pattern, read_subject, start_cursor
from meshway.engine.embedded.log_store import EntryRow
from meshway.engine.embedded.pattern_map import PatternMap
from meshway.engine.embedded.queries import Queries
from meshway.engine.embedded.readers import Readers
from meshway.engine.embedded.wakeup import Wakeup
from meshway.engine.ports import LogEntry, LogStart, SubscriptionLost
from meshway.engine.ports.checks import check_between, is_literal

__all__ = ["Tail", "Tails"]

# Entries read from the store at a time: enough to be quick, few enough to hold in memory.
_PAGE = 256
# What one `take` may ask for: the caller has to hold it.
_TAKE_MAX = 10_000


class Tails:
    """All tails, and the last position that readers may see. The loop's thread only."""

    def __init__(self, *, readers: Readers, queries: Queries, buffer_entries_max: int, buffer_bytes_max: int) -> None:
        self.visible = 0
        self.readers = readers
        self.queries = queries
        self.buffer_entries_max = buffer_entries_max
        self.buffer_bytes_max = buffer_bytes_max
        self._listeners: PatternMap[dict[Tail, None]] = PatternMap()
        self._open: set[Tail] = set()

    def open(self, pattern: str, start: LogStart) -> "Tail":
        return Tail(self, pattern, start)

    def add(self, tail: "Tail") -> None:
        self._open.add(tail)
        listeners = self._listeners.get(tail.pattern)
        if listeners is None:
            listeners = {}
            self._listeners.put(tail.pattern, listeners)
        listeners[tail] = None

    def discard(self, tail: "Tail") -> None:
        if tail not in self._open:
            return
        self._open.discard(tail)
        listeners = self._listeners.get(tail.pattern)
        if listeners is not None:
            listeners.pop(tail, None)
            if not listeners:
                self._listeners.remove(tail.pattern)

    def publish(self, subjects: Sequence[str], rows: Sequence[EntryRow]) -> None:
        """Called after each group, in order; the rows are in order of position."""
        self.visible = rows[-1][0]
        if not self._open:
            return
        for subject, row in zip(subjects, rows, strict=True):
            patterns = self._listeners.matching(subject)
            if patterns:
                entry = _entry_of(subject, row)
                for tails in patterns:
                    for tail in tails:
                        tail.offer(entry)

    def close(self) -> None:
        for tail in self._open:
            tail.lose("the store was closed")


class Tail:
    """One reader: an async context manager and, inside it, an iterator that never ends by itself."""

    def __init__(self, tails: Tails, pattern: str, start: LogStart) -> None:
        self.pattern = pattern
        self._tails = tails
        self._start = start
        self._cursor = Cursor(0, 0)
        self._ready: deque[LogEntry] = deque()
        self._buffer: deque[LogEntry] = deque()
        self._buffer_bytes = 0
        # True while the store has entries that the buffer has not.
        self._behind = True
        # The position up to which the store is being read.
        self._read_to = 0
        self._wakeup = Wakeup()
        self._lost: str | None = None

    async def __aenter__(self) -> "Tail":
        self._tails.add(self)
        self._begin_reading()
        try:
            visible = self._read_to
            self._cursor = await self._tails.readers.run(
                lambda connection: start_cursor(connection, self._tails.queries, self.pattern, self._start, visible)
            )
        except BaseException:
            self._tails.discard(self)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tails.discard(self)
        self.lose("the tail was closed")

    def __aiter__(self) -> AsyncIterator[LogEntry]:
        return self

    async def __anext__(self) -> LogEntry:
        await self._make_ready()
        return self._ready.popleft()

    async def take(self, count_max: int) -> Sequence[LogEntry]:
        check_between("count_max", count_max, 1, _TAKE_MAX)
        await self._make_ready()
        ready = self._ready
        if len(ready) > count_max:
            return [ready.popleft() for _ in range(count_max)]
        taken = list(ready)
        ready.clear()
        return taken

    async def _make_ready(self) -> None:
        """Until at least one entry is ready. Cancelled at any point it has lost none."""
        while not self._ready:
            if self._lost is not None:
                raise SubscriptionLost(self._lost)
            if self._cursor.position < self._read_to:
                await self._read_store()
            elif self._behind:
                self._begin_reading()
            elif self._buffer:
                self._take_buffer()
            else:
                await self._wakeup.wait()

    def offer(self, entry: LogEntry) -> None:
        """A published entry; dropped, for the store to serve, when the reader does not keep up."""
        if self._behind:
            return
        self._buffer_bytes += len(entry.data)
        if len(self._buffer) >= self._tails.buffer_entries_max or (
            self._buffer_bytes > self._tails.buffer_bytes_max and self._buffer
        ):
            self._buffer.clear()
            self._behind = True
        else:
            self._buffer.append(entry)
        self._wakeup.set()

    def lose(self, reason: str) -> None:
        self._lost = reason
        self._buffer.clear()
        self._wakeup.set()

    def _begin_reading(self) -> None:
        # Both at the same moment: all up to `_read_to` comes from the store, all after it goes into the buffer.
        self._buffer.clear()
        self._buffer_bytes = 0
        self._behind = False
        self._read_to = self._tails.visible

    def _take_buffer(self) -> None:
        position, sequence = self._cursor
        for entry in self._buffer:
            if entry.position > position and entry.sequence >= sequence:
                self._ready.append(entry)
        self._cursor = Cursor(max(position, self._buffer[-1].position), sequence)
        self._read_to = self._cursor.position
        self._buffer.clear()
        self._buffer_bytes = 0

    async def _read_store(self) -> None:
        entries, position = await self._tails.readers.run(self._read_page)
        self._ready.extend(entry for entry in entries if entry.sequence >= self._cursor.sequence)
        self._cursor = Cursor(position, self._cursor.sequence)

    def _read_page(self, connection: sqlite3.Connection) -> tuple[Sequence[LogEntry], int]:
        queries = self._tails.queries
        if not is_literal(self.pattern):
            return read_pattern(connection, queries, self.pattern, self._cursor, visible=self._read_to, limit=_PAGE)
        entries = read_subject(connection, queries, self.pattern, self._cursor, visible=self._read_to, limit=_PAGE)
        return entries, entries[-1].position if len(entries) == _PAGE else self._read_to


def _entry_of(subject: str, row: EntryRow) -> LogEntry:
    position, _subject_id, sequence, at_ms, message_id, headers, data = row
    return LogEntry(
        subject=subject,
        sequence=sequence,
        position=position,
        message_id=message_id,
        data=data,
        headers=decode_headers(headers),
        timestamp_ms=at_ms,
    )
