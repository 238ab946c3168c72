"""Clients of tasks that write down what they see: those of the SDK, and stock ones that come back by hand."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
from a2a.client import Client
from a2a.client.errors import A2AClientError
from a2a.helpers.proto_helpers import get_artifact_text
from a2a.types import GetTaskRequest, StreamResponse, SubscribeToTaskRequest, Task, TaskState
from a2a.utils.errors import UnsupportedOperationError

from meshway.client import EventKind, StreamEvent
from support.sdk_client import ask
from support.task_judge import SeenEvent, SnapshotEvent

__all__ = ["FollowedTask", "StockFollower", "followed", "seen_of", "until"]

# Nothing a test waits for takes longer; what does is a failure, not a slow machine.
_PATIENCE_S = 20.0
# Between two tries of a stock client to reach a hub that is away.
_PAUSE_S = 0.1


async def until(condition: Callable[[], bool], *, within_s: float = _PATIENCE_S) -> None:
    """Ask until the answer is yes; questions to another process are asked in a thread by `condition`'s own means."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.02)


def seen_of(event: StreamEvent) -> SeenEvent:
    assert event.event_id is not None
    number, kind = int(event.event_id), event.kind.value
    if event.kind is EventKind.ARTIFACT:
        return SeenEvent(number, kind, event.text, append=event.append)
    text = event.text if event.kind is EventKind.TASK else ""
    return SeenEvent(number, kind, text, state=event.state, attempt=_attempt_of(event))


def _attempt_of(event: StreamEvent) -> int | None:
    update = event.raw.get("statusUpdate")
    facts = update.get("metadata") if isinstance(update, dict) else None
    attempt = facts.get("attempt") if isinstance(facts, dict) and "attemptFailed" not in facts else None
    return attempt if isinstance(attempt, int) else None


@dataclass
class FollowedTask:
    """What a client has seen of one stream so far."""

    events: list[SeenEvent] = field(default_factory=list)
    task_id: str = ""

    @property
    def chunks(self) -> int:
        return sum(event.kind == "artifact" for event in self.events)

    @property
    def attempts(self) -> list[int]:
        """Those that were announced."""
        return [event.attempt for event in self.events if event.attempt is not None]

    async def read(self, stream: AsyncIterator[StreamEvent]) -> None:
        async for event in stream:
            self.task_id = event.task_id or self.task_id
            self.events.append(seen_of(event))

    async def until_chunks(self, count: int) -> None:
        await until(lambda: self.chunks >= count)


@asynccontextmanager
async def followed(stream: AsyncIterator[StreamEvent], *, within_s: float = 40) -> AsyncIterator[FollowedTask]:
    """Read while the block runs; the block ends when the stream has."""
    seen = FollowedTask()
    async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
        group.create_task(seen.read(stream))
        yield seen


@dataclass
class StockFollower:
    """A program with the a2a-sdk: it asks once, and subscribes by hand each time its stream breaks."""

    client: Client
    events: list[SnapshotEvent] = field(default_factory=list)
    task_id: str = ""
    subscriptions: int = 0

    @property
    def has_ended(self) -> bool:
        return any(event.is_terminal for event in self.events)

    async def follow(self, text: str, *, leaves_after: int | None = None) -> None:
        """`leaves_after`: so many chunks of its first stream, and it comes back."""
        with suppress(A2AClientError, httpx.HTTPError):
            await self._read(ask(self.client, text), chunks_max=leaves_after)
        while not self.has_ended:
            assert self.task_id, "a stream that broke before its first event cannot be found again"
            try:
                self.subscriptions += 1
                await self._read(self.client.subscribe(SubscribeToTaskRequest(id=self.task_id)))
            except UnsupportedOperationError:
                # It ended while nobody listened.
                self._note_task(await self.client.get_task(GetTaskRequest(id=self.task_id)))
            except (A2AClientError, httpx.HTTPError):
                await asyncio.sleep(_PAUSE_S)

    async def _read(self, stream: AsyncIterator[StreamResponse], *, chunks_max: int | None = None) -> None:
        async with aclosing(stream):
            async for event in stream:
                self._note(event)
                if chunks_max is not None and sum(each.kind == "artifact" for each in self.events) >= chunks_max:
                    return

    def _note(self, event: StreamResponse) -> None:
        if event.HasField("task"):
            self._note_task(event.task)
        elif event.HasField("artifact_update"):
            update = event.artifact_update
            self.events.append(SnapshotEvent("artifact", get_artifact_text(update.artifact, ""), append=update.append))
        elif event.HasField("status_update"):
            state = TaskState.Name(event.status_update.status.state)
            self.events.append(SnapshotEvent("status", state=state))

    def _note_task(self, task: Task) -> None:
        self.task_id = task.id
        text = "".join(get_artifact_text(artifact, "") for artifact in task.artifacts)
        self.events.append(SnapshotEvent("task", text, state=TaskState.Name(task.status.state)))
