"""Log on JetStream: one stream, a subject in it for each of ours; see `log_entries.py` for what stands in a message."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.log_append import LogWriter
from meshway.engine.nats.log_ends import LogEnds
from meshway.engine.nats.log_names import LogNames
from meshway.engine.nats.log_reader import LogReader
from meshway.engine.nats.log_tail import LogTails
from meshway.engine.nats.log_trim import LogTrimmer
from meshway.engine.nats.owned_tasks import OwnedTasks
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import (
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

__all__ = ["NatsLog"]

_READ_MAX = 10_000


class NatsLog:
    """See `engine.ports.Log`. Both durabilities are the server's own."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings) -> None:
        self._tasks = OwnedTasks()
        ends = LogEnds(jetstream, layout, cached_max=settings.subjects_cached_max)
        self._reader = LogReader(jetstream, layout, settings, ends=ends)
        self._names = LogNames(jetstream, layout, settings)
        self._tails = LogTails(jetstream, layout, settings, ends=ends, reader=self._reader, tasks=self._tasks)
        self._writer = LogWriter(jetstream, layout, settings, ends=ends, reader=self._reader, tasks=self._tasks)
        self._trimmer = LogTrimmer(jetstream, layout, settings, ends=ends, reader=self._reader)

    async def start(self) -> None:
        """Returns once what is stored from now on reaches the tails. Raises: EngineUnavailable."""
        await self._tails.start()

    async def close(self) -> None:
        """End all tails. Idempotent."""
        self._writer.close()
        self._tails.close()
        await self._tasks.close()

    async def append(self, entries: Sequence[LogAppend]) -> Sequence[LogOutcome]:
        for entry in entries:
            check_name(entry.subject, "subject")
        return await self._writer.append(entries) if entries else []

    async def read(self, subject: str, start: LogStart, *, limit: int = 500) -> Sequence[LogEntry]:
        check_name(subject, "subject")
        check_between("limit", limit, 1, _READ_MAX)
        return await self._reader.read(subject, start, limit)

    def tail(self, pattern: str, start: LogStart) -> AbstractAsyncContextManager[LogTail]:
        check_pattern(pattern)
        if not is_literal(pattern) and isinstance(start, FromSequence | FromLast):
            raise refused("start", "a pattern with wildcards starts from a position, a time or what is new")
        return self._tails.open(pattern, start)

    async def bounds(self, subjects: Sequence[str]) -> Sequence[LogBounds | None]:
        for subject in subjects:
            check_name(subject, "subject")
        return await self._reader.bounds(subjects)

    async def trim(self, trims: Sequence[LogTrim]) -> Sequence[int]:
        for trim in trims:
            check_name(trim.subject, "subject")
        return [await self._trimmer.trim(trim) for trim in trims]

    async def subjects(self, pattern: str, *, after: str | None = None, limit: int = 500) -> Sequence[str]:
        check_pattern(pattern)
        check_between("limit", limit, 1, _READ_MAX)
        return await self._names.list(pattern, after, limit)
