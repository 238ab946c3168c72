"""Tails of a log: replay from the store, then live from memory, and back to the store when the reader is slow.

A tail collects what is published from before it reads the store, and reads the store only up to what was published
then; whatever comes later is in its buffer. So nothing falls between, and the position tells what was seen already.

    reading the store up to a position -- there --> live, from the buffer -- the buffer is full --> reading the store

Pure: what publishes, and how the store is read, is the adapter's.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol

from meshway.engine.ports.checks import check_between
from meshway.engine.ports.log import LogEntry
from meshway.engine.ports.outcomes import SubscriptionLost
from meshway.engine.ports.pattern_map import PatternMap
from meshway.engine.ports.wakeup import Wakeup
from meshway.kernel.errors import EngineUnavailable

__all__ = ["Cursor", "Tail", "TailReader", "Tails"]

# What one `take` may ask for: the caller has to hold it.
_TAKE_MAX = 10_000


class Cursor(NamedTuple):
    """Where reading goes on: entries after `position` whose number is at least `sequence`.

    `passed`: about how many after the position have a lower number, where the adapter knows.
    """

    position: int
    sequence: int
    passed: int = 0


class TailReader(Protocol):
    """How one tail reads the store."""

    async def begin(self, visible: int) -> Cursor:
        """What its start means, when `visible` is the last position that readers may see."""

    async def read(self, cursor: Cursor, up_to: int) -> tuple[Sequence[LogEntry], Cursor]:
        """Some entries after the cursor, and the cursor behind them; nothing new where it is to be asked again.

        At `up_to` or behind it: the store has nothing more before that. Raises: SubscriptionLost.
        """


class Tails:
    """All tails of a hub. One thread only."""

    def __init__(self, position: Callable[[], int], *, buffer_entries_max: int, buffer_bytes_max: int) -> None:
        """`position`: what was offered so far, and what readers may see."""
        self.position = position
        self.buffer_entries_max = buffer_entries_max
        self.buffer_bytes_max = buffer_bytes_max
        self._listeners: PatternMap[dict[Tail, None]] = PatternMap()
        self._open: set[Tail] = set()
        self._closed: str | None = None

    def __len__(self) -> int:
        return len(self._open)

    def matching(self, subject: str) -> Sequence[dict["Tail", None]]:
        """Who listens to a subject; each is to be offered every entry of it, in order of position."""
        return self._listeners.matching(subject)

    def add(self, tail: "Tail") -> None:
        """Raises: EngineUnavailable once closed."""
        if self._closed is not None:
            raise EngineUnavailable(self._closed)
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

    def close(self, reason: str) -> None:
        """End all. Idempotent."""
        self._closed = reason
        for tail in self._open:
            tail.lose(reason)


class Tail:
    """See `engine.ports.LogTail`. One reader: an async context manager and, inside it, an iterator without an end."""

    def __init__(self, tails: Tails, pattern: str, reader: TailReader) -> None:
        self.pattern = pattern
        self._tails = tails
        self._reader = reader
        self._cursor = Cursor(0, 0)
        self._ready: deque[LogEntry] = deque()
        self._buffer: deque[LogEntry] = deque()
        self._buffer_bytes = 0
        # True while the store has entries that the buffer has not.
        self._is_behind = True
        # The position up to which the store is being read.
        self._read_to = 0
        self._wakeup = Wakeup()
        self._lost: str | None = None

    async def __aenter__(self) -> "Tail":
        self._tails.add(self)
        self._begin_reading()
        try:
            self._cursor = await self._reader.begin(self._read_to)
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
        """A published entry; dropped, for the store to serve, when the reader does not keep up."""
        if self._is_behind:
            return
        self._buffer_bytes += len(entry.data)
        if len(self._buffer) >= self._tails.buffer_entries_max or (
            self._buffer_bytes > self._tails.buffer_bytes_max and self._buffer
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
                entries, self._cursor = await self._reader.read(self._cursor, self._read_to)
                self._ready.extend(entries)
            elif self._is_behind:
                self._begin_reading()
            elif self._buffer:
                self._take_buffer()
            else:
                await self._wakeup.wait()

    def _begin_reading(self) -> None:
        # Both at the same moment: all up to `_read_to` comes from the store, all after it goes into the buffer.
        self._buffer.clear()
        self._buffer_bytes = 0
        self._is_behind = False
        self._read_to = self._tails.position()

    def _take_buffer(self) -> None:
        position, sequence = self._cursor.position, self._cursor.sequence
        for entry in self._buffer:
            if entry.position > position and entry.sequence >= sequence:
                self._ready.append(entry)
        self._cursor = Cursor(max(position, self._buffer[-1].position), sequence)
        self._buffer.clear()
        self._buffer_bytes = 0
