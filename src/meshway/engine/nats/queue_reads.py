"""What can be seen of queues from outside: their messages, their figures, their names."""

import asyncio
from collections.abc import Sequence

from meshway.engine.nats.api_answers import ApiAnswer
from meshway.engine.nats.jetstream import JetStream, Page
from meshway.engine.nats.queue_books import QueueBooks
from meshway.engine.nats.queue_deliveries import HeldMessages
from meshway.engine.nats.queue_limits import read_subjects
from meshway.engine.nats.queue_messages import decode_head
from meshway.engine.nats.queue_subjects import ORDERED_LANES, PLAIN_LANES, QueueSubjects, hash_of, queue_of
from meshway.engine.nats.retries import read_patiently
from meshway.engine.ports import QueueDepth, QueuedMessage
from meshway.kernel.clock import Clock
from meshway.kernel.errors import MeshwayError

__all__ = ["QueueReads"]

# Queues whose figures are asked for at once.
_TOGETHER_MAX = 32
_PAGE_MAX = 200
# So long after the end of a lease the servers have it ready for another one; whoever counts it then can have it.
_HANDED_OUT_AGAIN_MS = 100


class QueueReads:
    def __init__(
        self,
        jetstream: JetStream,
        subjects: QueueSubjects,
        *,
        books: QueueBooks,
        held: HeldMessages,
        timeout_ms: int,
        clock: Clock,
    ) -> None:
        self._jetstream = jetstream
        self._subjects = subjects
        self._books = books
        self._held = held
        self._timeout_ms = timeout_ms
        self._clock = clock

    async def peek(self, queue: str, after: tuple[int, int] | None, limit: int) -> list[QueuedMessage]:
        """In order of hand-out, behind a rank and a sequence. Raises: EngineUnavailable."""
        ordered = self._books.settings(queue).ordered
        ranks = [0] if ordered else range(len(PLAIN_LANES))
        found: list[QueuedMessage] = []
        for rank in ranks:
            if after is not None and rank < after[0]:
                continue
            seq = after[1] + 1 if after is not None and rank == after[0] else 1
            subject_filter = self._subjects.undone(queue, priority=None if ordered else int(PLAIN_LANES[rank]))
            await self._read_rank(queue, subject_filter, rank, seq, found, limit)
            if len(found) == limit:
                break
        return found

    async def _read_rank(
        self, queue: str, subject_filter: str, rank: int, seq: int, found: list[QueuedMessage], limit: int
    ) -> None:
        while len(found) < limit:
            page = await self._read(subject_filter, seq, min(_PAGE_MAX, limit - len(found)))
            now_ms = self._clock.now_ms()
            for stored in page.messages:
                head = decode_head(stored.headers)
                if head is not None and (head.expires_at_ms is None or head.expires_at_ms > now_ms):
                    found.append(head.message(queue, stored.data, f"{rank}.{stored.seq}"))
            if not page.more:
                return
            seq = page.messages[-1].seq + 1

    async def depth(self, queues: Sequence[str]) -> list[QueueDepth]:
        """Raises: EngineUnavailable."""
        found: list[QueueDepth] = []
        for begin in range(0, len(queues), _TOGETHER_MAX):
            found += await self._depths(queues[begin : begin + _TOGETHER_MAX])
        return found

    async def names(self, after: str | None, limit: int) -> list[str]:
        """Of queues that were configured or hold messages, ordered. Raises: EngineUnavailable."""
        names = set(self._books.configured())
        for subject_filter in (self._subjects.all_messages, self._subjects.all_schedules):
            subjects = await read_subjects(self._jetstream, self._subjects.stream, subject_filter)
            names.update(map(queue_of, subjects))
        return sorted(name for name in names if after is None or name > after)[:limit]

    async def _depths(self, queues: Sequence[str]) -> list[QueueDepth]:
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._depth(queue)) for queue in queues]
        except* MeshwayError as failures:
            failure = failures.exceptions[0]
        if failure is not None:
            raise failure
        return [task.result() for task in tasks]

    async def _depth(self, queue: str) -> QueueDepth:
        subjects = self._subjects
        counts = await read_subjects(self._jetstream, subjects.stream, subjects.messages(queue))
        undone = sum(counts.values())
        held = min(undone, await self._count_held(queue)) if undone else 0
        delayed = await self._count(subjects.schedules(queue))
        dead = await self._count(subjects.dead_letters(queue))
        return QueueDepth(waiting=undone - held, held=held, delayed=delayed, dead=dead)

    async def _count_held(self, queue: str) -> int:
        """Handed out and not done, less those of this hub that are due again: the servers count them as held."""
        lanes = ORDERED_LANES if self._books.settings(queue).ordered else PLAIN_LANES
        verb = f"CONSUMER.INFO.{self._subjects.stream}."
        answers = await self._jetstream.api_all([(verb + self._subjects.consumer(queue, lane), None) for lane in lanes])
        pending = sum(answer.num_ack_pending for answer in answers if isinstance(answer, ApiAnswer))
        ended_ms = self._clock.now_ms() - _HANDED_OUT_AGAIN_MS
        due = sum(1 for held in self._held.of_queue(hash_of(queue)) if held.until_ms <= ended_ms)
        return max(0, pending - due)

    async def _count(self, subject_filter: str) -> int:
        page = await self._read(subject_filter, 1, 1)
        return len(page.messages) + page.more

    async def _read(self, subject_filter: str, seq: int, limit: int) -> Page:
        body = {"next_by_subj": subject_filter, "seq": seq, "batch": limit}
        return await read_patiently(self._jetstream, self._subjects.stream, body, within_ms=self._timeout_ms)
