"""QueueAdmin on JetStream."""

from collections.abc import Sequence

from meshway.engine.nats.failures import ApiError, Unanswered
from meshway.engine.nats.queue import NatsQueue
from meshway.engine.nats.queue_subjects import hash_of
from meshway.engine.nats.retries import Retries
from meshway.engine.ports import DeadLetter, QueueSettings
from meshway.engine.ports.checks import check_between, check_name
from meshway.engine.ports.queue_checks import check_settings, dead_letter_number

__all__ = ["NatsQueueAdmin"]

_PAGE_MAX = 1_000


class NatsQueueAdmin:
    """See `engine.ports.QueueAdmin`."""

    def __init__(self, queue: NatsQueue) -> None:
        self._queue = queue

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        check_name(queue, "queue")
        check_settings(settings)
        await self._queue.books.configure(queue, settings)

    async def settings(self, queue: str) -> QueueSettings:
        return self._queue.books.settings(check_name(queue, "queue"))

    async def queues(self, *, after: str | None = None, limit: int = 500) -> Sequence[str]:
        check_between("limit", limit, 1, _PAGE_MAX)
        return await self._queue.reads.names(after, limit)

    async def purge(self, queue: str) -> int:
        check_name(queue, "queue")
        subjects = self._queue.subjects
        dropped = await self._purge(subjects.schedules(queue))
        dropped += await self._purge(subjects.messages(queue))
        for subject_filter in subjects.held_records(queue):
            await self._purge(subject_filter)
        self._forget(queue)
        return dropped

    async def dead_letters(self, queue: str, *, after: str | None = None, limit: int = 50) -> Sequence[DeadLetter]:
        check_name(queue, "queue")
        check_between("limit", limit, 1, _PAGE_MAX)
        return await self._queue.dead.page(queue, 0 if after is None else dead_letter_number(after), limit)

    async def redrive(self, queue: str, message_ids: Sequence[str]) -> Sequence[bool]:
        check_name(queue, "queue")
        outcomes: list[bool] = []
        for message_id in message_ids:
            message = await self._queue.dead.redrive(queue, message_id)
            if message is not None:
                await self._queue.tell(message)
            outcomes.append(message is not None)
        return outcomes

    async def remove(self, queue: str) -> None:
        check_name(queue, "queue")
        await self._queue.books.forget(queue)
        for subject_filter in self._queue.subjects.everything(queue):
            await self._purge(subject_filter)
        retries = Retries(self._queue.timeout_ms)
        while True:
            try:
                await self._queue.consumers.drop(queue)
                break
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)
        self._forget(queue)

    async def _purge(self, subject_filter: str) -> int:
        """How many messages were dropped. Raises: EngineUnavailable."""
        retries = Retries(self._queue.timeout_ms)
        while True:
            try:
                verb = f"STREAM.PURGE.{self._queue.subjects.stream}"
                said = await self._queue.jetstream.api(verb, {"filter": subject_filter})
                return said.purged
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)

    def _forget(self, queue: str) -> None:
        self._queue.held.drop_queue(hash_of(queue))
        self._queue.appends.forget(queue)
