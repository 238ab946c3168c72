"""`GET /v1/agents/watch`: the registry's changes as server-sent events.

Events are `changed` (data: the agent's present value), `removed` (data: its id) and `reset`: what the reader knew is
void, every present agent follows. `id` resumes after an event, by `Last-Event-ID`.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.responses import Response

from meshway.edges.rest.event_stream import EventStreamResponse
from meshway.edges.rest.models import AgentRemoved
from meshway.edges.rest.operations import RestCall
from meshway.edges.rest.views import InFlight, agent_view
from meshway.gateway.watch_agents import AgentWatched
from meshway.protocols.sse import frame
from meshway.registry.directory import PictureAnew

__all__ = ["watch_agents"]

_encode = msgspec.json.Encoder().encode
_RESET = frame(b"{}", event=b"reset")


async def watch_agents(call: RestCall) -> Response:
    # nginx and browsers may send the header empty, which resumes nothing.
    last_event_id = call.request.headers.get("last-event-id") or None
    call.watchers.enter()
    try:
        # The watch counts from here, so that nothing is missed between the answer's head and its first event.
        changes = call.services.agents.watch.execute(call.principal, last_event_id)
    except BaseException:
        call.watchers.leave()
        raise
    return EventStreamResponse(
        _frames(changes, call.services.agents.in_flight),
        keep_alive_ms=call.settings.watch_keep_alive_ms,
        shutdown=call.services.status.shutdown,
        on_end=call.watchers.leave,
    )


async def _frames(
    changes: AsyncGenerator[AgentWatched | PictureAnew, None], in_flight: InFlight
) -> AsyncGenerator[bytes, None]:
    async with aclosing(changes):
        async for change in changes:
            yield _RESET if isinstance(change, PictureAnew) else _frame(change, in_flight)


def _frame(change: AgentWatched, in_flight: InFlight) -> bytes:
    event_id = change.event_id.encode()
    if change.agent is None:
        return frame(_encode(AgentRemoved(id=change.agent_id)), id=event_id, event=b"removed")
    return frame(_encode(agent_view(change.agent, in_flight)), id=event_id, event=b"changed")
