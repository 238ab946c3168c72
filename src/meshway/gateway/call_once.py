"""Relay a message to its agent once, however often it is sent under one key; without a key, each time."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from meshway.gateway.accept_once import key_of
from meshway.gateway.inbox_calls import follow_until_end
from meshway.gateway.ports import AgentCall, AgentReply, AgentStream, CoreReply, StreamEvent, TaskStream
from meshway.gateway.recorded_calls import RecordedCalls
from meshway.gateway.relay_call import RelayCall
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import (
    DeadlineExceeded,
    MeshwayError,
    TaskNotFound,
    UpstreamError,
    UpstreamInvalid,
    UpstreamUnreachable,
)
from meshway.kernel.ids import TaskId
from meshway.kernel.operations import AgentOperation
from meshway.registry.values import Agent
from meshway.tasks.flights import Begun, Conflicting, Flight, Joined, KeyedRequest, Unknown
from meshway.tasks.idempotency import IdempotencyKeys, content_digest
from meshway.tasks.values import TaskOwner

__all__ = ["CallOnce"]

_SENDING = frozenset({AgentOperation.SEND_MESSAGE, AgentOperation.STREAM_MESSAGE})
_HEADER = b"idempotency-key"
_Found = TypeVar("_Found")


class CallOnce:
    """Around the relay; what the agent said is given again to whoever comes with the key."""

    def __init__(self, relay: RelayCall, recorded: RecordedCalls, keys: IdempotencyKeys, places: TaskPlaces) -> None:
        self._relay = relay
        self._recorded = recorded
        self._keys = keys
        self._places = places

    async def execute(
        self, agent: Agent, call: AgentCall, owner: TaskOwner | None
    ) -> AgentReply | AgentStream | CoreReply | TaskStream:
        """Raises: IdempotencyKeyReused, UpstreamBroken (nobody knows how the first one ended), and as the relay."""
        if call.operation not in _SENDING or (call.idempotency_key is None and not agent.settings.dedupe_messages):
            return await self._relay.execute(agent, call, owner)
        terms = call.reader.send_terms()
        digest = content_digest(agent.id, call.operation.value, terms.message + b"\n" + (terms.metadata or b""))
        key = key_of(
            call.idempotency_key,
            message_id=terms.message_id,
            digest=digest,
            dedupes=agent.settings.dedupe_messages,
        )
        if key is None:
            return await self._relay.execute(agent, call, owner)
        keyed = KeyedRequest(principal_id=call.principal.id, key=key, content_digest=digest)
        # Another hub may be at it, and is waited for.
        found = await self._in_time(lambda: self._keys.begin(keyed), call)
        match found:
            case Begun():
                return await self._act(agent, call, owner, found.flight)
            case Joined():
                return await self._join(agent, call, found)
            case Conflicting() | Unknown():
                raise found.error()

    async def _act(
        self, agent: Agent, call: AgentCall, owner: TaskOwner | None, flight: Flight
    ) -> AgentReply | AgentStream:
        call.wants_core = True
        if call.idempotency_key is not None:
            call.headers = (*call.headers, (_HEADER, call.idempotency_key.encode("ascii")))
        try:
            answer = await self._relay.execute(agent, call, owner)
        except UpstreamError as error:
            if isinstance(error, UpstreamUnreachable) or not error.may_have_acted:
                await self._keys.abandon(flight, error)
            else:
                self._keys.lose(flight)
            raise
        except MeshwayError as error:
            await self._keys.abandon(flight, error)
            raise
        except asyncio.CancelledError:
            self._keys.lose(flight)
            raise
        if isinstance(answer, AgentReply):
            if answer.task is not None:
                await self._keys.remember_task(flight, answer.task.task_id)
            if answer.core is not None:
                await self._keys.finish(flight, answer.core)
            else:
                # Its error is for the one who got it; who comes later may do better.
                text = f"Agent {agent.id!r} answered the same request with an error."
                await self._keys.abandon(flight, UpstreamInvalid(text, agent=agent.id, may_have_acted=True))
        else:
            answer.events = self._noticing(answer.events, flight)
        return answer

    async def _noticing(
        self, events: AsyncGenerator[StreamEvent, None], flight: Flight
    ) -> AsyncGenerator[StreamEvent, None]:
        """The events of a stream; whose task it is, is known with the first of them."""
        try:
            async for event in events:
                if event.task is not None and flight.task_id is None:
                    await self._keys.remember_task(flight, event.task.task_id)
                    await self._keys.finish(flight, None)
                yield event
        finally:
            # Nothing where it was finished. A stream of a message is not kept: it cannot be given again.
            self._keys.lose(flight)
            await events.aclose()

    async def _join(self, agent: Agent, call: AgentCall, joined: Joined) -> AgentReply | CoreReply | TaskStream:
        streams = call.operation is AgentOperation.STREAM_MESSAGE
        if joined.flight is not None:
            found = await self._in_time(joined.flight.wait_task if streams else joined.flight.wait_over, call)
            if isinstance(found, Unknown):
                raise found.error()
            joined = found
        if joined.task_id is not None:
            again = await self._task_again(agent, call, joined.task_id)
            if again is not None:
                return again
        if joined.answer is None:
            raise TaskNotFound("This request was answered before, and its answer was not kept.")
        return CoreReply(joined.answer)

    async def _in_time(self, wait: Callable[[], Awaitable[_Found]], call: AgentCall) -> _Found:
        deadline = call.deadline
        try:
            async with asyncio.timeout_at(None if deadline is None else deadline.at_ms / 1000):
                return await wait()
        except TimeoutError:
            wait_ms = 0 if deadline is None else deadline.timeout_ms
            raise DeadlineExceeded(
                f"The request that came first with this key was not answered within {wait_ms} ms.", may_have_acted=True
            ) from None

    async def _task_again(self, agent: Agent, call: AgentCall, task_id: TaskId) -> CoreReply | TaskStream | None:
        owner = await self._places.tasks.owners.owner_of(agent.id, task_id)
        if owner is None:
            return None
        if call.operation is AgentOperation.STREAM_MESSAGE:
            track = await self._recorded.attach(owner)
            return TaskStream(follow_until_end(self._places, track, after=0, outlet=call.outlet), task_id=task_id)
        try:
            return CoreReply(b'{"task":%b}' % await self._recorded.get(owner))
        except UpstreamError:
            # What was kept then is better than nothing.
            return None
