"""Tails of the embedded log: what the writer has committed is offered, and a reader reads what was before."""

import sqlite3
from collections.abc import Sequence

from meshway.engine.embedded.log_search import decode_headers, read_pattern, read_subject, start_cursor
from meshway.engine.embedded.log_store import EntryRow
from meshway.engine.embedded.queries import Queries
from meshway.engine.embedded.readers import Readers
from meshway.engine.ports import LogEntry, LogStart
from meshway.engine.ports.checks import is_literal
from meshway.engine.ports.tails import Cursor, Tail, Tails

__all__ = ["EmbeddedTails"]

# Entries read from the store at a time: enough to be quick, few enough to hold in memory.
_PAGE = 256


class EmbeddedTails:
    """All tails, and the last position that readers may see. The loop's thread only."""

    def __init__(self, *, readers: Readers, queries: Queries, buffer_entries_max: int, buffer_bytes_max: int) -> None:
        self.visible = 0
        self._readers = readers
        self._queries = queries
        self._tails = Tails(
            lambda: self.visible, buffer_entries_max=buffer_entries_max, buffer_bytes_max=buffer_bytes_max
        )

    def open(self, pattern: str, start: LogStart) -> Tail:
        return Tail(self._tails, pattern, _Reader(self._readers, self._queries, pattern, start))

    def publish(self, subjects: Sequence[str], rows: Sequence[EntryRow]) -> None:
        """Called after each group, in order; the rows are in order of position."""
        self.visible = rows[-1][0]
        if not self._tails:
            return
        for subject, row in zip(subjects, rows, strict=True):
            patterns = self._tails.matching(subject)
            if patterns:
                entry = _entry_of(subject, row)
                for tails in patterns:
                    for tail in tails:
                        tail.offer(entry)

    def close(self) -> None:
        self._tails.close("the store was closed")


class _Reader:
    """See `TailReader`."""

    def __init__(self, readers: Readers, queries: Queries, pattern: str, start: LogStart) -> None:
        self._readers = readers
        self._queries = queries
        self._pattern = pattern
        self._start = start

    async def begin(self, visible: int) -> Cursor:
        return await self._readers.run(
            lambda connection: start_cursor(connection, self._queries, self._pattern, self._start, visible)
        )

    async def read(self, cursor: Cursor, up_to: int) -> tuple[Sequence[LogEntry], Cursor]:
        entries, position = await self._readers.run(lambda connection: self._read_page(connection, cursor, up_to))
        wanted = [entry for entry in entries if entry.sequence >= cursor.sequence]
        return wanted, Cursor(position, cursor.sequence)

    def _read_page(self, connection: sqlite3.Connection, cursor: Cursor, up_to: int) -> tuple[Sequence[LogEntry], int]:
        queries = self._queries
        if not is_literal(self._pattern):
            return read_pattern(connection, queries, self._pattern, cursor, visible=up_to, limit=_PAGE)
        entries = read_subject(connection, queries, self._pattern, cursor, visible=up_to, limit=_PAGE)
        return entries, entries[-1].position if len(entries) == _PAGE else up_to


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
