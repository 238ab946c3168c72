"""Tails of the log: replay from the store, then live from one feed of the whole log that all tails share.

A tail collects what the feed gives from before it reads the store, and reads the store until it has everything that the
feed gave before; whatever comes later is in its buffer. So nothing falls between, and the position tells what was seen.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from meshway.engine.nats.feed import StreamFeed
from meshway.engine.nats.jetstream import JetStream, Stored
from meshway.engine.nats.log_ends import LogEnds
from meshway.engine.nats.log_entries import is_entry
from meshway.engine.nats.log_reader import Cursor, LogReader
from meshway.engine.nats.owned_tasks import OwnedTasks
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import LogEntry, LogStart, SubscriptionLost
from meshway.engine.ports.checks import check_between, is_literal, pattern_matches
from meshway.kernel.errors import EngineUnavailable

__all__ = ["LogTails", "Tail"]

# Entries read from the store at a time: enough to be quick, few enough to hold in memory.
_PAGE = 256
_TAKE_MAX = 10_000
_BUFFER_BYTES_MAX = 8 * 1024 * 1024
# Which patterns match a subject is remembered for so many.
_MATCHES_CACHED_MAX = 16_384
_LAGGING_PAUSE_S = 0.05
# A tail that cannot read for so long ends, so that its reader hears of it.
_UNREADABLE_MAX_S = 60.0


class LogTails:
    """All tails of a hub, and their feed, which also tells what other hubs write."""

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
        self.reader = reader
        self.ends = ends
        self.buffer_entries_max = settings.tail_buffer_entries_max
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
        self._listeners: dict[str, dict[Tail, None]] = {}
        self._wild: dict[str, Sequence[str]] = {}
        self._matches: dict[str, Sequence[str]] = {}
        self._is_closed = False

    @property
    def position(self) -> int:
        """Everything behind it will be offered to the tails, nothing up to it will."""
        return self._feed.position

    async def start(self) -> None:
        """Returns once the feed runs. Raises: EngineUnavailable."""
        self._tasks.start(self._run(), name="meshway-log-feed")
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._feed.wait_ready()
        except TimeoutError:
            raise EngineUnavailable("the log cannot be followed: NATS makes no consumer for it") from None

    def close(self) -> None:
        """End all tails. Idempotent."""
        self._is_closed = True
        for tails in list(self._listeners.values()):
            for tail in list(tails):
                tail.lose("the engine was closed")

    def add(self, tail: "Tail") -> None:
        if self._is_closed:
            raise EngineUnavailable("the engine was closed")
        pattern = tail.pattern
        if pattern not in self._listeners:
            self._listeners[pattern] = {}
            if not is_literal(pattern):
                self._wild[pattern] = pattern.split(".")
                self._matches.clear()
        self._listeners[pattern][tail] = None

    def discard(self, tail: "Tail") -> None:
        tails = self._listeners.get(tail.pattern)
        if tails is None or tail not in tails:
            return
        del tails[tail]
        if not tails:
            del self._listeners[tail.pattern]
            if self._wild.pop(tail.pattern, None) is not None:
                self._matches.clear()

    async def _run(self) -> None:
        try:
            await self._feed.run()
        finally:
            self.close()

    def _heard(self, stored: Stored) -> None:
        subject = stored.subject[len(self._prefix) :]
        self.ends.heard(subject, stored)
        if not self._listeners or not is_entry(stored):
            return
        own = self._listeners.get(subject)
        patterns = self._matching(subject) if self._wild else ()
        if own is None and not patterns:
            return
        entry = self.reader.entry(stored)
        for tail in own or ():
            tail.offer(entry)
        for pattern in patterns:
            for tail in self._listeners[pattern]:
                tail.offer(entry)

    def _matching(self, subject: str) -> Sequence[str]:
        found = self._matches.get(subject)
        if found is None:
            tokens = subject.split(".")
            found = [pattern for pattern, parts in self._wild.items() if pattern_matches(parts, tokens)]
            if len(self._matches) >= _MATCHES_CACHED_MAX:
                self._matches.clear()
            self._matches[subject] = found
        return found


class Tail:
    """One reader: an async context manager and, inside it, an iterator that never ends by itself."""

    def __init__(self, tails: LogTails, pattern: str, start: LogStart) -> None:
        self.pattern = pattern
        self._tails = tails
        self._start = start
        self._cursor = Cursor(0, 0)
        self._ready: deque[LogEntry] = deque()
        self._buffer: deque[LogEntry] = deque()
        self._buffer_bytes = 0
        # True while the store has entries that the buffer has not.
        self._is_behind = True
        # The position up to which the store is to be read.
        self._read_to = 0
        self._wakeup = asyncio.Event()
        self._lost: str | None = None

    async def __aenter__(self) -> "Tail":
        self._tails.add(self)
        self._begin_reading()
        try:
            self._cursor = await self._tails.reader.cursor_of(self.pattern, self._start)
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

    def offer(self, entry: LogEntry) -> None:
        """What the feed gave; dropped, for the store to serve, when the reader does not keep up."""
        if self._is_behind:
            return
        self._buffer_bytes += len(entry.data)
        if len(self._buffer) >= self._tails.buffer_entries_max or (
            self._buffer and self._buffer_bytes > _BUFFER_BYTES_MAX
        ):
            self._buffer.clear()
            self._is_behind = True
        else:
            self._buffer.append(entry)
        self._wakeup.set()

    def lose(self, reason: str) -> None:
        self._lost = reason
        self._buffer.clear()
        self._wakeup.set()

    async def _make_ready(self) -> None:
        """Until at least one entry is ready. Cancelled at any point it has lost none."""
        while not self._ready:
            if self._lost is not None:
                raise SubscriptionLost(self._lost)
            if self._cursor.position < self._read_to:
                await self._read_store()
            elif self._is_behind:
                self._begin_reading()
            elif self._buffer:
                self._take_buffer()
            else:
                self._wakeup.clear()
                await self._wakeup.wait()

    def _begin_reading(self) -> None:
        # Both at the same moment: all up to `_read_to` comes from the store, all after it goes into the buffer.
        self._buffer.clear()
        self._buffer_bytes = 0
        self._is_behind = False
        self._read_to = self._tails.position

    def _take_buffer(self) -> None:
        position, sequence = self._cursor.position, self._cursor.sequence
        for entry in self._buffer:
            if entry.position > position and entry.sequence >= sequence:
                self._ready.append(entry)
        self._cursor = Cursor(max(position, self._buffer[-1].position), sequence)
        self._buffer.clear()
        self._buffer_bytes = 0

    async def _read_store(self) -> None:
        """One page, or that there is nothing up to where the buffer begins."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + _UNREADABLE_MAX_S
        while self._lost is None:
            try:
                part = await self._tails.reader.page(self.pattern, self._cursor, _PAGE)
                self._cursor = part.cursor
                self._ready.extend(part.entries)
                if part.is_last and part.cursor.position < self._read_to:
                    await self._end_replay()
                return
            except EngineUnavailable as error:
                if loop.time() > ends_at:
                    raise SubscriptionLost(f"the log cannot be read: {error.detail}") from error

    async def _end_replay(self) -> None:
        """The page may come from a replica that lags behind the one that feeds us; the leader does not."""
        read_to = self._read_to
        known = self._tails.ends.get(self.pattern)
        # What the feed gave is known by now.
        if known is None or known.seq > self._cursor.position:
            reader = self._tails.reader
            # Nor has a leader that was elected just now all that the feed gave.
            is_behind = await reader.last_position() < read_to
            following = None if is_behind else await reader.next_of(self.pattern, self._cursor.position + 1)
            if is_behind or (following is not None and following.seq <= read_to):
                await asyncio.sleep(_LAGGING_PAUSE_S)
                return
        self._cursor = Cursor(max(self._cursor.position, read_to), self._cursor.sequence)
