"""From messages that the server handed out to leases: which of them somebody may work on, and in which attempt."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from meshway.engine.nats.failures import Unanswered
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.link import Ask
from meshway.engine.nats.queue_books import QueueBooks
from meshway.engine.nats.queue_consumers import Arrival
from meshway.engine.nats.queue_dead import Burials
from meshway.engine.nats.queue_deliveries import Delivery, DeliveryIds, Held
from meshway.engine.nats.queue_holders import HeldElsewhere, Holders
from meshway.engine.nats.queue_messages import Head, History, decode_head, was_handed_out
from meshway.engine.nats.queue_records import QueueRecords
from meshway.engine.nats.queue_subjects import hash_of
from meshway.engine.ports import Lease
from meshway.kernel.clock import Clock
from meshway.kernel.retry import is_exhausted

__all__ = ["Admission", "Taken", "nak"]

_log = logging.getLogger(__name__)

# A message that waited longer than this part of its lease on the way here has its lease begun anew.
_AGE_PARTS_MAX = 8
# And one that waited longer than this part may be in other hands already.
_AGE_RENEWED_MAX = 2
# When hubs are asked again that did not answer a question which has to have one.
_ASKED_AGAIN_MS = 500
_NO_HISTORY = History()


@dataclass(slots=True)
class Taken:
    """A message in the hands of this hub, and how it is given back."""

    lease: Lease
    delivery: Delivery
    history: History


class Admission:
    def __init__(
        self,
        jetstream: JetStream,
        stream: str,
        *,
        books: QueueBooks,
        records: QueueRecords,
        burials: Burials,
        holders: Holders,
        ids: DeliveryIds,
        clock: Clock,
    ) -> None:
        self._jetstream = jetstream
        self._stream = stream
        self._books = books
        self._records = records
        self._burials = burials
        self._holders = holders
        self._held = holders.held
        self._ids = ids
        self._clock = clock

    async def admit(self, queue: str, arrivals: Sequence[Arrival]) -> list[Taken]:
        """Leases, in the order of hand-out; what is none goes back, or goes. Raises: StorageFull, EngineUnavailable."""
        queue_hash = hash_of(queue)
        arrived_ms = {(arrival.seq, arrival.delivered): arrival.leased_at_ms for arrival in arrivals}
        fresh = await self._renew(sorted(arrivals, key=lambda arrival: (arrival.rank, arrival.seq)))
        fresh = await self._without_done(fresh)
        histories = await self._histories(queue_hash, fresh)
        elsewhere = await self._held_elsewhere(queue_hash, fresh, histories)
        taken: list[Taken] = []
        # Those that somebody holds, and until when.
        early: list[tuple[Taken, int]] = []
        gone: list[int] = []
        for arrival in fresh:
            now_ms = self._clock.now_ms()
            head = decode_head(arrival.message.headers) or Head()
            history = histories.get(arrival.seq, History())
            held = self._held.get(queue_hash, arrival.seq)
            one = self._taken(queue, arrival, head, history, held)
            holder = elsewhere.get(arrival.seq, HeldElsewhere())
            if held is not None and not held.is_settled:
                holder = max(holder, HeldElsewhere(held.until_ms, held.attempt))
            if holder.until_ms > now_ms:
                if holder.attempt:
                    # Counted so that the next attempt is the one after the holder's, whatever the server knows of that.
                    one.history = History(arrival.delivered - holder.attempt - 1, history.attempts)
                early.append((one, holder.until_ms))
            elif head.expires_at_ms is not None and head.expires_at_ms <= now_ms:
                gone.append(arrival.seq)
            elif not await self._is_over(queue, one, held):
                since_ms = arrived_ms[arrival.seq, arrival.delivered]
                if self._holders.is_overtaken(queue_hash, arrival.seq, delivered=arrival.delivered, since_ms=since_ms):
                    continue
                entry = Held(one.delivery.attempt, one.delivery.until_ms)
                self._held.put(queue_hash, arrival.seq, entry, now_ms=now_ms)
                taken.append(one)
        if gone:
            await self._burials.delete(gone)
        if early:
            # The server forgot these leases (it was killed, or began to lead), or ends them early: they were longer
            # when they were made.
            _log.info("nats_messages_still_held", extra={"queue": queue, "messages": len(early)})
            await self._give_back(queue_hash, early)
        return taken

    async def _held_elsewhere(
        self, queue_hash: str, arrivals: Sequence[Arrival], histories: Mapping[int, History]
    ) -> dict[int, HeldElsewhere]:
        """Until when others hold what was handed out before, where it is not known that this ended.

        Where the server may not know that it was, what a hub holds that does not answer is waited for.
        """
        doubtful = [
            arrival
            for arrival in arrivals
            if arrival.lane.is_doubted
            or (arrival.delivered > 1 and not histories.get(arrival.seq, _NO_HISTORY).tells_all(arrival.delivered))
        ]
        if not doubtful:
            return {}
        # A lease may have been extended at any hub. What the server may have forgotten is a hub's that lives.
        again = [arrival.seq for arrival in doubtful if arrival.delivered > 1]
        extensions = await self._records.extensions(queue_hash, again) if again else {}
        found: dict[int, HeldElsewhere] = {}
        asked: list[Arrival] = []
        for arrival in doubtful:
            history = histories.get(arrival.seq, _NO_HISTORY)
            attempt, until_ms = extensions.get(arrival.seq, (0, 0))
            if not history.attempts or history.attempts[-1].attempt < attempt:
                found[arrival.seq] = HeldElsewhere(until_ms, attempt)
            held = self._held.get(queue_hash, arrival.seq)
            # The last hand-out was to this hub: nobody knows better.
            if arrival.lane.is_doubted or held is None or held.attempt + 1 < history.attempt_of(arrival.delivered):
                asked.append(arrival)
        if asked:
            seqs = [(arrival.seq, arrival.delivered) for arrival in asked]
            elsewhere = await self._holders.ask(queue_hash, seqs)
            again_ms = 0 if elsewhere.is_all else self._clock.now_ms() + _ASKED_AGAIN_MS
            for arrival in asked:
                known = [each.get(arrival.seq, HeldElsewhere()) for each in (found, elsewhere.held)]
                if arrival.lane.is_doubted:
                    known.append(HeldElsewhere(again_ms))
                found[arrival.seq] = max(known)
        return found

    async def _without_done(self, arrivals: list[Arrival]) -> list[Arrival]:
        """A server that lags behind the stream's leader hands out again what was settled a moment ago."""
        again = [arrival for arrival in arrivals if arrival.delivered > 1]
        if not again:
            return arrivals
        found = await self._jetstream.get_each(self._stream, [{"seq": arrival.seq} for arrival in again])
        done = {arrival.seq for arrival, stored in zip(again, found, strict=True) if stored is None}
        return [arrival for arrival in arrivals if arrival.seq not in done]

    async def _histories(self, queue_hash: str, arrivals: Sequence[Arrival]) -> dict[int, History]:
        """Of those that were, or may have been, handed out before, here or by the engine that they were copied from.

        A consumer that was made anew knows of nothing that the one before it handed out.
        """
        copied = {
            arrival.seq: head.history()
            for arrival in arrivals
            if was_handed_out(arrival.message.headers) and (head := decode_head(arrival.message.headers)) is not None
        }
        again = [
            arrival.seq
            for arrival in arrivals
            if arrival.delivered > 1 or arrival.stored_at_ms <= arrival.lane.made_at_ms or arrival.seq in copied
        ]
        histories = await self._records.histories(queue_hash, again) if again else {}
        taken_over = {seq: history for seq, history in copied.items() if seq not in histories}
        # From now on they are like those of every other message.
        await self._records.write(
            [self._records.history_ask(queue_hash, seq, history) for seq, history in taken_over.items()]
        )
        return histories | taken_over

    async def give_back(self, queue: str, taken: Sequence[Taken]) -> None:
        """Due again at once, as if never handed out. Raises: StorageFull, EngineUnavailable."""
        queue_hash = hash_of(queue)
        for one in taken:
            self._held.pop(queue_hash, one.delivery.seq)
        await self._give_back(queue_hash, [(one, 0) for one in taken])

    async def _give_back(self, queue_hash: str, taken: Sequence[tuple[Taken, int]]) -> None:
        """Each with the time at which it is due."""
        records: list[Ask] = []
        for one, _ in taken:
            history = History(one.history.uncounted + 1, one.history.attempts)
            records.append(self._records.history_ask(queue_hash, one.delivery.seq, history))
        await self._records.write(records)
        now_ms = self._clock.now_ms()
        for one, until_ms in taken:
            await self._jetstream.link.publish(one.delivery.ack_subject, nak(until_ms - now_ms))

    async def _renew(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """Those whose lease is, or now becomes, nearly a whole one; the others run out by themselves."""
        now_ms = self._clock.now_ms()
        fresh: list[Arrival] = []
        old: list[Arrival] = []
        for arrival in arrivals:
            age_ms = now_ms - arrival.leased_at_ms
            if age_ms <= arrival.lease_ms // _AGE_PARTS_MAX:
                fresh.append(arrival)
            elif age_ms <= arrival.lease_ms // _AGE_RENEWED_MAX:
                old.append(arrival)
        if not old:
            return fresh
        answers = await self._jetstream.link.ask_all([Ask(arrival.message.reply, b"+WPI") for arrival in old])
        for arrival, answer in zip(old, answers, strict=True):
            if not isinstance(answer, Unanswered):
                fresh.append(replace(arrival, leased_at_ms=now_ms))
        return sorted(fresh, key=lambda arrival: (arrival.rank, arrival.seq))

    def _taken(self, queue: str, arrival: Arrival, head: Head, history: History, held: Held | None) -> Taken:
        attempt = max(history.attempt_of(arrival.delivered), 1 if held is None else held.attempt + 1)
        leased_at_ms, lease_ms = arrival.leased_at_ms, arrival.lease_ms
        delivery = Delivery(
            arrival.seq, attempt, leased_at_ms, leased_at_ms + lease_ms, arrival.message.reply, lease_ms
        )
        lease = Lease(
            delivery_id=self._ids.encode(delivery),
            attempt=attempt,
            lease_until_ms=delivery.until_ms,
            message=head.message(queue, arrival.message.data),
        )
        return Taken(lease, delivery, history)

    async def _is_over(self, queue: str, one: Taken, held: Held | None) -> bool:
        """Whether its attempts are used up: then it leaves the queue."""
        settings = self._books.settings(queue)
        if settings.attempts_max is None or is_exhausted(settings.attempts_max, one.delivery.attempt) is None:
            return False
        # The server also counts hand-outs that reached nobody; beyond the maximum no worker was given one, unless the
        # maximum was lowered meanwhile.
        known = one.history.attempts[-1].attempt if one.history.attempts else 0
        last = max(settings.attempts_max, known, 0 if held is None else held.attempt)
        ending = is_exhausted(settings.attempts_max, last + 1)
        assert ending is not None
        if settings.dead_letters:
            await self._burials.bury_expired(one.delivery, one.history, attempt=last, reason=ending.reason)
        else:
            await self._burials.delete([one.delivery.seq])
        return True


def nak(delay_ms: int) -> bytes:
    """Due again after so long."""
    return b'-NAK {"delay": %d}' % (delay_ms * 1_000_000) if delay_ms > 0 else b"-NAK"
