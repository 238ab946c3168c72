"""Dead letters: a copy under a subject of its own, written before the message is deleted, so that a crash between the
two leaves both, and the next settlement finds the copy there.
"""

import secrets
from collections.abc import Sequence

from meshway.engine.nats.failures import NO_MESSAGE_CODES, WRONG_LAST, ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import Ack, JetStream, Page, Stored
from meshway.engine.nats.link import Ask
from meshway.engine.nats.queue_append import QueueAppends, batch_headers
from meshway.engine.nats.queue_deliveries import Delivery
from meshway.engine.nats.queue_messages import (
    HEADER,
    DeadRecord,
    History,
    decode_dead,
    decode_head,
    encode_record,
)
from meshway.engine.nats.queue_records import QueueRecords
from meshway.engine.nats.queue_subjects import QueueSubjects, queue_of
from meshway.engine.nats.retries import Retries, read_patiently
from meshway.engine.ports import AttemptRecord, DeadLetter, Priority, QueueAppend, SettleOutcome
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable
from meshway.kernel.retry import LEASE_RAN_OUT

__all__ = ["Burials", "DeadLetters"]

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_PAGE = 100
_BATCH_ID_BYTES = 9
_REDRIVES_MAX = 10
_DELETED, _GONE, _UNKNOWN = SettleOutcome.DONE, SettleOutcome.STALE, SettleOutcome.UNDECIDED


class Burials:
    """How messages leave their queue."""

    def __init__(
        self, jetstream: JetStream, subjects: QueueSubjects, records: QueueRecords, *, timeout_ms: int, clock: Clock
    ) -> None:
        self._jetstream = jetstream
        self._subjects = subjects
        self._records = records
        self._timeout_ms = timeout_ms
        self._clock = clock

    async def delete(self, seqs: Sequence[int]) -> list[SettleOutcome]:
        """A test-and-set: of all that delete a message one is told DONE; STALE: it was gone.

        UNDECIDED: NATS did not answer, and it may be gone by this call or by another one.
        """
        outcomes = [_UNKNOWN] * len(seqs)
        left = list(range(len(seqs)))
        unanswered: set[int] = set()
        retries = Retries(self._timeout_ms)
        while left:
            verb = f"STREAM.MSG.DELETE.{self._subjects.stream}"
            answers = await self._jetstream.api_all([(verb, {"seq": seqs[place], "no_erase": True}) for place in left])
            again: list[int] = []
            for place, answer in zip(left, answers, strict=True):
                if isinstance(answer, Unanswered):
                    if not answer.nothing_happened:
                        unanswered.add(place)
                    again.append(place)
                elif isinstance(answer, ApiError):
                    if answer.code in NO_MESSAGE_CODES:
                        # By what was not answered before, or by somebody else: nobody can tell.
                        outcomes[place] = _UNKNOWN if place in unanswered else _GONE
                    else:
                        again.append(place)
                else:
                    outcomes[place] = _DELETED
            left = again
            if left and not await retries.pause():
                break
        return outcomes

    async def bury(self, delivery: Delivery, reason: str) -> SettleOutcome:
        """By the settlement of its holder. Raises: StorageFull, EngineUnavailable."""
        history = History()
        if delivery.attempt > 1:
            found = await self._records.histories(delivery.queue_hash, [delivery.seq])
            history = found.get(delivery.seq, history)
        now_ms = self._clock.now_ms()
        record = AttemptRecord(
            attempt=delivery.attempt,
            leased_at_ms=delivery.leased_at_ms,
            ended_at_ms=now_ms,
            outcome="dead_letter",
            reason=reason,
        )
        return await self._bury(delivery, history, record, reason)

    async def bury_expired(self, delivery: Delivery, history: History, *, attempt: int, reason: str) -> SettleOutcome:
        """Because the lease of its last attempt ran out. Raises: StorageFull, EngineUnavailable."""
        now_ms = self._clock.now_ms()
        record = AttemptRecord(
            attempt=attempt,
            leased_at_ms=min(now_ms, delivery.leased_at_ms) - delivery.lease_ms,
            ended_at_ms=now_ms,
            outcome="expired",
            reason=LEASE_RAN_OUT,
        )
        return await self._bury(delivery, history, record, reason)

    async def _bury(self, delivery: Delivery, history: History, record: AttemptRecord, reason: str) -> SettleOutcome:
        stored = await self._message(delivery.seq)
        head = None if stored is None else decode_head(stored.headers)
        if stored is None or head is None:
            return _GONE
        dead = DeadRecord(
            head=stored.headers[HEADER],
            reason=reason,
            attempts=history.with_attempt(record, lease_ms=delivery.lease_ms).attempts,
            dead_at_ms=max(self._clock.now_ms(), record.ended_at_ms),
            attempt=record.attempt,
            data=stored.data,
        )
        subject = self._subjects.dead_letter(queue_of(stored.subject), delivery.seq, head.id)
        is_ours = await self._write(subject, dead)
        (outcome,) = await self.delete([delivery.seq])
        if outcome is _GONE and is_ours:
            # Somebody else settled it in the meantime.
            await self._jetstream.purge_soon(self._subjects.stream, subject)
        return outcome

    async def _write(self, subject: str, dead: DeadRecord) -> bool:
        """False: one was there. Raises: StorageFull, EngineUnavailable."""
        ask = Ask(subject, encode_record(dead), {_EXPECTED: "0"})
        retries = Retries(self._timeout_ms)
        was_unanswered = False
        while True:
            (answer,) = await self._jetstream.publish([ask])
            if isinstance(answer, Ack):
                return True
            if isinstance(answer, ApiError) and answer.code == WRONG_LAST:
                return was_unanswered
            was_unanswered = was_unanswered or (isinstance(answer, Unanswered) and not answer.nothing_happened)
            if not await retries.pause():
                raise error_of(answer)

    async def _message(self, seq: int) -> Stored | None:
        retries = Retries(self._timeout_ms)
        while True:
            try:
                return await self._jetstream.at(self._subjects.stream, seq)
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)


class DeadLetters:
    """Reading and redriving them."""

    def __init__(
        self, jetstream: JetStream, subjects: QueueSubjects, appends: QueueAppends, *, timeout_ms: int, clock: Clock
    ) -> None:
        self._jetstream = jetstream
        self._subjects = subjects
        self._appends = appends
        self._timeout_ms = timeout_ms
        self._clock = clock

    async def page(self, queue: str, after_seq: int, limit: int) -> list[DeadLetter]:
        """Oldest first. Raises: EngineUnavailable."""
        letters: list[DeadLetter] = []
        subject_filter = self._subjects.dead_letters(queue)
        while len(letters) < limit:
            page = await self._read(subject_filter, after_seq + 1, min(_PAGE, limit - len(letters)))
            for stored in page.messages:
                dead = decode_dead(stored)
                if dead is not None:
                    letters.append(dead.letter(queue, str(stored.seq)))
            if not page.more:
                break
            after_seq = page.messages[-1].seq
        return letters

    async def redrive(self, queue: str, message_id: str) -> QueueAppend | None:
        """The oldest that has this id, exactly once; None: there is none. Raises: StorageFull, EngineUnavailable."""
        for _ in range(_REDRIVES_MAX):
            found = await self._find(queue, message_id)
            if found is None:
                return None
            if await self._move(*found):
                return found[1]
        return None

    async def _find(self, queue: str, message_id: str) -> tuple[Stored, QueueAppend] | None:
        subject_filter = self._subjects.dead_letters(queue, message_id=message_id)
        seq = 1
        while True:
            page = await self._read(subject_filter, seq, 1)
            for stored in page.messages:
                dead = decode_dead(stored)
                message = None if dead is None else dead.letter(queue, "").message
                if dead is not None and message is not None and message.message_id == message_id:
                    again = QueueAppend(
                        queue=queue,
                        message_id=message_id,
                        data=dead.data,
                        headers=message.headers,
                        priority=Priority(message.priority),
                        ordering_key=message.ordering_key,
                    )
                    return stored, again
                seq = stored.seq + 1
            if not page.more:
                return None

    async def _move(self, stored: Stored, message: QueueAppend) -> bool:
        """False: somebody was faster."""
        retries = Retries(self._timeout_ms)
        was_unanswered = False
        while True:
            subject, headers = self._appends.plain(message, self._clock.now_ms())
            batch = secrets.token_hex(_BATCH_ID_BYTES)
            try:
                await self._jetstream.link.publish(
                    subject, message.data, headers={**headers, **batch_headers(batch, 1)}
                )
            except EngineUnavailable as error:
                answer: Ack | ApiError | Unanswered = Unanswered(error.detail, nothing_happened=True)
            else:
                tomb = {"Nats-Rollup": "sub", "Nats-TTL": "1s", _EXPECTED: str(stored.seq)}
                tomb |= batch_headers(batch, 2, is_last=True)
                (answer,) = await self._jetstream.publish([Ask(stored.subject, b"", tomb)])
            if isinstance(answer, Ack):
                await self._jetstream.purge_soon(self._subjects.stream, stored.subject)
                return True
            if isinstance(answer, ApiError) and answer.code == WRONG_LAST:
                return was_unanswered
            was_unanswered = was_unanswered or (isinstance(answer, Unanswered) and not answer.nothing_happened)
            if not await retries.pause():
                raise error_of(answer)

    async def _read(self, subject_filter: str, seq: int, limit: int) -> Page:
        body = {"next_by_subj": subject_filter, "seq": seq, "batch": limit}
        return await read_patiently(self._jetstream, self._subjects.stream, body, within_ms=self._timeout_ms)
