"""Streams of task events that survive their connection: made again from where they broke, nothing twice.

The hub numbers the events of a task; so the last number seen is the place to go on from, and what comes with a number
that was seen already is dropped.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from meshway.client.errors import CallError, ConnectionLost, HubError, HubUnreachable
from meshway.client.link import Backoff, is_passing
from meshway.client.messages import EventKind, StreamEvent

__all__ = ["TASK_ENDS", "TURN_ENDS", "OpenStream", "StreamPosition", "resumed_stream"]

TASK_ENDS = frozenset({"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"})
# A stream that was begun by a message ends when the agent has a question, too.
TURN_ENDS = TASK_ENDS | {"TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED"}
# What a hub says that restarts; over JSON-RPC such answers have status 200.
_PASSING_CODES = frozenset({"draining", "engine_unavailable", "too_many_in_flight"})
# The task has ended, and there is nothing after the last event seen.
_NOTHING_FOLLOWS = -32004
# A connection that lasted so long was a good one, though no event came: longer than a silent hub is waited for.
_GOOD_CONNECTION_S = 30.0


@dataclass(slots=True)
class StreamPosition:
    """How far a stream came."""

    task_id: str | None = None
    last_event_id: str | None = None
    has_events: bool = False
    state: str | None = None

    @property
    def number(self) -> int | None:
        """Of the last event seen; None where events have no numbers."""
        text = self.last_event_id or ""
        return int(text) if text.isascii() and text.isdecimal() else None

    def has_seen(self, event: StreamEvent) -> bool:
        number = StreamPosition(last_event_id=event.event_id).number
        return number is not None and self.number is not None and number <= self.number

    def advance(self, event: StreamEvent) -> None:
        self.task_id = event.task_id or self.task_id
        self.last_event_id = event.event_id or self.last_event_id
        self.state = event.state or self.state
        if event.kind is EventKind.MESSAGE:
            # The whole answer, where there is no task.
            self.state = "TASK_STATE_COMPLETED"
        self.has_events = True


OpenStream = Callable[[StreamPosition], AsyncGenerator[StreamEvent, None] | None]


async def resumed_stream(
    open_stream: OpenStream, position: StreamPosition, *, ends: frozenset[str], timeout_s: float
) -> AsyncGenerator[StreamEvent, None]:
    """What `open_stream` gives, which is asked again from the new position each time the connection breaks.

    It gives None where the stream cannot go on. `ends`: states after which nothing comes. Raises: as the stream itself;
    ConnectionLost after `timeout_s` without an event.
    """
    attempts = _Attempts(position, ends, timeout_s)
    while (stream := open_stream(position)) is not None:
        attempts.begin()
        try:
            async with aclosing(_unseen(stream, position)) as events:
                async for event in events:
                    attempts.progress(event)
                    yield event
        except (HubUnreachable, HubError) as error:
            attempts.failure = error
        if attempts.is_over():
            return
        await asyncio.sleep(attempts.wait_s())
    if attempts.failure is not None:
        raise attempts.final_failure()


async def _unseen(
    stream: AsyncGenerator[StreamEvent, None], position: StreamPosition
) -> AsyncGenerator[StreamEvent, None]:
    async with aclosing(stream):
        async for event in stream:
            if not position.has_seen(event):
                yield event


class _Attempts:
    """Whether and when to connect again."""

    def __init__(self, position: StreamPosition, ends: frozenset[str], timeout_s: float) -> None:
        self.failure: HubUnreachable | HubError | None = None
        self._position = position
        self._ends = ends
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff()
        self._count = 0
        self._began_at = 0.0
        self._give_up_at = 0.0
        self._has_progressed = False

    def begin(self) -> None:
        self._count += 1
        self._began_at = self._loop.time()
        self._has_progressed = False
        self.failure = None

    def progress(self, event: StreamEvent) -> None:
        self._position.advance(event)
        self._has_progressed = True

    def is_over(self) -> bool:
        """The stream came to its end, as far as one can see. Raises: what no further attempt can help."""
        match self.failure:
            case None:
                # A hub that shuts down in order ends its streams in order; one that has more to say then says it.
                return self._position.number is None or self._position.state in TURN_ENDS
            case CallError(rpc_code=code) if code == _NOTHING_FOLLOWS and self._position.has_events:
                return True
            case HubError() as refusal:
                was_refused = self._count == 1 and not self._has_progressed
                if was_refused or not (is_passing(refusal) or refusal.code in _PASSING_CODES):
                    raise refusal
                return False
            case HubUnreachable():
                return self._position.state in self._ends

    def wait_s(self) -> float:
        """How long to wait before the next attempt. Raises: when it has been long enough."""
        now = self._loop.time()
        is_first = self._count == 1 and not self._has_progressed
        if is_first and self.failure is not None and not isinstance(self.failure, ConnectionLost):
            # There never was a hub.
            raise self.failure
        if self._count == 1 or self._has_progressed or now - self._began_at > _GOOD_CONNECTION_S:
            self._backoff.reset()
            self._give_up_at = now + self._timeout_s
        if now >= self._give_up_at:
            raise self.final_failure()
        return self._backoff.next_s()

    def final_failure(self) -> HubUnreachable | HubError:
        """The last failure, with the place from which somebody may go on."""
        failure = self.failure
        if isinstance(failure, HubError) or (failure is not None and not self._position.has_events):
            return failure
        return ConnectionLost(
            failure.detail if failure is not None else "The hub ended the stream before the task ended.",
            url=failure.url if failure is not None else "",
            task_id=self._position.task_id,
            last_event_id=self._position.last_event_id,
        )
