"""Limits of queues, kept approximately: what other hubs have on its way at the same moment is not counted."""

from collections import OrderedDict
from dataclasses import dataclass, field

from meshway.engine.nats.failures import ApiError, Unanswered
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.queue_subjects import QueueSubjects
from meshway.engine.nats.retries import Retries
from meshway.engine.ports import QueueAppend, QueueFull, QueueSettings
from meshway.kernel.clock import Clock

__all__ = ["QueueLimits", "Usage", "is_bounded", "read_subjects"]

# How long counts of a bounded queue are believed.
_FRESH_MS = 200
_IDS_REMEMBERED = 10_000


@dataclass(slots=True)
class Usage:
    """What a bounded queue holds, as far as known: as counted at `counted_ms`, and what was admitted here since."""

    counted_ms: float = float("-inf")
    messages: int = 0
    size_bytes: int = 0
    # Of that, what is on its way to the server and in no count of its.
    messages_underway: int = 0
    bytes_underway: int = 0
    # Ids that were accepted lately: repeating one takes no room.
    ids: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def refusal(self, settings: QueueSettings, size_bytes: int) -> QueueFull | None:
        if settings.messages_max is not None and self.messages >= settings.messages_max:
            return QueueFull(limit="messages_max")
        if settings.bytes_max is not None and self.size_bytes + size_bytes > settings.bytes_max:
            return QueueFull(limit="bytes_max")
        return None

    def counted(self, messages: int, size_bytes: int, now_ms: float) -> None:
        self.messages = messages + self.messages_underway
        self.size_bytes = size_bytes + self.bytes_underway
        self.counted_ms = now_ms

    def add(self, message_id: str, size_bytes: int) -> None:
        self.messages += 1
        self.messages_underway += 1
        self.size_bytes += size_bytes
        self.bytes_underway += size_bytes
        self.ids[message_id] = None
        if len(self.ids) > _IDS_REMEMBERED:
            self.ids.popitem(last=False)

    def landed(self, message_id: str, size_bytes: int) -> None:
        """It is stored."""
        self.messages_underway -= 1
        self.bytes_underway -= size_bytes

    def lost(self, message_id: str, size_bytes: int) -> None:
        """It is not stored, or may not be."""
        self.landed(message_id, size_bytes)
        self.messages -= 1
        self.size_bytes -= size_bytes
        self.ids.pop(message_id, None)


class QueueLimits:
    def __init__(self, jetstream: JetStream, subjects: QueueSubjects, clock: Clock) -> None:
        self._jetstream = jetstream
        self._subjects = subjects
        self._clock = clock
        self._usages: dict[str, Usage] = {}

    async def admit(self, message: QueueAppend, settings: QueueSettings, size_bytes: int) -> Usage | QueueFull | None:
        """Whom to tell what became of it, or the limit that is reached; None: it was accepted before.

        Raises: EngineUnavailable.
        """
        usage = self._usages.setdefault(message.queue, Usage())
        if message.message_id in usage.ids:
            return None
        age_ms = self._clock.monotonic_ms() - usage.counted_ms
        if age_ms > _FRESH_MS or usage.refusal(settings, size_bytes) is not None:
            await self._count(message.queue, usage)
        refused = usage.refusal(settings, size_bytes)
        if refused is not None:
            return refused
        usage.add(message.message_id, size_bytes)
        return usage

    def is_known(self, message: QueueAppend) -> bool:
        """Whether it was accepted lately."""
        usage = self._usages.get(message.queue)
        return usage is not None and message.message_id in usage.ids

    def forget(self, queue: str) -> None:
        """It was purged or removed."""
        self._usages.pop(queue, None)

    async def _count(self, queue: str, usage: Usage) -> None:
        now_ms = self._clock.monotonic_ms()
        counts = await read_subjects(self._jetstream, self._subjects.stream, self._subjects.undone(queue))
        size_bytes = sum(_size_in(subject) * count for subject, count in counts.items())
        usage.counted(sum(counts.values()), size_bytes, now_ms)


async def read_subjects(jetstream: JetStream, stream: str, subject_filter: str) -> dict[str, int]:
    """How many messages each subject has. Raises: EngineUnavailable."""
    found: dict[str, int] = {}
    retries = Retries(2_000)
    while True:
        body = {"subjects_filter": subject_filter, "offset": len(found)}
        try:
            said = await jetstream.api(f"STREAM.INFO.{stream}", body)
        except (ApiError, Unanswered) as failure:
            await retries.pause_or_raise(failure)
            continue
        page = said.state.subjects
        found.update(page)
        if not page or len(found) >= said.total:
            return found


def is_bounded(settings: QueueSettings) -> bool:
    return settings.messages_max is not None or settings.bytes_max is not None


def _size_in(subject: str) -> int:
    return int(subject.rsplit(".", 1)[1].partition("-")[0])
