"""Dead letters on their way back: chunk by chunk, at once or at a rate, and those that go on in the background.

A redrive of all takes what was there when it began: it counts that, and begins with the oldest, so what dies again
meanwhile comes after and is left alone.
"""

import asyncio
import logging
from collections.abc import Sequence

from meshway.engine.ports import DeadLetter, QueueAdmin
from meshway.kernel.clock import Clock
from meshway.kernel.errors import CapacityReached, Draining, MeshwayError

__all__ = ["RedriveJob", "Redrives", "redrive_at_once"]

_log = logging.getLogger(__name__)

# Redrives that go on at a time: each is a promise to keep pace, and an operator who has more has lost sight of them.
_JOBS_MAX = 100
_FULL_RETRY_AFTER_MS = 60_000
# Messages of one engine call: others' writes wait for no more.
_CHUNK_MAX = 500
# Dead letters are read whole to learn their ids; large ones must not fill the memory.
_READ_MAX = 50
# At a rate, so many chunks a second at most: fewer are uneven, more are idle work.
_TICKS_PER_S = 10
# How long the engine may refuse before a redrive gives up, tried in this rhythm; what is left stays where it is.
_WAITS_S = (0.5, 1.0, 2.0, 5.0, 10.0)


class RedriveJob:
    """What is to be done: the last `left` of `ids`, or, where they are None, the `left` oldest of before `until_ms`."""

    __slots__ = ("done", "ids", "left", "queue", "rate_per_s", "until_ms")

    def __init__(
        self, queue: str, *, ids: Sequence[str] | None, left: int, until_ms: int, rate_per_s: float | None
    ) -> None:
        self.queue = queue
        self.ids = None if ids is None else tuple(ids)
        self.left = left
        self.until_ms = until_ms
        self.rate_per_s = rate_per_s
        self.done = 0


async def redrive_at_once(queue_admin: QueueAdmin, job: RedriveJob) -> int:
    """Do the whole job now; how many went back. Raises: StorageFull, EngineUnavailable, with the rest left."""
    while await _redrive_chunk(queue_admin, job, _CHUNK_MAX):
        pass
    return job.done


class Redrives:
    """Redrives that outlive their request, one owner for all. Used from the event loop only.

    A hub that stops leaves the rest among the dead letters; its log says how far each came.
    """

    def __init__(self, queue_admin: QueueAdmin, *, clock: Clock) -> None:
        self._queue_admin = queue_admin
        self._clock = clock
        self._jobs: dict[RedriveJob, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def __len__(self) -> int:
        """Jobs under way."""
        return len(self._jobs)

    async def run(self) -> None:
        """The duty: owns the jobs until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                # Jobs come and go; the owner stays.
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None

    def start(self, job: RedriveJob) -> None:
        """Go on with a job in the background. One of all of a queue takes the place of an earlier one of all of it.

        Raises: CapacityReached, Draining.
        """
        if self._group is None:
            raise Draining("This hub is starting or shutting down and begins no redrive; try again, at another hub.")
        before = next((each for each in self._jobs if job.ids is each.ids is None and each.queue == job.queue), None)
        if before is not None:
            self._jobs.pop(before).cancel()
        if len(self._jobs) >= _JOBS_MAX:
            text = (
                f"This hub carries out {_JOBS_MAX} redrives already, as many as it takes; try again when one is done."
            )
            raise CapacityReached(text, retry_after_ms=_FULL_RETRY_AFTER_MS)
        task = self._group.create_task(self._carry_out(job), name=f"meshway-redrive-{job.queue}")
        self._jobs[job] = task

    async def _carry_out(self, job: RedriveJob) -> None:
        _log.info("redrive_started", extra={"queue": job.queue, "messages": job.left, "rate_per_s": job.rate_per_s})
        try:
            await self._go_on(job)
            _log.info("redrive_done", extra={"queue": job.queue, "messages": job.done})
        except asyncio.CancelledError:
            _log.info("redrive_stopped", extra={"queue": job.queue, "messages": job.done, "left": job.left})
            raise
        except MeshwayError as error:
            facts = {"queue": job.queue, "messages": job.done, "left": job.left, "reason": error.detail}
            _log.warning("redrive_failed", extra=facts)
        except Exception as error:  # noqa: BLE001 - boundary: a defect in one job must not end the others, nor the hub
            _log.exception("redrive_failed", extra={"queue": job.queue, "messages": job.done, "reason": repr(error)})
        finally:
            self._jobs.pop(job, None)

    async def _go_on(self, job: RedriveJob) -> None:
        """Chunk after chunk, at a rate with waits between them. Raises: StorageFull, EngineUnavailable."""
        rate = job.rate_per_s
        size = _CHUNK_MAX if rate is None else max(1, min(_CHUNK_MAX, int(rate / _TICKS_PER_S)))
        due_ms = self._clock.monotonic_ms()
        while await self._chunk(job, size):
            if rate is not None:
                # From when this chunk was due, so that late wake-ups do not add up; after a long wait for the engine
                # from now, so that there is no rush to make up for it.
                now_ms = self._clock.monotonic_ms()
                due_ms = max(due_ms, now_ms - 1000 / _TICKS_PER_S) + 1000 * size / rate
                await asyncio.sleep(max(0.0, due_ms - now_ms) / 1000)

    async def _chunk(self, job: RedriveJob, size: int) -> bool:
        """One chunk, with patience for an engine that is away. Raises: StorageFull, EngineUnavailable."""
        for wait_s in _WAITS_S:
            try:
                return await _redrive_chunk(self._queue_admin, job, size)
            except MeshwayError as error:
                _log.debug("redrive_postponed", extra={"queue": job.queue, "reason": error.detail})
            await asyncio.sleep(wait_s)
        return await _redrive_chunk(self._queue_admin, job, size)


async def _redrive_chunk(queue_admin: QueueAdmin, job: RedriveJob, size: int) -> bool:
    """Redrive up to `size`; False when nothing is left. What fails is still left."""
    size = min(size, job.left)
    if size <= 0:
        return False
    if job.ids is not None:
        ids: Sequence[str] = job.ids[-job.left :][:size]
    else:
        oldest = await queue_admin.dead_letters(job.queue, limit=min(size, _READ_MAX))
        ids = _ids_until(oldest, job.until_ms)
    if not ids:
        return False
    outcomes = await queue_admin.redrive(job.queue, ids)
    job.done += sum(outcomes)
    job.left -= len(ids)
    return job.left > 0


def _ids_until(letters: Sequence[DeadLetter], until_ms: int) -> Sequence[str]:
    return [letter.message.message_id for letter in letters if letter.dead_at_ms <= until_ms]
