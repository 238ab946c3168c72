"""What is kept of messages that were given back or extended: small records beside them, one a subject.

They end by their time to live, or when their message is done; losing one loses reasons of attempts, no message.
"""

from collections.abc import Sequence

import msgspec

from meshway.engine.nats.failures import ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import Ack, JetStream, Stored
from meshway.engine.nats.link import Ask
from meshway.engine.nats.queue_deliveries import Delivery
from meshway.engine.nats.queue_messages import History, decode_history, encode_record, whole_seconds
from meshway.engine.nats.queue_subjects import QueueSubjects
from meshway.engine.nats.retries import Retries

__all__ = ["QueueRecords"]

# Longer than any message is held without being given back again.
_HISTORY_TTL_MS = 7 * 86_400_000
_EXTENSION_TTL_MS = 60_000


class _Extension(msgspec.Struct, frozen=True, array_like=True):
    attempt: int
    until_ms: int


class QueueRecords:
    def __init__(self, jetstream: JetStream, subjects: QueueSubjects, timeout_ms: int) -> None:
        self._jetstream = jetstream
        self._subjects = subjects
        self._timeout_ms = timeout_ms

    async def histories(self, queue_hash: str, seqs: Sequence[int]) -> dict[int, History]:
        """Of those that have one. Raises: EngineUnavailable."""
        found: dict[int, History] = {}
        for stored in await self._last_of([self._subjects.history(queue_hash, seq) for seq in seqs]):
            found[int(stored.subject.rpartition(".")[2])] = decode_history(stored)
        return found

    async def extensions(self, queue_hash: str, seqs: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Of those that were extended: which attempt was last, and until when. Raises: EngineUnavailable."""
        found: dict[int, tuple[int, int]] = {}
        for stored in await self._last_of([self._subjects.extension(queue_hash, seq) for seq in seqs]):
            if stored.data:
                extension = msgspec.msgpack.decode(stored.data, type=_Extension)
                found[int(stored.subject.rpartition(".")[2])] = extension.attempt, extension.until_ms
        return found

    def history_ask(self, queue_hash: str, seq: int, history: History, *, due_in_ms: int = 0) -> Ask:
        """The publish that keeps it, until long after the message is due again."""
        headers = {"Nats-Rollup": "sub", "Nats-TTL": whole_seconds(_HISTORY_TTL_MS + max(0, due_in_ms))}
        return Ask(self._subjects.history(queue_hash, seq), encode_record(history), headers)

    async def write(self, asks: Sequence[Ask]) -> None:
        """Raises: StorageFull, EngineUnavailable."""
        retries = Retries(self._timeout_ms)
        left = list(asks)
        while left:
            answers = await self._jetstream.publish(left)
            failures = [answer for answer in answers if not isinstance(answer, Ack)]
            # Writing one twice is harmless.
            left = [ask for ask, answer in zip(left, answers, strict=True) if not isinstance(answer, Ack)]
            if failures and not await retries.pause():
                raise error_of(failures[0])

    async def extended_until(self, delivery: Delivery) -> int:
        """The end of its lease, extended or not. Raises: EngineUnavailable."""
        subject = self._subjects.extension(delivery.queue_hash, delivery.seq)
        retries = Retries(self._timeout_ms)
        while True:
            try:
                stored = await self._jetstream.last_of(self._subjects.stream, subject)
                break
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)
        if stored is None or not stored.data:
            return delivery.until_ms
        extension = msgspec.msgpack.decode(stored.data, type=_Extension)
        return extension.until_ms if extension.attempt == delivery.attempt else delivery.until_ms

    def extension_ask(self, delivery: Delivery, until_ms: int) -> Ask:
        headers = {"Nats-Rollup": "sub", "Nats-TTL": whole_seconds(delivery.lease_ms + _EXTENSION_TTL_MS)}
        data = msgspec.msgpack.encode(_Extension(delivery.attempt, until_ms))
        return Ask(self._subjects.extension(delivery.queue_hash, delivery.seq), data, headers)

    async def forget(self, queue_hash: str, seq: int) -> None:
        """Its message is done: drop the history, without waiting. Raises: EngineUnavailable."""
        await self._jetstream.purge_soon(self._subjects.stream, self._subjects.history(queue_hash, seq))

    async def _last_of(self, subjects: Sequence[str]) -> Sequence[Stored]:
        """As the leader has them: a replica that lags, or is parted, would answer with what it has."""
        retries = Retries(self._timeout_ms)
        found: list[Stored] = []
        left = list(subjects)
        while left:
            answers = await self._jetstream.last_of_each(self._subjects.stream, left)
            again: list[str] = []
            for subject, answer in zip(left, answers, strict=True):
                if isinstance(answer, Stored):
                    found.append(answer)
                elif answer is not None:
                    again.append(subject)
                    failure = answer
            left = again
            if left:
                await retries.pause_or_raise(failure)
        return found
