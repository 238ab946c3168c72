"""Settlements: nothing is sent for a lease that is over, and what ends one is a test-and-set.

JetStream honours whatever comes late and answers all acknowledgements alike, so none is used: a message is done when it
is deleted, and only one deletion of it succeeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from meshway.engine.nats.failures import Unanswered
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.link import Ask
from meshway.engine.nats.queue_admit import nak
from meshway.engine.nats.queue_dead import Burials
from meshway.engine.nats.queue_deliveries import Delivery, DeliveryIds, Held, HeldMessages
from meshway.engine.nats.queue_messages import History
from meshway.engine.nats.queue_records import QueueRecords
from meshway.engine.ports import (
    Ack,
    AttemptRecord,
    Extend,
    Settlement,
    SettleOutcome,
    ToDeadLetters,
    ToRetry,
)
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable

__all__ = ["Settling"]

# What clocks of hubs and the way to the server may take; a short lease gives a part of itself.
_MARGIN_MS = 250
_MARGIN_PARTS = 5
_DONE, _STALE, _UNDECIDED = SettleOutcome.DONE, SettleOutcome.STALE, SettleOutcome.UNDECIDED


@dataclass(slots=True)
class _Item:
    place: int
    settlement: Settlement
    delivery: Delivery


class Settling:
    def __init__(
        self,
        jetstream: JetStream,
        *,
        records: QueueRecords,
        burials: Burials,
        held: HeldMessages,
        ids: DeliveryIds,
        clock: Clock,
    ) -> None:
        self._jetstream = jetstream
        self._records = records
        self._burials = burials
        self._held = held
        self._ids = ids
        self._clock = clock
        # Hand-outs that somebody ends at this moment, by sequence and attempt.
        self._ending: set[tuple[int, int]] = set()

    async def settle(self, settlements: Sequence[Settlement]) -> list[SettleOutcome]:
        """In order. Raises: StorageFull, EngineUnavailable."""
        outcomes = [_STALE] * len(settlements)
        items: list[_Item] = []
        claimed: list[tuple[int, int]] = []
        try:
            for place, settlement in enumerate(settlements):
                delivery = self._ids.decode(settlement.delivery_id)
                if delivery is None or (delivery.seq, delivery.attempt) in self._ending:
                    continue
                if not isinstance(settlement, Extend):
                    self._ending.add((delivery.seq, delivery.attempt))
                    claimed.append((delivery.seq, delivery.attempt))
                items.append(_Item(place, settlement, delivery))
            live = [item for item in items if await self._is_live(item.delivery)]
            for work, kind in (
                (self._extend, Extend),
                (self._acknowledge, Ack),
                (self._retry, ToRetry),
                (self._bury, ToDeadLetters),
            ):
                of_kind = [item for item in live if isinstance(item.settlement, kind)]
                if of_kind:
                    for item, outcome in zip(of_kind, await work(of_kind), strict=True):
                        outcomes[item.place] = outcome
        finally:
            self._ending.difference_update(claimed)
        return outcomes

    async def _is_live(self, delivery: Delivery) -> bool:
        """Whether this hand-out still holds, as far as anybody can know."""
        ends_before_ms = self._clock.now_ms() + min(_MARGIN_MS, delivery.lease_ms // _MARGIN_PARTS)
        held = self._held.get(delivery.queue_hash, delivery.seq)
        if held is not None:
            if held.attempt > delivery.attempt or (held.attempt == delivery.attempt and held.is_settled):
                return False
            if held.attempt == delivery.attempt and held.until_ms > ends_before_ms:
                return True
        if delivery.until_ms > ends_before_ms:
            return True
        return await self._records.extended_until(delivery) > ends_before_ms

    async def _extend(self, items: Sequence[_Item]) -> list[SettleOutcome]:
        now_ms = self._clock.now_ms()
        answers = await self._jetstream.link.ask_all([Ask(item.delivery.ack_subject, b"+WPI") for item in items])
        extended = [
            item.delivery for item, answer in zip(items, answers, strict=True) if not isinstance(answer, Unanswered)
        ]
        asks = [self._records.extension_ask(delivery, now_ms + delivery.lease_ms) for delivery in extended]
        try:
            await self._records.write(asks)
        except EngineUnavailable:
            return [_UNDECIDED] * len(items)
        for delivery in extended:
            held = self._held.get(delivery.queue_hash, delivery.seq)
            if held is not None and held.attempt == delivery.attempt:
                held.until_ms = max(held.until_ms, now_ms + delivery.lease_ms)
        return [_DONE if not isinstance(answer, Unanswered) else _UNDECIDED for answer in answers]

    async def _acknowledge(self, items: Sequence[_Item]) -> list[SettleOutcome]:
        outcomes = await self._burials.delete([item.delivery.seq for item in items])
        for item, outcome in zip(items, outcomes, strict=True):
            await self._ended(item.delivery, outcome)
        return outcomes

    async def _bury(self, items: Sequence[_Item]) -> list[SettleOutcome]:
        outcomes: list[SettleOutcome] = []
        for item in items:
            assert isinstance(item.settlement, ToDeadLetters)
            try:
                outcome = await self._burials.bury(item.delivery, item.settlement.reason)
            except EngineUnavailable:
                outcome = _UNDECIDED
            outcomes.append(outcome)
            await self._ended(item.delivery, outcome)
        return outcomes

    async def _retry(self, items: Sequence[_Item]) -> list[SettleOutcome]:
        now_ms = self._clock.now_ms()
        asks: list[Ask] = []
        for item in items:
            history = await self._history(item.delivery)
            assert isinstance(item.settlement, ToRetry)
            record = AttemptRecord(
                attempt=item.delivery.attempt,
                leased_at_ms=item.delivery.leased_at_ms,
                ended_at_ms=max(now_ms, item.delivery.leased_at_ms),
                outcome="retry",
                reason=item.settlement.reason,
            )
            kept = history.with_attempt(record, lease_ms=item.delivery.lease_ms)
            due_in_ms = item.settlement.visible_at_ms - now_ms
            delivery = item.delivery
            asks.append(self._records.history_ask(delivery.queue_hash, delivery.seq, kept, due_in_ms=due_in_ms))
        try:
            await self._records.write(asks)
        except EngineUnavailable:
            return [_UNDECIDED] * len(items)
        return await self._send_back(items)

    async def _send_back(self, items: Sequence[_Item]) -> list[SettleOutcome]:
        now_ms = self._clock.now_ms()
        naks: list[Ask] = []
        for item in items:
            delivery, settlement = item.delivery, item.settlement
            assert isinstance(settlement, ToRetry)
            held = self._held.get(delivery.queue_hash, delivery.seq)
            if held is None or held.attempt < delivery.attempt:
                held = Held(delivery.attempt, 0)
                self._held.put(delivery.queue_hash, delivery.seq, held, now_ms=now_ms)
            held.is_settled = True
            held.until_ms = max(now_ms, settlement.visible_at_ms)
            naks.append(Ask(delivery.ack_subject, nak(settlement.visible_at_ms - now_ms)))
        answers = await self._jetstream.link.ask_all(naks)
        outcomes: list[SettleOutcome] = []
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, Unanswered):
                held = self._held.get(item.delivery.queue_hash, item.delivery.seq)
                if held is not None and held.attempt == item.delivery.attempt:
                    # To be repeated: the lease still holds, or runs out.
                    held.is_settled, held.until_ms = False, item.delivery.until_ms
                outcomes.append(_UNDECIDED)
            else:
                outcomes.append(_DONE)
        return outcomes

    async def _history(self, delivery: Delivery) -> History:
        found = await self._records.histories(delivery.queue_hash, [delivery.seq])
        known = found.get(delivery.seq, History())
        if delivery.attempt == 1:
            # Nothing but hand-outs that reached nobody; others may have met it since, and counted that.
            return History(max(known.uncounted, delivery.delivered - 1), known.attempts)
        return known

    async def _ended(self, delivery: Delivery, outcome: SettleOutcome) -> None:
        if outcome is _UNDECIDED:
            return
        self._held.pop(delivery.queue_hash, delivery.seq)
        if (delivery.attempt > 1 or delivery.delivered > 1) and outcome is _DONE:
            await self._forget(delivery)

    async def _forget(self, delivery: Delivery) -> None:
        try:
            await self._records.forget(delivery.queue_hash, delivery.seq)
        except EngineUnavailable:
            # It ends by its time to live.
            return
