"""Log on the embedded store: appends through the writer, reads from a reader, tails from memory where they keep up."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from meshway.engine.embedded.log_search import bounds_of, list_subjects, read_subject, start_cursor, trim_target
from meshway.engine.embedded.log_store import LogCall, LogStore, TrimCall
from meshway.engine.embedded.log_tail import EmbeddedTails
from meshway.engine.embedded.queries import load_queries
from meshway.engine.embedded.readers import Readers
from meshway.engine.embedded.writer import Writer
from meshway.engine.ports import (
    Durability,
    FromLast,
    FromSequence,
    LogAppend,
    LogBounds,
    LogEntry,
    LogOutcome,
    LogStart,
    LogTail,
    LogTrim,
)
from meshway.engine.ports.checks import check_between, check_name, check_pattern, is_literal, refused

__all__ = ["EmbeddedLog"]

_READ_MAX = 10_000
# What an entry adds to the write-ahead log besides its payload.
_ENTRY_OVERHEAD_BYTES = 200


class EmbeddedLog:
    """See `engine.ports.Log`."""

    def __init__(self, store: LogStore, *, writer: Writer, readers: Readers, tails: EmbeddedTails) -> None:
        self._store = store
        self._writer = writer
        self._readers = readers
        self._tails = tails
        self._queries = load_queries("log.sql")

    async def append(self, entries: Sequence[LogAppend]) -> Sequence[LogOutcome]:
        if not entries:
            return []
        weight = 0
        lazy = True
        for entry in entries:
            check_name(entry.subject, "subject")
            weight += _ENTRY_OVERHEAD_BYTES + len(entry.data)
            lazy = lazy and entry.durability is Durability.LAZY
        call = LogCall(self._store, self._writer.new_finished(), lazy=lazy, weight=weight)
        call.entries = entries
        self._writer.submit(call)
        await call.finished
        return call.outcomes

    async def read(self, subject: str, start: LogStart, *, limit: int = 500) -> Sequence[LogEntry]:
        check_name(subject, "subject")
        check_between("limit", limit, 1, _READ_MAX)
        visible = self._tails.visible
        queries = self._queries
        return await self._readers.run(
            lambda connection: read_subject(
                connection,
                queries,
                subject,
                start_cursor(connection, queries, subject, start, visible),
                visible=visible,
                limit=limit,
            )
        )

    def tail(self, pattern: str, start: LogStart) -> AbstractAsyncContextManager[LogTail]:
        check_pattern(pattern)
        if not is_literal(pattern) and isinstance(start, FromSequence | FromLast):
            raise refused("start", "a pattern with wildcards starts from a position, a time or what is new")
        return self._tails.open(pattern, start)

    async def bounds(self, subjects: Sequence[str]) -> Sequence[LogBounds | None]:
        for subject in subjects:
            check_name(subject, "subject")
        visible = self._tails.visible
        return await self._readers.run(
            lambda connection: [bounds_of(connection, self._queries, subject, visible) for subject in subjects]
        )

    async def trim(self, trims: Sequence[LogTrim]) -> Sequence[int]:
        return [await self._trim(trim) for trim in trims]

    async def subjects(self, pattern: str, *, after: str | None = None, limit: int = 500) -> Sequence[str]:
        check_pattern(pattern)
        check_between("limit", limit, 1, _READ_MAX)
        return await self._readers.run(
            lambda connection: list_subjects(connection, self._queries, pattern, after, limit)
        )

    def close(self) -> None:
        """End all tails."""
        self._tails.close()

    async def _trim(self, trim: LogTrim) -> int:
        check_name(trim.subject, "subject")
        # Trimming nothing completes the index, which the search for the target relies on.
        await self._drop(trim.subject, 0)
        visible = self._tails.visible
        target = await self._readers.run(lambda connection: trim_target(connection, self._queries, trim, visible))
        dropped = 0
        more = target > 0
        while more:
            call = await self._drop(trim.subject, target)
            dropped += call.dropped
            more = call.more
        return dropped

    async def _drop(self, subject: str, last_sequence: int) -> TrimCall:
        call = TrimCall(self._store, self._writer.new_finished())
        call.subject = subject
        call.last_sequence = last_sequence
        self._writer.submit(call)
        await call.finished
        return call
