"""Programs of a crash test, as users write them with the SDK: a producer, a worker, a follower of a stream.

`python -m support.crash_children KIND URL SEED JOURNAL [TRANSPORT]`, until SIGTERM. Each notes what it asks before it
asks, and what it was answered, for `support.crash_judge`. A message is known by the number in its data. URL may be a
list of hubs. With CRASH_SPACE the names of all channels begin so, and with CRASH_PAUSE pauses are so many times as
long. With CRASH_BUG workers do nothing about every tenth message and say that it is done: somebody should notice.
"""

import asyncio
import itertools
import logging
import os
import random
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from meshway.client import Delivery, MeshwayClient, NewMessage, Reject, Retry, SettlementItem, Worker
from meshway.client.errors import ClientError
from meshway.client.work_sources import TakenDelivery, WorkDesk, WorkSource
from support.crash_journal import Journal

__all__ = ["ORDERED", "QUEUE", "READER", "STREAM", "Child"]

QUEUE, ORDERED, STREAM, READER = "work.any", "work.ordered", "log.all", "follower"
_SPACE = os.environ.get("CRASH_SPACE", "")
_PAUSE_TIMES = float(os.environ.get("CRASH_PAUSE", "1"))
_HAS_BUG = "CRASH_BUG" in os.environ
# Longer than a hub is ever away here: a producer never gives up.
_SEND_TIMEOUT_S = 60.0
_PRIORITIES = ("low", "normal", "high", "urgent")


class Child:
    """One program: `client`, its own chance, its journal, and `stopping`, set by SIGTERM."""

    def __init__(self, client: MeshwayClient, seed: str, journal: Journal) -> None:
        self.client = client
        self.seed = seed
        self.random = random.Random(seed)
        self.journal = journal
        self.stopping = asyncio.Event()
        # Of all processes together: each has its own million million.
        self.numbers = itertools.count(int(seed.rpartition("-")[2]) * 1_000_000 + 1)

    async def pause(self, longest_s: float) -> None:
        await asyncio.sleep(self.random.uniform(0, longest_s * _PAUSE_TIMES))

    # Producers

    async def produce(self) -> None:
        loops = [self._enqueue() for _ in range(3)]
        loops += [self._enqueue_ordered(f"{self.seed}-{number}") for number in range(2)]
        loops += [self._append() for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            for loop in loops:
                group.create_task(loop)

    async def _enqueue(self) -> None:
        while not self.stopping.is_set():
            count = self.random.choice([1, 1, 1, 3, 12])
            priority = self.random.choice(_PRIORITIES)
            delay_ms = self.random.choice([None, None, None, 300, 900])
            await self._post(
                _SPACE + QUEUE, [next(self.numbers) for _ in range(count)], priority=priority, delay_ms=delay_ms
            )
            await self.pause(0.08)

    async def _enqueue_ordered(self, name: str) -> None:
        while not self.stopping.is_set():
            key = f"{name}-{self.random.randrange(3)}"
            await self._post(
                _SPACE + ORDERED, [next(self.numbers) for _ in range(self.random.choice([1, 1, 4]))], key=key
            )
            await self.pause(0.2)

    async def _post(
        self,
        queue: str,
        numbers: Sequence[int],
        *,
        priority: str | None = None,
        delay_ms: int | None = None,
        key: str | None = None,
    ) -> None:
        self.journal.write(
            "posting", queue=queue, numbers=numbers, priority=priority or "normal", delay_ms=delay_ms, key=key
        )
        messages = [
            NewMessage(data={"number": number}, priority=priority, delay_ms=delay_ms, ordering_key=key)
            for number in numbers
        ]
        receipts = await self.client.enqueue_many(queue, messages)
        self.journal.write("posted", queue=queue, numbers=numbers, ids=[receipt.id for receipt in receipts])

    async def _append(self) -> None:
        while not self.stopping.is_set():
            numbers = [next(self.numbers) for _ in range(self.random.choice([1, 1, 5]))]
            self.journal.write("appending", numbers=numbers)
            receipts = await self.client.append(_SPACE + STREAM, *({"number": number} for number in numbers))
            self.journal.write(
                "appended",
                numbers=numbers,
                ids=[receipt.id for receipt in receipts],
                sequences=[receipt.sequence for receipt in receipts],
            )
            await self.pause(0.08)

    # Workers

    async def work(self) -> None:
        workers = [
            self._journaled(
                self.client.worker(_SPACE + QUEUE, self._handle, concurrency=8, dead_letter_on=(LookupError,))
            ),
            self._journaled(self.client.worker(_SPACE + QUEUE, self._handle, concurrency=4, transport="http")),
            self._journaled(self.client.worker(_SPACE + ORDERED, self._handle, concurrency=6)),
        ]
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run(handle_signals=False))
            await self.stopping.wait()
            for worker in workers:
                worker.stop()

    async def _handle(self, delivery: Delivery) -> None:
        """Most are done at once, some take longer than a lease, some fail in each of the ways there are."""
        number = delivery.data["number"]
        if _HAS_BUG and number % 10 == 0:
            return
        chance = random.Random(f"{number}-{delivery.attempt}")
        await asyncio.sleep(chance.choice([0, 0, 0, 0.005, 0.02]))
        match chance.randrange(60):
            case 0 | 1:
                raise Retry(f"not now: {number} at attempt {delivery.attempt}")
            case 2 | 3:
                raise ValueError(f"broken: {number} at attempt {delivery.attempt}")
            case 4:
                raise Reject(f"never: {number} at attempt {delivery.attempt}")
            case 5:
                raise LookupError(f"unknown: {number} at attempt {delivery.attempt}")
            case 6:
                raise Retry(f"at once: {number} at attempt {delivery.attempt}", delay_ms=0)
            case 7 if number % 3 == 0:
                await asyncio.sleep(2.5)
        self.journal.write("handled", queue=delivery.channel, number=number)

    def _journaled(self, worker: Worker) -> Worker:
        worker._source = _JournaledSource(worker._source, worker.queue, self.journal)
        return worker

    # Followers

    async def follow(self) -> None:
        async with asyncio.TaskGroup() as group:
            for follow in (self._follow_as_reader(), self._follow_from_first()):
                group.create_task(self._until_stopped(follow))

    async def _until_stopped(self, work: Awaitable[None]) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            await self.stopping.wait()
            task.cancel()

    async def _follow_as_reader(self) -> None:
        async with self.client.tail(_SPACE + STREAM, reader=READER) as feed:
            async for message in feed:
                self.journal.write("read", number=message.data["number"], sequence=message.sequence)

    async def _follow_from_first(self) -> None:
        async with self.client.tail(_SPACE + STREAM, from_="first") as feed:
            async for message in feed:
                self.journal.write("tailed", number=message.data["number"], sequence=message.sequence)


class _JournaledSource:
    """A worker's source that notes what comes and what is said."""

    def __init__(self, source: WorkSource, queue: str, journal: Journal) -> None:
        self._source = source
        self._queue = queue
        self._journal = journal
        self._calls = itertools.count(1)
        self._name = uuid.uuid4().hex

    async def run(self, desk: WorkDesk) -> None:
        await self._source.run(_JournaledDesk(desk, self._queue, self._journal))

    def freed(self) -> None:
        self._source.freed()

    async def stop(self) -> None:
        await self._source.stop()

    async def settle(self, settlements: Sequence[SettlementItem], *, deadline: float) -> Sequence[str]:
        call = f"{self._name}-{next(self._calls)}"
        said = [[each.delivery_id, each.action, each.reason or "", each.delay_ms] for each in settlements]
        self._journal.write("settling", queue=self._queue, call=call, settlements=said)
        outcomes = await self._source.settle(settlements, deadline=deadline)
        self._journal.write("settled", queue=self._queue, call=call, outcomes=list(outcomes))
        return outcomes


class _JournaledDesk:
    def __init__(self, desk: WorkDesk, queue: str, journal: Journal) -> None:
        self._desk = desk
        self._queue = queue
        self._journal = journal

    @property
    def free_slots(self) -> int:
        return self._desk.free_slots

    def take(self, deliveries: Sequence[TakenDelivery]) -> None:
        if deliveries:
            taken = [_facts(each.delivery) for each in deliveries]
            self._journal.write("leased", queue=self._queue, free=self._desk.free_slots, deliveries=taken)
        self._desk.take(deliveries)

    def fail(self, error: ClientError) -> None:
        self._journal.write("failed", queue=self._queue, error=error.detail)
        self._desk.fail(error)


def _facts(delivery: Delivery) -> list[object]:
    until_ms = round(delivery.lease_until.timestamp() * 1_000)
    return [delivery.delivery_id, delivery.attempt, until_ms, delivery.data["number"], delivery.id]


_KINDS: dict[str, Callable[[Child], Awaitable[None]]] = {
    "producer": Child.produce,
    "worker": Child.work,
    "follower": Child.follow,
}


async def _main(kind: str, url: str, seed: str, journal: str, transport: str = "websocket") -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s %(exc_text)s")
    async with MeshwayClient(url, send_timeout_s=_SEND_TIMEOUT_S, transport=transport) as client:
        child = Child(client, seed, Journal(Path(journal)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, child.stopping.set)
        child.journal.write("began", kind=kind)
        await _KINDS[kind](child)
        child.journal.write("ended", kind=kind)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
