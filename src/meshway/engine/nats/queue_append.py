"""Appending: each message is one publish, filtered by its id; a dedupe id is stored in one batch with its message."""

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from meshway.engine.nats.failures import FULL_CODES, UNDECIDED_CODES, WRONG_LAST, ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import Ack, JetStream
from meshway.engine.nats.link import Ask
from meshway.engine.nats.queue_books import QueueBooks
from meshway.engine.nats.queue_limits import QueueLimits, Usage, is_bounded
from meshway.engine.nats.queue_messages import HEADER, encode_head, whole_seconds
from meshway.engine.nats.queue_subjects import QueueSubjects, part_of, size_of
from meshway.engine.nats.retries import Retries
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import Enqueued, QueueAppend, QueueFull, QueueOutcome, QueueSettings, Undecided
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable, MeshwayError, PayloadTooLarge

__all__ = ["QueueAppends", "batch_headers", "expiry_header", "schedule_headers", "unique_id"]

_DUPLICATE_IN_BATCH = 10201
# Published at once: more only fills buffers.
_TOGETHER_BYTES_MAX = 8 * 1024 * 1024
# What a message has besides its data and the header of ours: other headers, the subject.
_OVERHEAD_BYTES = 1_024
_UID_BYTES = 9
_KEPT = Enqueued(duplicate=False)
_KNOWN = Enqueued(duplicate=True)
_NOT_ANSWERED = Undecided(reason="NATS did not answer")


@dataclass(slots=True)
class _Item:
    """One message on its way: `mark` is what is published before it, in one batch with it."""

    place: int
    subject: str
    data: bytes
    headers: dict[str, str]
    mark: Ask | None
    size_bytes: int
    usage: Usage | None = None
    was_unanswered: bool = False
    reason: str = ""


class QueueAppends:
    def __init__(
        self, jetstream: JetStream, subjects: QueueSubjects, books: QueueBooks, settings: NatsSettings, clock: Clock
    ) -> None:
        self._jetstream = jetstream
        self._subjects = subjects
        self._books = books
        self._timeout_ms = settings.request_timeout_ms
        self._try_timeout_ms = settings.try_timeout_ms
        self._together_max = settings.in_flight_max
        self._clock = clock
        self._limits = QueueLimits(jetstream, subjects, clock)

    async def append(self, messages: Sequence[QueueAppend]) -> list[QueueOutcome]:
        """For checked names, in order. Raises: StorageFull, PayloadTooLarge, EngineUnavailable."""
        outcomes: list[QueueOutcome | None] = [None] * len(messages)
        items: list[_Item] = []
        failure: MeshwayError | None = None
        try:
            await self._plan(messages, items, outcomes)
            for together in self._cut(items):
                failure = await self._publish(together, outcomes)
                if failure is not None:
                    break
        finally:
            for item in items:
                if item.usage is not None:
                    is_kept = isinstance(outcomes[item.place], Enqueued)
                    tell = item.usage.landed if is_kept else item.usage.lost
                    tell(messages[item.place].message_id, item.size_bytes)
        if failure is None:
            return [_NOT_ANSWERED if outcome is None else outcome for outcome in outcomes]
        if not any(isinstance(outcome, Enqueued | Undecided) for outcome in outcomes):
            raise failure
        # Some are kept, or may be: the others are to be repeated.
        return [Undecided(reason=failure.detail) if outcome is None else outcome for outcome in outcomes]

    async def _plan(
        self, messages: Sequence[QueueAppend], items: list[_Item], outcomes: list[QueueOutcome | None]
    ) -> None:
        """What is to be published; what is refused has its outcome."""
        now_ms = self._clock.now_ms()
        full: dict[str, QueueFull] = {}
        for place, message in enumerate(messages):
            settings = self._books.settings(message.queue)
            item = self._item(place, message, settings, now_ms)
            if is_bounded(settings) and not self._limits.is_known(message):
                admitted = full.get(message.queue) or await self._limits.admit(message, settings, item.size_bytes)
                if isinstance(admitted, QueueFull):
                    outcomes[place] = full[message.queue] = admitted
                    continue
                item.usage = admitted
            items.append(item)

    def forget(self, queue: str) -> None:
        """It was purged or removed."""
        self._limits.forget(queue)

    def plain(self, message: QueueAppend, now_ms: int) -> tuple[str, dict[str, str]]:
        """Subject and headers of a message that is added without any filter."""
        item = self._item(0, message, self._books.settings(message.queue), now_ms)
        del item.headers["Nats-Msg-Id"]
        return item.subject, item.headers

    def _item(self, place: int, message: QueueAppend, settings: QueueSettings, now_ms: int) -> _Item:
        queue, subjects = message.queue, self._subjects
        part = part_of(message.ordering_key)
        size = size_of(len(message.data)) if settings.bytes_max is not None else size_of(0)
        subject = subjects.message(queue, int(message.priority), part, size)
        begin_ms = max(now_ms, message.deliver_at_ms or 0)
        expires_at_ms = _expiry(message, settings, now_ms)
        headers = {
            HEADER: encode_head(message, now_ms, expires_at_ms),
            "Nats-Msg-Id": unique_id(queue, self._books.generation(queue), message.message_id),
        }
        if begin_ms > now_ms:
            headers |= schedule_headers(begin_ms, subject)
            subject = subjects.schedule(queue, int(message.priority), part, f"{size}-{secrets.token_hex(_UID_BYTES)}")
        if expires_at_ms is not None:
            headers |= expiry_header(expires_at_ms, begin_ms, now_ms)
        if len(message.data) + len(headers[HEADER]) + _OVERHEAD_BYTES > self._jetstream.link.max_payload:
            text = f"{len(message.data):,} bytes are more than this NATS server takes (max_payload)"
            raise PayloadTooLarge(text)
        mark = None
        if message.dedupe_id is not None:
            window = {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-TTL": whole_seconds(settings.dedupe_window_ms)}
            mark = Ask(subjects.dedupe(queue, message.dedupe_id), b"", window)
        return _Item(place, subject, message.data, headers, mark, int(size_of(len(message.data))))

    def _cut(self, items: Sequence[_Item]) -> list[list[_Item]]:
        """Runs that are published at once."""
        runs: list[list[_Item]] = []
        size_bytes = 0
        for item in items:
            size_bytes += len(item.data)
            if not runs or len(runs[-1]) >= self._together_max or size_bytes > _TOGETHER_BYTES_MAX:
                runs.append([])
                size_bytes = len(item.data)
            runs[-1].append(item)
        return runs

    async def _publish(self, items: list[_Item], outcomes: list[QueueOutcome | None]) -> MeshwayError | None:
        """Why those that have no outcome were not kept, for certain; None: all have one."""
        retries = Retries(self._timeout_ms)
        failure: MeshwayError | None = None
        while items:
            asks = await self._asks(items)
            again: list[_Item] = []
            answers = await self._jetstream.publish(asks, timeout_ms=self._try_timeout_ms)
            for item, answer in zip(items, answers, strict=True):
                outcome = _outcome(item, answer)
                if isinstance(outcome, MeshwayError):
                    failure = outcome
                    continue
                if outcome is None:
                    again.append(item)
                outcomes[item.place] = outcome
            if again and not await retries.pause():
                for item in again:
                    if item.was_unanswered:
                        outcomes[item.place] = Undecided(reason=item.reason)
                    else:
                        failure = failure or EngineUnavailable(item.reason)
                return failure
            items = again
        return failure

    async def _asks(self, items: Sequence[_Item]) -> list[Ask]:
        asks: list[Ask] = []
        for item in items:
            headers = item.headers
            if item.mark is not None:
                batch = secrets.token_hex(_UID_BYTES)
                with contextlib.suppress(EngineUnavailable):
                    # Then the one that ends the batch is not sent either, or is refused.
                    await self._jetstream.link.publish(
                        item.mark.subject, headers={**(item.mark.headers or {}), **batch_headers(batch, 1)}
                    )
                headers = {**headers, **batch_headers(batch, 2, is_last=True)}
            asks.append(Ask(item.subject, item.data, headers))
        return asks


def unique_id(queue: str, generation: str, message_id: str) -> str:
    """What the servers filter repetitions by, within the whole stream."""
    return f"{queue}:{generation}:{_ascii(message_id)}"


def schedule_headers(begin_ms: int, subject: str) -> dict[str, str]:
    """Of a message that is put under `subject` at a time."""
    at = f"{datetime.fromtimestamp(begin_ms / 1000, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    return {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": subject}


def expiry_header(expires_at_ms: int, begin_ms: int, now_ms: int) -> dict[str, str]:
    """Of a message that is, or will be, there from `begin_ms` on."""
    name = "Nats-Schedule-TTL" if begin_ms > now_ms else "Nats-TTL"
    return {name: whole_seconds(expires_at_ms - begin_ms)}


def batch_headers(batch: str, number: int, *, is_last: bool = False) -> dict[str, str]:
    """Of the messages of an atomic batch, numbered from 1."""
    headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
    if is_last:
        headers["Nats-Batch-Commit"] = "1"
    return headers


def _outcome(item: _Item, answer: Ack | ApiError | Unanswered) -> QueueOutcome | MeshwayError | None:
    """None: it may or may not be stored, and is to be published again. An error: it is not stored."""
    if isinstance(answer, Unanswered):
        item.was_unanswered = item.was_unanswered or not answer.nothing_happened
        item.reason = answer.reason
        return None
    if isinstance(answer, Ack):
        return _KNOWN if answer.duplicate and not item.was_unanswered else _KEPT
    if answer.code in (WRONG_LAST, _DUPLICATE_IN_BATCH) and item.mark is not None:
        return _KEPT if item.was_unanswered else _KNOWN
    if answer.code in UNDECIDED_CODES or (answer.status == 503 and answer.code not in FULL_CODES):
        item.reason = str(answer)
        return None
    if item.was_unanswered:
        # An earlier try may have been stored.
        return Undecided(reason=str(answer))
    return error_of(answer)


def _expiry(message: QueueAppend, settings: QueueSettings, now_ms: int) -> int | None:
    """The earlier of the message's own expiry and the queue's retention."""
    ends = []
    if message.expires_at_ms is not None:
        ends.append(message.expires_at_ms)
    if settings.retention_ms is not None:
        ends.append(max(now_ms, message.deliver_at_ms or 0) + settings.retention_ms)
    return min(ends, default=None)


def _ascii(text: str) -> str:
    """A message id as the value of a header."""
    return (
        msgspec.json.encode(text).decode()
        if text.isascii() and text.isprintable()
        else text.encode(errors="surrogatepass").hex()
    )
