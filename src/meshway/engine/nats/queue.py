"""Queue on JetStream: a work-queue stream, consumers that hand out, and deletions that settle."""

import asyncio
import contextlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.owned_tasks import OwnedTasks
from meshway.engine.nats.queue_admit import Admission
from meshway.engine.nats.queue_append import QueueAppends
from meshway.engine.nats.queue_books import QueueBooks
from meshway.engine.nats.queue_consumers import Consumers
from meshway.engine.nats.queue_dead import Burials, DeadLetters
from meshway.engine.nats.queue_deliveries import DeliveryIds, HeldMessages
from meshway.engine.nats.queue_holders import Holders
from meshway.engine.nats.queue_lease import Leasing
from meshway.engine.nats.queue_reads import QueueReads
from meshway.engine.nats.queue_records import QueueRecords
from meshway.engine.nats.queue_settle import Settling
from meshway.engine.nats.queue_subjects import QueueSubjects, part_of
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import (
    Enqueued,
    KeyValue,
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
from meshway.kernel.errors import EngineUnavailable

__all__ = ["NatsQueue"]

_LEASES_MAX = 1_000
_PAGE_MAX = 1_000
# A rank of hand-out and a sequence.
_POSITION = re.compile(r"([0-3])\.([0-9]{1,18})")
# Other hubs hear which lanes are in use; a lane that was told of is not told of again for so long. One that begins to
# lease in between may not know of the lane until it looks for itself.
_NOTICE_EVERY_S = 0.25
_NOTICES_REMEMBERED = 20_000
_KEPT = Enqueued(duplicate=False)


class NatsQueue:
    """See `engine.ports.Queue`."""

    def __init__(
        self, jetstream: JetStream, layout: Layout, settings: NatsSettings, *, key_value: KeyValue, clock: Clock
    ) -> None:
        self.jetstream = jetstream
        self.timeout_ms = settings.request_timeout_ms
        self.clock = clock
        self.subjects = QueueSubjects(layout)
        self.tasks = OwnedTasks()
        self.books = QueueBooks(key_value, self.tasks, settings)
        self.held = HeldMessages()
        self.holders = Holders(jetstream.link, self.subjects.holders, held=self.held, tasks=self.tasks, clock=clock)
        self.appends = QueueAppends(jetstream, self.subjects, self.books, settings, clock)
        self.records = QueueRecords(jetstream, self.subjects, self.timeout_ms)
        self.consumers = Consumers(jetstream, self.subjects, clock)
        self.burials = Burials(jetstream, self.subjects, self.records, timeout_ms=self.timeout_ms, clock=clock)
        self.dead = DeadLetters(jetstream, self.subjects, self.appends, timeout_ms=self.timeout_ms, clock=clock)
        self.reads = QueueReads(
            jetstream, self.subjects, books=self.books, held=self.held, timeout_ms=self.timeout_ms, clock=clock
        )
        self._leasing: Leasing | None = None
        self._settling: Settling | None = None
        self._secret = b""
        self._noticed: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def start(self) -> None:
        """Raises: EngineUnavailable."""
        await self.books.start()
        await self.holders.start()
        await self.consumers.start()
        self._secret = await self.books.secret()
        ids = DeliveryIds(self._secret)
        admission = Admission(
            self.jetstream,
            self.subjects.stream,
            books=self.books,
            records=self.records,
            burials=self.burials,
            holders=self.holders,
            ids=ids,
            clock=self.clock,
        )
        self._leasing = Leasing(
            self.jetstream,
            self.subjects,
            books=self.books,
            consumers=self.consumers,
            admission=admission,
            tasks=self.tasks,
            timeout_ms=self.timeout_ms,
        )
        self._settling = Settling(
            self.jetstream, records=self.records, burials=self.burials, held=self.held, ids=ids, clock=self.clock
        )

    async def keep_secret(self) -> None:
        """The keys were lost: what delivery ids are signed with is known here, and must be the same for all hubs."""
        await self.books.keep_secret(self._secret)

    async def close(self) -> None:
        """Idempotent. What is held by workers stays theirs until their leases end."""
        self.holders.leave()
        await self.tasks.close()

    async def append(self, messages: Sequence[QueueAppend]) -> Sequence[QueueOutcome]:
        for message in messages:
            check_name(message.queue, "queue")
        if not messages:
            return []
        outcomes = await self.appends.append(messages)
        await self._tell(message for message, outcome in zip(messages, outcomes, strict=True) if outcome == _KEPT)
        return outcomes

    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        check_name(queue, "queue")
        check_between("count", count, 1, _LEASES_MAX)
        return await self.leasing.lease(queue, count, wait_ms)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        if self._settling is None:
            raise RuntimeError("start() comes first")
        return await self._settling.settle(settlements) if settlements else []

    async def peek(self, queue: str, *, after: str | None = None, limit: int = 50) -> Sequence[QueuedMessage]:
        check_name(queue, "queue")
        check_between("limit", limit, 1, _PAGE_MAX)
        return await self.reads.peek(queue, None if after is None else _turn(after), limit)

    async def depth(self, queues: Sequence[str]) -> Sequence[QueueDepth]:
        return await self.reads.depth([check_name(queue, "queue") for queue in queues])

    @property
    def leasing(self) -> Leasing:
        if self._leasing is None:
            raise RuntimeError("start() comes first")
        return self._leasing

    async def tell(self, message: QueueAppend) -> None:
        """Let those who lease know that there is something in its lane."""
        await self._tell([message])

    async def _tell(self, messages: Iterable[QueueAppend]) -> None:
        now_s = asyncio.get_running_loop().time()
        for message in messages:
            ordered = self.books.settings(message.queue).ordered
            lane = part_of(message.ordering_key) if ordered else str(int(message.priority))
            # Whoever began to lease here since the others were told has not heard of it.
            self.leasing.notice(message.queue, lane)
            told = self._noticed.get((message.queue, lane), float("-inf"))
            if now_s - told < _NOTICE_EVERY_S:
                continue
            self._noticed[(message.queue, lane)] = now_s
            self._noticed.move_to_end((message.queue, lane))
            if len(self._noticed) > _NOTICES_REMEMBERED:
                self._noticed.popitem(last=False)
            with contextlib.suppress(EngineUnavailable):
                # Whoever misses it looks for lanes every few seconds.
                await self.jetstream.link.publish(self.subjects.notice(message.queue), lane.encode())


def _turn(position: str) -> tuple[int, int]:
    """Rank and sequence, as `peek` wrote them."""
    found = _POSITION.fullmatch(position)
    if found is None:
        raise refused("after", "this is no position in a queue; begin again with the first page")
    return int(found[1]), int(found[2])
