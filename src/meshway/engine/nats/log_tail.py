"""Tails of the log on NATS: one feed of the whole log is offered to all of them, and direct gets read what was before.

The feed also tells what other hubs write.
"""

import asyncio
from collections.abc import Sequence

from meshway.engine.nats.feed import StreamFeed
from meshway.engine.nats.jetstream import JetStream, Stored
from meshway.engine.nats.log_ends import LogEnds
from meshway.engine.nats.log_entries import is_entry
from meshway.engine.nats.log_reader import LogReader
from meshway.engine.nats.owned_tasks import OwnedTasks
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import LogEntry, LogStart, SubscriptionLost
from meshway.engine.ports.tails import Cursor, Tail, Tails
from meshway.kernel.errors import EngineUnavailable

__all__ = ["LogTails"]

# Entries read from the store at a time: enough to be quick, few enough to hold in memory.
_PAGE = 256
_BUFFER_BYTES_MAX = 8 * 1024 * 1024
_LAGGING_PAUSE_S = 0.05
# A tail that cannot read for so long ends, so that its reader hears of it.
_UNREADABLE_MAX_S = 60.0


class LogTails:
    """All tails of a hub, and their feed."""

    def __init__(
        self,
        jetstream: JetStream,
        layout: Layout,
        settings: NatsSettings,
        *,
        ends: LogEnds,
        reader: LogReader,
        tasks: OwnedTasks,
    ) -> None:
        self._reader = reader
        self._ends = ends
        self._prefix = layout.log
        self._start_timeout_s = settings.start_timeout_ms / 1000
        self._tasks = tasks
        self._feed = StreamFeed(
            jetstream,
            layout.log_stream,
            [layout.log + ">"],
            start={"deliver_policy": "new"},
            heard=self._heard,
        )
        self._tails = Tails(
            lambda: self._feed.position,
            buffer_entries_max=settings.tail_buffer_entries_max,
            buffer_bytes_max=_BUFFER_BYTES_MAX,
        )

    async def start(self) -> None:
        """Returns once the feed runs. Raises: EngineUnavailable."""
        self._tasks.start(self._run(), name="meshway-log-feed")
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._feed.wait_ready()
        except TimeoutError:
            raise EngineUnavailable("the log cannot be followed: NATS makes no consumer for it") from None

    def open(self, pattern: str, start: LogStart) -> Tail:
        return Tail(self._tails, pattern, _Reader(self._reader, self._ends, pattern, start))

    def close(self) -> None:
        """End all tails. Idempotent."""
        self._tails.close("the engine was closed")

    async def _run(self) -> None:
        try:
            await self._feed.run()
        finally:
            self.close()

    def _heard(self, stored: Stored) -> None:
        subject = stored.subject[len(self._prefix) :]
        self._ends.heard(subject, stored)
        if not self._tails or not is_entry(stored):
            return
        patterns = self._tails.matching(subject)
        if not patterns:
            return
        entry = self._reader.entry(stored)
        for tails in patterns:
            for tail in tails:
                tail.offer(entry)


class _Reader:
    """See `TailReader`."""

    def __init__(self, reader: LogReader, ends: LogEnds, pattern: str, start: LogStart) -> None:
        self._reader = reader
        self._ends = ends
        self._pattern = pattern
        self._start = start
        self._unreadable_since_s: float | None = None

    async def begin(self, visible: int) -> Cursor:
        return await self._reader.cursor_of(self._pattern, self._start)

    async def read(self, cursor: Cursor, up_to: int) -> tuple[Sequence[LogEntry], Cursor]:
        """One page, or that there is nothing up to where the buffer begins."""
        try:
            part = await self._reader.page(self._pattern, cursor, _PAGE)
            behind = part.cursor
            if part.is_last and behind.position < up_to:
                behind = await self._end_replay(behind, up_to)
        except EngineUnavailable as error:
            now_s = asyncio.get_running_loop().time()
            if self._unreadable_since_s is None:
                self._unreadable_since_s = now_s
            if now_s - self._unreadable_since_s > _UNREADABLE_MAX_S:
                raise SubscriptionLost(f"the log cannot be read: {error.detail}") from error
            await asyncio.sleep(_LAGGING_PAUSE_S)
            return [], cursor
        self._unreadable_since_s = None
        return part.entries, behind

    async def _end_replay(self, cursor: Cursor, up_to: int) -> Cursor:
        """The page may come from a replica that lags behind the one that feeds us; the leader does not."""
        known = self._ends.get(self._pattern)
        # What the feed gave is known by now.
        if known is None or known.seq > cursor.position:
            # Nor has a leader that was elected just now all that the feed gave.
            is_behind = await self._reader.last_position() < up_to
            following = None if is_behind else await self._reader.next_of(self._pattern, cursor.position + 1)
            if is_behind or (following is not None and following.seq <= up_to):
                await asyncio.sleep(_LAGGING_PAUSE_S)
                return cursor
        return Cursor(max(cursor.position, up_to), cursor.sequence)
