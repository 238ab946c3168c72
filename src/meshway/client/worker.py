"""A worker: takes messages from a queue, runs a handler on each, and says what became of it.

A message is in one of these states here: taken -> running -> settled, or lost (its lease went to somebody else). The
worker dies without harm: leases run out, and the messages are due again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from meshway.client.channel_messages import Delivery
from meshway.client.errors import ClientError, HubError
from meshway.client.handlers import HandlerCall, Reject, Retry, reason_of, shortened
from meshway.client.link import Backoff, passes_in_time
from meshway.client.service import Service
from meshway.client.work_sources import TakenDelivery, WorkSource
from meshway.messaging.settlements import SettlementItem

__all__ = ["FetchData", "Worker", "WorkerFigures", "WorkerOptions"]

_log = logging.getLogger(__name__)

FetchData = Callable[[Delivery], Awaitable[Delivery]]

# A lease is extended when a third of it has passed, so that two more tries fit in; looked after four times as often.
_EXTEND_AFTER = 1 / 3
_LOOKS_PER_LEASE = 12
# Settlements of one call; the hub takes no more.
_SETTLE_MAX = 1_000
# How long a settlement is repeated when the hub is away. Later its lease is over anyway, whatever we say.
_SETTLE_TIMEOUT_S = 60.0
# On the way out: what is left to say after the last handler has ended.
_LAST_SETTLE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """`dead_letter_on`: exceptions that no further attempt can help. `drain_timeout_s`: for handlers at the stop."""

    concurrency: int = 10
    dead_letter_on: tuple[type[Exception], ...] = ()
    drain_timeout_s: float = 25.0
    # A handler whose lease went to somebody else is cancelled; False lets it go on, for nothing it says counts.
    cancel_lost: bool = True


@dataclass(slots=True)
class WorkerFigures:
    """What a worker has done so far. `stale`: settlements that came after the lease had ended."""

    taken: int = 0
    acked: int = 0
    retried: int = 0
    dead_lettered: int = 0
    given_back: int = 0
    lost: int = 0
    stale: int = 0
    extended: int = 0


@dataclass(slots=True, eq=False)
class _Held:
    delivery: Delivery
    lease_s: float
    extend_at: float
    task: asyncio.Task[None] | None = None
    is_lost: bool = False
    is_extending: bool = False


@dataclass(slots=True)
class _Settlement:
    item: SettlementItem
    deadline: float


class Worker(Service):
    """`await worker.run()`, or `async with client.worker(...) as worker:` to have it run beside other work.

    The handler gets a `Delivery`. Returning acknowledges it. Raising `Retry` or `Reject` says what is to become of it,
    any other exception is a retry with its type and text as the reason.
    """

    def __init__(
        self,
        queue: str,
        handler: Callable[[Delivery], Awaitable[object] | object],
        source: WorkSource,
        *,
        fetch: FetchData,
        options: WorkerOptions,
    ) -> None:
        super().__init__(drain_timeout_s=options.drain_timeout_s)
        self.queue = queue
        self.figures = WorkerFigures()
        self._handler = HandlerCall(handler, concurrency=options.concurrency)
        self._source = source
        self._fetch = fetch
        self._options = options
        self._held: dict[str, _Held] = {}
        self._outbox: deque[_Settlement] = deque()
        self._unsettled = asyncio.Event()
        # Nothing waits in the outbox and nothing of it is under way.
        self._said = asyncio.Event()
        self._said.set()
        self._is_giving_back = False
        self._look_timer: asyncio.TimerHandle | None = None

    @property
    def free_slots(self) -> int:
        """Handlers that could run beside those that do."""
        return 0 if self._stopping.is_set() else self._options.concurrency - len(self._held)

    def take(self, deliveries: Sequence[TakenDelivery]) -> None:
        """As WorkDesk."""
        now = asyncio.get_running_loop().time()
        for each in deliveries:
            self.figures.taken += 1
            delivery = each.delivery
            if self._stopping.is_set():
                self._give_back(delivery)
                continue
            held = _Held(delivery, each.lease_s, now + each.lease_s * _EXTEND_AFTER)
            self._held[delivery.delivery_id] = held
            self._quiet.clear()
            held.task = self._group.create_task(self._handle(held))
            self._look_after(held.lease_s)

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        taking = group.create_task(self._source.run(self))
        settling = group.create_task(self._settle())
        _log.info("worker_started", extra={"queue": self.queue, "concurrency": self._options.concurrency})
        await self._stopping.wait()
        _log.info("worker_draining", extra={"queue": self.queue, "held": len(self._held)})
        await self._source.stop()
        taking.cancel()
        await self._until_quiet(group)
        self._is_giving_back = True
        for held in tuple(self._held.values()):
            if held.task is not None:
                held.task.cancel()
        await self._say_the_rest()
        settling.cancel()
        _log.info("worker_stopped", extra={"queue": self.queue})

    def _close(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
        self._handler.close()

    async def _say_the_rest(self) -> None:
        """Wait until all is settled, or the hub is away for too long: then the leases say it."""
        try:
            async with asyncio.timeout(_LAST_SETTLE_TIMEOUT_S):
                await self._quiet.wait()
                await self._said.wait()
        except TimeoutError:
            _log.warning("worker_left_unsettled", extra={"queue": self.queue, "settlements": len(self._outbox)})

    async def _handle(self, held: _Held) -> None:
        item = await self._outcome(held)
        del self._held[held.delivery.delivery_id]
        if not self._held:
            self._quiet.set()
        if item is not None and not held.is_lost:
            self._say(item)
        self._source.freed()

    async def _outcome(self, held: _Held) -> SettlementItem | None:
        """What is to become of it; None when it is nobody's business any more."""
        delivery = held.delivery
        try:
            if delivery.data_ref is not None:
                delivery = await self._fetch(delivery)
            await self._handler(delivery)
        except Reject as wish:
            self.figures.dead_lettered += 1
            return _item(delivery, "dead_letter", wish.reason)
        except Retry as wish:
            self.figures.retried += 1
            return _item(delivery, "retry", wish.reason or "the worker asked for it", wish.delay_ms)
        except asyncio.CancelledError as cancelled:
            return self._outcome_of_cancelled(held, cancelled)
        except self._options.dead_letter_on as error:
            self.figures.dead_lettered += 1
            _log.warning("message_rejected", extra=self._facts(delivery), exc_info=error)
            return _item(delivery, "dead_letter", reason_of(error))
        except Exception as error:  # noqa: BLE001  the boundary of a delivery: whatever the handler raised is its outcome
            self.figures.retried += 1
            _log.warning("message_failed", extra=self._facts(delivery), exc_info=error)
            return _item(delivery, "retry", reason_of(error))
        self.figures.acked += 1
        return SettlementItem(delivery_id=delivery.delivery_id, action="ack")

    def _outcome_of_cancelled(self, held: _Held, cancelled: asyncio.CancelledError) -> SettlementItem | None:
        if held.is_lost:
            return None
        if self._is_giving_back:
            self.figures.given_back += 1
            return _item(held.delivery, "retry", "the worker stopped", 0)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # The worker itself is cancelled: nothing can be said any more, the lease runs out.
            raise cancelled
        self.figures.retried += 1
        return _item(held.delivery, "retry", "CancelledError: something the handler waited for was cancelled")

    def _give_back(self, delivery: Delivery) -> None:
        self.figures.given_back += 1
        self._say(_item(delivery, "retry", "the worker stopped", 0))

    def _say(self, item: SettlementItem) -> None:
        self._outbox.append(_Settlement(item, asyncio.get_running_loop().time() + _SETTLE_TIMEOUT_S))
        self._unsettled.set()
        self._said.clear()

    def _look_after(self, lease_s: float) -> None:
        """One timer looks after all leases; it stands still while nothing is held."""
        if self._look_timer is None and self._held:
            loop = asyncio.get_running_loop()
            self._look_timer = loop.call_later(lease_s / _LOOKS_PER_LEASE, self._extend_due)

    def _extend_due(self) -> None:
        self._look_timer = None
        now = asyncio.get_running_loop().time()
        shortest_s = float("inf")
        for held in self._held.values():
            shortest_s = min(shortest_s, held.lease_s)
            if held.extend_at <= now and not (held.is_extending or held.is_lost):
                held.is_extending = True
                self._say(SettlementItem(delivery_id=held.delivery.delivery_id, action="extend"))
        self._look_after(shortest_s)

    async def _settle(self) -> None:
        """Say what became of deliveries, many at once; while one call is under way, the next gathers."""
        backoff = Backoff()
        while True:
            await self._unsettled.wait()
            batch = [self._outbox.popleft() for _ in range(min(len(self._outbox), _SETTLE_MAX))]
            if await self._settle_batch(batch):
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())
            if not self._outbox:
                self._unsettled.clear()
                self._said.set()

    async def _settle_batch(self, batch: Sequence[_Settlement]) -> bool:
        """False: what is still in time waits in front again."""
        if not batch:
            return True
        try:
            outcomes = await self._source.settle([each.item for each in batch], deadline=batch[0].deadline)
        except ClientError as error:
            is_final = isinstance(error, HubError) and not passes_in_time(error)
            now = asyncio.get_running_loop().time()
            again = [] if is_final else [each for each in batch if each.deadline > now and each.item.action != "extend"]
            self._outbox.extendleft(reversed(again))
            if lost := sum(each.item.action != "extend" for each in batch) - len(again):
                extra = {"queue": self.queue, "settlements": lost, "error": error.detail}
                _log.error("settlements_lost", extra=extra)
            for each in batch:
                self._unextended(each)
            return is_final
        for each, outcome in zip(batch, outcomes, strict=True):
            self._settled(each, is_done=outcome == "done")
        return True

    def _settled(self, settlement: _Settlement, *, is_done: bool) -> None:
        if settlement.item.action == "extend":
            self._extended(settlement, is_done=is_done)
        elif not is_done:
            self.figures.stale += 1
            facts = {"queue": self.queue, "delivery_id": settlement.item.delivery_id, "action": settlement.item.action}
            _log.warning("settlement_stale", extra=facts)

    def _extended(self, settlement: _Settlement, *, is_done: bool) -> None:
        held = self._held.get(settlement.item.delivery_id)
        if held is None:
            return
        held.is_extending = False
        if is_done:
            self.figures.extended += 1
            held.extend_at = asyncio.get_running_loop().time() + held.lease_s * _EXTEND_AFTER
            return
        held.is_lost = True
        self.figures.lost += 1
        _log.warning("lease_lost", extra=self._facts(held.delivery))
        if self._options.cancel_lost and held.task is not None and not self._handler.is_threaded:
            held.task.cancel()

    def _unextended(self, settlement: _Settlement) -> None:
        """It could not be said; the next look says it anew."""
        held = self._held.get(settlement.item.delivery_id)
        if held is not None and settlement.item.action == "extend":
            held.is_extending = False

    def _facts(self, delivery: Delivery) -> dict[str, object]:
        return {"queue": self.queue, "message_id": delivery.id, "attempt": delivery.attempt}


def _item(delivery: Delivery, action: str, reason: str | BaseException, delay_ms: int | None = None) -> SettlementItem:
    return SettlementItem(
        delivery_id=delivery.delivery_id,
        action="dead_letter" if action == "dead_letter" else "retry",
        delay_ms=delay_ms,
        reason=shortened(reason),
    )
