"""A request under an idempotency key while it is under way at this hub, and what a caller with the key can meet."""

import asyncio
import copy
from dataclasses import dataclass

from meshway.kernel.errors import FieldError, IdempotencyKeyReused, MeshwayError, UpstreamBroken
from meshway.kernel.ids import PrincipalId, TaskId

__all__ = ["Begun", "Conflicting", "Flight", "Joined", "KeyedRequest", "Unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequest:
    """A request with a key. `content_digest` covers agent, method and params.

    `task_id`: the task that the hub makes for it, where the hub does; None where the agent names its tasks.
    """

    principal_id: PrincipalId
    key: str
    content_digest: str
    task_id: TaskId | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """Nobody was here before: act, and end the flight."""

    flight: "Flight"


@dataclass(frozen=True, slots=True)
class Joined:
    """It is being done, or was. `answer` is None where it is not known or was not kept.

    `flight` is there where it is under way at this hub: wait for it. Without one, go by the task. Where the task of
    the hub's own making does not exist, the hub died between the key and the task: make it, with this id.
    """

    task_id: TaskId | None
    answer: bytes | None
    is_running: bool
    flight: "Flight | None" = None


@dataclass(frozen=True, slots=True)
class Conflicting:
    """The key came before, with another request."""

    key: str

    def error(self) -> IdempotencyKeyReused:
        """What the caller is told."""
        text = "was used before with another request; use a fresh key for each request, the same one for its retries"
        return IdempotencyKeyReused(f"Idempotency-Key: {text}", fields=[FieldError("Idempotency-Key", text)])


@dataclass(frozen=True, slots=True)
class Unknown:
    """It was begun and nobody knows how it ended: the hub died meanwhile, or another hub is at it."""

    begun_at_ms: int

    def error(self) -> UpstreamBroken:
        """What the caller is told."""
        text = (
            "This request was begun before, and the hub lost sight of it; the agent may have acted. Look at what it "
            "did, and use a fresh Idempotency-Key to ask again."
        )
        return UpstreamBroken(text, may_have_acted=True)


class Flight:
    """From the first caller with a key to the end of what it asked for. Any number may wait; each bounds its wait."""

    def __init__(self, name: str, task_id: TaskId | None, begun_at_ms: int) -> None:
        self.name = name
        self.task_id = task_id
        self.answer: bytes | None = None
        self.error: MeshwayError | None = None
        self._begun_at_ms = begun_at_ms
        self._is_lost = False
        self._begun = asyncio.Event()
        self._task_known = asyncio.Event()
        self._over = asyncio.Event()
        if task_id is not None:
            self._task_known.set()

    async def wait_task(self) -> Joined | Unknown:
        """Until its task is known, or it is over. Raises: the error with which it was abandoned."""
        await self._task_known.wait()
        return self._outcome()

    async def wait_over(self) -> Joined | Unknown:
        """Until it is over. Raises: the error with which it was abandoned."""
        await self._over.wait()
        return self._outcome()

    async def wait_begun(self) -> None:
        """Until it is recorded, or will not be."""
        await self._begun.wait()

    def joined(self) -> Joined:
        """The present state, for a caller that comes later."""
        is_over = self._over.is_set()
        return Joined(self.task_id, self.answer, is_running=not is_over, flight=self)

    def _outcome(self) -> Joined | Unknown:
        if self.error is not None:
            # Each of those who wait has a traceback of its own.
            raise copy.copy(self.error)
        if self._is_lost and self.task_id is None:
            return Unknown(self._begun_at_ms)
        return self.joined()

    # Told by IdempotencyKeys only.

    def set_begun(self) -> None:
        self._begun.set()

    def set_task(self, task_id: TaskId) -> None:
        self.task_id = task_id
        self._task_known.set()

    def finish(self, answer: bytes | None) -> None:
        self.answer = answer
        self._end()

    def fail(self, error: MeshwayError) -> None:
        self.error = error
        self._end()

    def lose(self) -> None:
        self._is_lost = True
        self._end()

    def _end(self) -> None:
        self._task_known.set()
        self._over.set()
