"""`GET /v1/tasks/{task}/events`: a task's numbered events as server-sent events, from a number on, to its end."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing

from starlette.responses import Response

from meshway.edges.http.problems import render_problem
from meshway.edges.rest.event_stream import EventStreamResponse
from meshway.edges.rest.operations import RestCall
from meshway.edges.rest.task_models import TaskEventsQuery
from meshway.gateway.inbox_calls import event_number
from meshway.gateway.ports import TaskStream
from meshway.kernel.errors import MeshwayError
from meshway.kernel.ids import TaskId
from meshway.protocols.sse import frame
from meshway.tasks.values import TaskEvent

__all__ = ["follow_task"]

# What a feed may still show after its key was revoked; the same as on a WebSocket.
_KEY_CHECK_INTERVAL_S = 5.0
# Written at once: many small events cost one write, and a slow reader holds little.
_WRITE_BYTES_MAX = 65_536


async def follow_task(call: RestCall) -> Response:
    asked = call.query(TaskEventsQuery)
    # Proxies and browsers may send the header empty, which resumes nothing.
    last_event_id = call.request.headers.get("last-event-id") or None
    after = asked.after if last_event_id is None else event_number(last_event_id)
    call.followers.enter()
    try:
        stream = await call.services.tasks.follow.execute(call.principal, TaskId(call.path("task")), after=after)
    except BaseException:
        call.followers.leave()
        raise
    return EventStreamResponse(
        _frames(stream, _key_check(call)),
        keep_alive_ms=call.settings.watch_keep_alive_ms,
        shutdown=call.services.status.shutdown,
        on_end=call.followers.leave,
    )


async def _frames(stream: TaskStream, still_welcome: Callable[[], None]) -> AsyncGenerator[bytes, None]:
    """An error after the head becomes an `error` event with its problem document, and ends the stream."""
    async with aclosing(stream):
        try:
            async for events in stream.events:
                still_welcome()
                for piece in _pieces(events):
                    yield piece
        except MeshwayError as error:
            yield frame(render_problem(error).body, event=b"error")


def _pieces(events: Sequence[TaskEvent]) -> Iterator[bytes]:
    """Framed and joined to pieces of bounded size; an event is never cut."""
    waiting: list[bytes] = []
    size = 0
    for event in events:
        framed = frame(event.body, id=b"%d" % event.number)
        if waiting and size + len(framed) > _WRITE_BYTES_MAX:
            yield b"".join(waiting)
            waiting, size = [], 0
        waiting.append(framed)
        size += len(framed)
    if waiting:
        yield b"".join(waiting)


def _key_check(call: RestCall) -> Callable[[], None]:
    """Whether the key that opened the feed still holds; asked with each batch, looked up now and then."""
    loop, headers, principal_of = asyncio.get_running_loop(), call.request.headers.raw, call.services.principal_of
    looked_at = loop.time()

    def check() -> None:
        nonlocal looked_at
        now = loop.time()
        if now - looked_at >= _KEY_CHECK_INTERVAL_S:
            looked_at = now
            principal_of(headers)

    return check
