"""Ports of the engine that tests hold up, or cut off, between a hub and its store."""

import asyncio
from collections.abc import Sequence

from meshway.engine.ports import (
    Log,
    LogAppend,
    LogEntry,
    LogOutcome,
    LogStart,
    Queue,
    QueueAppend,
    QueueOutcome,
)
from meshway.kernel.errors import EngineUnavailable

__all__ = ["Gate", "InboxLine", "Line"]

_PATIENCE_S = 5.0


class Gate:
    """Where calls can be held up. Open at first."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._reached = asyncio.Event()

    def close(self) -> None:
        self._reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def reached(self) -> None:
        """Until somebody stands before it."""
        async with asyncio.timeout(_PATIENCE_S):
            await self._reached.wait()

    async def through(self) -> None:
        if not self._open.is_set():
            self._reached.set()
            await self._open.wait()


class Line:
    """A Log that can be cut off (then nothing is written, and who tries hears of it) or held up.

    `is_away`: nothing can be read either; `refused` counts who tried.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.tail = log.tail
        self.is_cut = self.is_away = False
        self.refused = 0
        self.before_write, self.after_write, self.before_read = Gate(), Gate(), Gate()

    async def append(self, entries: Sequence[LogAppend]) -> Sequence[LogOutcome]:
        if self.is_cut:
            raise EngineUnavailable("The line is cut.")
        await self.before_write.through()
        outcomes = await self._log.append(entries)
        await self.after_write.through()
        return outcomes

    async def read(self, subject: str, start: LogStart, *, limit: int = 500) -> Sequence[LogEntry]:
        await self.before_read.through()
        if self.is_away:
            self.refused += 1
            raise EngineUnavailable("The store is away.")
        return await self._log.read(subject, start, limit=limit)


class InboxLine:
    """A Queue whose appends can be held up."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.before_put, self.after_put = Gate(), Gate()
        self.lease, self.settle, self.peek, self.depth = queue.lease, queue.settle, queue.peek, queue.depth

    async def append(self, messages: Sequence[QueueAppend]) -> Sequence[QueueOutcome]:
        await self.before_put.through()
        outcomes = await self._queue.append(messages)
        await self.after_put.through()
        return outcomes
