"""Queue on the embedded store."""

import asyncio
import re
import sqlite3
from collections.abc import Sequence

from meshway.engine.embedded.leasing import Leasing
from meshway.engine.embedded.queries import load_queries
from meshway.engine.embedded.queue_calls import AppendCall, DueCall, QueueSweep, RenewCall, SettleCall
from meshway.engine.embedded.queue_rows import queued_message
from meshway.engine.embedded.queue_store import QueueNews, QueueStore
from meshway.engine.embedded.readers import Readers
from meshway.engine.embedded.writer import Writer
from meshway.engine.ports import (
    Lease,
    QueueAppend,
    QueueDepth,
    QueuedMessage,
    QueueOutcome,
    Settlement,
    SettleOutcome,
)
from meshway.engine.ports.checks import check_between, check_name, refused
from meshway.kernel.clock import Clock

__all__ = ["EmbeddedQueue"]

_LEASES_MAX = 1_000
_PAGE_MAX = 1_000
# A place in the order of hand-out: rank (a priority, negative) and row, as a caller may hold it between two pages.
_POSITION = re.compile(r"(-?[0-9]{1,3})\.([0-9]{1,18})")
_BEFORE_ALL = (-1_000, 0)
# What a message adds to the write-ahead log besides its payload, over its whole life.
_MESSAGE_OVERHEAD_BYTES = 600
_NO_MESSAGES = QueueDepth(waiting=0, held=0, delayed=0, dead=0)


class EmbeddedQueue:
    """See `engine.ports.Queue`."""

    def __init__(self, *, writer: Writer, readers: Readers, leasing: Leasing, clock: Clock, window_ms: int) -> None:
        self._writer = writer
        self._readers = readers
        self._leasing = leasing
        self._clock = clock
        self._window_ms = window_ms
        self._queries = load_queries("queue.sql")
        self._store: QueueStore | None = None
        self._depths: dict[str, QueueDepth] = {}
        self._next_due_ms: int | None = None
        self._due_changed = asyncio.Event()

    def use(self, store: QueueStore) -> None:
        """The store, which needs this object's `publish` and so comes later."""
        self._store = store
        self._leasing.use(store)
        self._depths = store.depths()
        self._next_due_ms = store.next_due_ms

    def publish(self, news: QueueNews) -> None:
        """What a group changed; on the loop, in order."""
        for name, depth in news.depths:
            if depth is None:
                self._depths.pop(name, None)
            else:
                self._depths[name] = depth
        self._next_due_ms = news.next_due_ms
        if news.next_due_ms is not None:
            self._due_changed.set()
        if news.ready:
            self._leasing.wake(news.ready)

    async def append(self, messages: Sequence[QueueAppend]) -> Sequence[QueueOutcome]:
        if not messages:
            return []
        weight = 0
        for message in messages:
            if message.queue not in self._depths:
                check_name(message.queue, "queue")
            weight += _MESSAGE_OVERHEAD_BYTES + len(message.data)
        call = AppendCall(self.store, self._writer.new_finished(), weight=weight)
        call.messages = messages
        self._writer.submit(call)
        self._expect(messages)
        await call.finished
        return call.outcomes

    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        check_name(queue, "queue")
        check_between("count", count, 1, _LEASES_MAX)
        return await self._leasing.lease(queue, count, wait_ms, is_empty=self._is_empty(queue))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        if not settlements:
            return []
        call = SettleCall(self.store, self._writer.new_finished(), weight=_MESSAGE_OVERHEAD_BYTES * len(settlements))
        call.settlements = settlements
        self._writer.submit(call)
        await call.finished
        return call.outcomes

    async def peek(self, queue: str, *, after: str | None = None, limit: int = 50) -> Sequence[QueuedMessage]:
        check_name(queue, "queue")
        check_between("limit", limit, 1, _PAGE_MAX)
        turn = _BEFORE_ALL if after is None else _turn(after)
        return await self._readers.run(lambda connection: self._peek(connection, queue, turn, limit))

    async def depth(self, queues: Sequence[str]) -> Sequence[QueueDepth]:
        return [self._depths.get(check_name(queue, "queue"), _NO_MESSAGES) for queue in queues]

    async def wake_due(self) -> None:
        """Wait until something may be due, then make it so; for the duty that does it for ever."""
        if self._next_due_ms is None:
            self._due_changed.clear()
            await self._due_changed.wait()
        if self._next_due_ms is not None and self._next_due_ms <= self._clock.now_ms():
            call = DueCall(self.store, self._writer.new_finished(), lazy=True)
            self._writer.submit(call)
            await call.finished

    async def sweep(self) -> None:
        """Drop what has expired. Writes only when something has: an idle disk may sleep."""
        now_ms = self._clock.now_ms()
        query = self._queries.text("is_sweep_due")
        more = await self._readers.run(
            lambda connection: bool(connection.execute(query, (now_ms, now_ms - self._window_ms)).fetchone()[0])
        )
        while more:
            call = QueueSweep(self.store, self._writer.new_finished(), lazy=True)
            self._writer.submit(call)
            await call.finished
            more = call.more

    async def renew_found_leases(self) -> int:
        """Give every lease that is found one full lease time from now; how many.

        For a hub that has just started: called at once after opening, it comes before the first look at due times.
        """
        call = RenewCall(self.store, self._writer.new_finished())
        self._writer.submit(call)
        await call.finished
        return call.renewed

    def _expect(self, messages: Sequence[QueueAppend]) -> None:
        """Let workers that wait join the group that brings their messages: one sync for both, and no way back here."""
        for message in messages:
            if message.deliver_at_ms is None and self._leasing.waits_on(message.queue):
                self._leasing.wake({message.queue: 1})

    def _is_empty(self, queue: str) -> bool:
        """Whether nothing can be due, by what was answered so far; whatever comes later wakes those who wait."""
        depth = self._depths.get(queue)
        if depth is not None and depth.waiting:
            return False
        return self._next_due_ms is None or self._next_due_ms > self._clock.now_ms()

    @property
    def store(self) -> QueueStore:
        if self._store is None:
            raise RuntimeError("use() comes first")
        return self._store

    def _peek(
        self, connection: sqlite3.Connection, queue: str, turn: tuple[int, int], limit: int
    ) -> Sequence[QueuedMessage]:
        known = connection.execute(self._queries.text("queue_id"), (queue,)).fetchone()
        if known is None:
            return []
        rows = connection.execute(self._queries.text("peek"), (known[0], *turn, limit))
        return [queued_message(queue, found[2:], f"{found[0]}.{found[1]}") for found in rows]


def _turn(position: str) -> tuple[int, int]:
    """Rank and row, as `peek` wrote them."""
    found = _POSITION.fullmatch(position)
    if found is None:
        raise refused("after", "this is no position in a queue; begin again with the first page")
    return int(found[1]), int(found[2])
