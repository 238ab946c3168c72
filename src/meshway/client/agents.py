"""The registry through the SDK: `client.agents`."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from urllib.parse import quote

import msgspec

from meshway.client.connection import HubConnection
from meshway.client.errors import HubUnreachable, UnexpectedAnswer
from meshway.client.values import AgentChange, AgentInstance, Page, RegisteredAgent
from meshway.protocols.sse import SseEvent

__all__ = ["AgentsApi"]

# A watch that lost its hub asks again after this long, doubled each time up to the second figure, with jitter.
_RECONNECT_INITIAL_S = 0.2
_RECONNECT_MAX_S = 5.0


class _WireRemoved(msgspec.Struct):
    id: str


class AgentsApi:
    """Registering, finding and operating agents. Every method raises the errors of `meshway.client.errors`."""

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    async def list(
        self,
        *,
        tag: str | None = None,
        skill: str | None = None,
        label: str | None = None,
        state: str | None = None,
        q: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[RegisteredAgent]:
        """One page of the agents that match every filter given; `q` searches names, descriptions and skills, best
        first. `label` is `key=value`; `state` online, suspect, draining or offline."""
        filters = {
            "tag": tag,
            "skill": skill,
            "label": label,
            "state": state,
            "q": q,
            "limit": None if limit is None else str(limit),
            "cursor": cursor,
        }
        params = {name: value for name, value in filters.items() if value is not None}
        return await self._connection.request("GET", "/v1/agents", Page[RegisteredAgent], params=params)

    async def get(self, agent_id: str) -> RegisteredAgent:
        """Raises: HubError `agent_not_found`."""
        return await self._connection.request("GET", _path(agent_id), RegisteredAgent)

    async def register(
        self,
        agent_id: str,
        *,
        url: str | None = None,
        card: Mapping[str, object] | None = None,
        labels: Mapping[str, str] | None = None,
        capacity: int | None = None,
        weight: int | None = None,
        settings: Mapping[str, object] | None = None,
        credential: str | None = None,
    ) -> RegisteredAgent:
        """Register by `url` (the hub fetches the card) or by `card` (never probed). Registering again replaces.

        Raises: HubError `upstream_unreachable` when nobody answers at `url`, `invalid_request` naming each field.
        """
        fields = {
            "url": url,
            "card": card,
            "labels": labels,
            "capacity": capacity,
            "weight": weight,
            "settings": settings,
            "credential": credential,
        }
        body = {"id": agent_id, **{name: value for name, value in fields.items() if value is not None}}
        return await self._connection.request("POST", "/v1/agents", RegisteredAgent, body=body)

    async def update(self, agent_id: str, changes: Mapping[str, object]) -> RegisteredAgent:
        """PATCH: only what `changes` names changes; a value of None removes a setting."""
        return await self._connection.request("PATCH", _path(agent_id), RegisteredAgent, body=dict(changes))

    async def remove(self, agent_id: str) -> None:
        """Forget the agent and all its instances."""
        await self._connection.request("DELETE", _path(agent_id), type(None))

    async def drain(self, agent_id: str, *, instance: str | None = None) -> RegisteredAgent:
        """Send no new calls; follow-ups of running tasks still arrive."""
        return await self._connection.request("POST", _path(agent_id, instance, "drain"), RegisteredAgent)

    async def resume(self, agent_id: str, *, instance: str | None = None) -> RegisteredAgent:
        """Undo `drain`."""
        return await self._connection.request("DELETE", _path(agent_id, instance, "drain"), RegisteredAgent)

    async def heartbeat(
        self,
        agent_id: str,
        *,
        instance: str | None = None,
        in_flight: int | None = None,
        ttl_ms: int | None = None,
    ) -> AgentInstance:
        """Say that an instance (the only one, unless named) is alive for `ttl_ms` more; its lease is in the answer."""
        fields = {"instance": instance, "in_flight": in_flight, "ttl_ms": ttl_ms}
        body = {name: value for name, value in fields.items() if value is not None}
        return await self._connection.request("POST", _path(agent_id, None, "heartbeat"), AgentInstance, body=body)

    async def add_instance(
        self,
        agent_id: str,
        url: str,
        *,
        instance: str | None = None,
        labels: Mapping[str, str] | None = None,
        capacity: int | None = None,
        weight: int | None = None,
    ) -> AgentInstance:
        """One more replica behind the same name; it must answer. The same id again replaces that instance."""
        fields = {"id": instance, "labels": labels, "capacity": capacity, "weight": weight}
        body = {"url": url, **{name: value for name, value in fields.items() if value is not None}}
        return await self._connection.request("POST", _path(agent_id, None, "instances"), AgentInstance, body=body)

    async def remove_instance(self, agent_id: str, instance: str) -> None:
        """Forget one replica."""
        await self._connection.request("DELETE", _path(agent_id, instance), type(None))

    async def watch(self, *, after: str | None = None) -> AsyncIterator[AgentChange]:
        """Every change of the registry, for ever, beginning with the present agents, or after event id `after`.

        A lost connection is made again and goes on where it was, so nothing that changed is missed; see AgentChange
        for `reset`. Only the first connect raises HubUnreachable; refusals always raise.
        """
        last_event_id = after
        is_connected = False
        is_followed = after is not None
        delay_s = _RECONNECT_INITIAL_S
        while True:
            try:
                async for change in self._watch_once(last_event_id):
                    is_connected = True
                    delay_s = _RECONNECT_INITIAL_S
                    if change is None:
                        continue
                    last_event_id = change.event_id or last_event_id
                    # Whoever knows nothing yet has nothing to forget.
                    if is_followed or change.kind != "reset":
                        yield change
                    is_followed = True
            except HubUnreachable:
                if not is_connected:
                    raise
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter, not a secret)
            delay_s = min(delay_s * 2, _RECONNECT_MAX_S)

    async def _watch_once(self, last_event_id: str | None) -> AsyncIterator[AgentChange | None]:
        """Changes of one connection; None first, when it stands."""
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        async with self._connection.exchange("GET", "/v1/agents/watch", headers=headers) as response:
            if not response.is_success:
                raise self._connection.refusal(response, await self._connection.read(response))
            yield None
            async for event in self._connection.events(response):
                try:
                    change = _change(event)
                except msgspec.MsgspecError as error:
                    raise UnexpectedAnswer(
                        f"The hub sent a change this SDK cannot read: {error}", url=self._connection.url
                    ) from error
                if change is not None:
                    yield change


def _change(event: SseEvent) -> AgentChange | None:
    """None for kinds of events that a newer hub may add."""
    event_id = None if event.id is None else event.id.decode()
    if event.event == b"removed":
        removed = msgspec.json.decode(event.data, type=_WireRemoved)
        return AgentChange(kind="removed", agent_id=removed.id, event_id=event_id)
    if event.event == b"reset":
        return AgentChange(kind="reset", event_id=event_id)
    if event.event == b"changed":
        agent = msgspec.json.decode(event.data, type=RegisteredAgent)
        return AgentChange(kind="changed", agent_id=agent.id, agent=agent, event_id=event_id)
    return None


def _path(agent_id: str, instance: str | None = None, verb: str | None = None) -> str:
    steps: Sequence[str] = [quote(agent_id, safe="")]
    if instance is not None:
        steps = [*steps, "instances", quote(instance, safe="")]
    if verb is not None:
        steps = [*steps, verb]
    return "/v1/agents/" + "/".join(steps)
