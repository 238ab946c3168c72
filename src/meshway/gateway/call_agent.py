"""A client calls an agent: find the instance, let the transport speak to it, remember whose task it was.

The relay path. It makes no engine round trip except the owner record of an answer that shows a task for the first time,
and that is written before the caller sees the task's id.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from meshway.gateway.admission import Admission
from meshway.gateway.ports import AgentCall, AgentReply, AgentStream, AgentTransport, StreamEvent
from meshway.gateway.settings import GatewaySettings
from meshway.kernel.clock import Clock
from meshway.kernel.deadline import Deadline
from meshway.kernel.errors import (
    AgentNotFound,
    FieldError,
    InvalidRequest,
    TaskNotFound,
    UpstreamBroken,
    UpstreamError,
    UpstreamUnreachable,
)
from meshway.kernel.ids import InstanceId
from meshway.kernel.operations import AgentOperation
from meshway.registry.directory import Directory
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.values import Agent, Instance
from meshway.routing.balancer import Balancer
from meshway.tasks.owners import TaskOwners
from meshway.tasks.values import TaskOwner, TaskSeen

__all__ = ["CallAgent", "CallPlaces"]

# A probe looks for an agent that is away once a second (registry.probe_retry_ms).
_UNREACHABLE_RETRY_AFTER_MS = 1_000
# Compared for each call: a member of an enum class costs more to reach, and to hash, than a name of the module.
_STREAM_MESSAGE, _SUBSCRIBE_TASK = AgentOperation.STREAM_MESSAGE, AgentOperation.SUBSCRIBE_TASK
_NONE_TRIED: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CallPlaces:
    """The rooms a call passes through."""

    directory: Directory
    balancer: Balancer
    owners: TaskOwners
    presence: PresenceTracker
    admission: Admission
    transport: AgentTransport


class CallAgent:
    """One use case, for every operation that an agent itself answers."""

    def __init__(self, places: CallPlaces, *, clock: Clock, settings: GatewaySettings) -> None:
        self._places = places
        self._clock = clock
        self._settings = settings

    async def execute(self, call: AgentCall, *, timeout_ms: int | None) -> AgentReply | AgentStream:
        """Call the agent; the answer is in the caller's dialect.

        `timeout_ms` is what the caller asked for, None: the agent's setting, else the hub's, for unary calls; streams
        then have no bound but the idle time-out. A stream that is returned must be closed by the caller.

        Raises: AgentNotFound, Forbidden, TooManyInFlight, Draining, TaskNotFound, InvalidRequest, and what the
        transport raises. An error's `agent` names the agent.
        """
        places = self._places
        agent = places.directory.get(call.agent_id)
        if agent is None:
            raise AgentNotFound(f"There is no agent {call.agent_id!r} at this hub.", agent=call.agent_id)
        places.admission.admit_call(call.principal, call.agent_id)
        handed_on = False
        try:
            call.deadline = self._deadline(call, agent, timeout_ms)
            owner = await self._owner(call) if call.task_id is not None else None
            answer = await self._attempt(agent, call, owner)
            handed_on = isinstance(answer, AgentStream)
            return answer
        except UpstreamError as error:
            error.agent = call.agent_id
            if error.retry_after_ms is None and isinstance(error, UpstreamUnreachable):
                error.retry_after_ms = _UNREACHABLE_RETRY_AFTER_MS
            raise
        finally:
            if not handed_on:
                places.admission.release_call()

    def _deadline(self, call: AgentCall, agent: Agent, timeout_ms: int | None) -> Deadline | None:
        if timeout_ms is None:
            if call.operation is _STREAM_MESSAGE or call.operation is _SUBSCRIBE_TASK:
                return None
            timeout_ms = agent.settings.timeout_ms or self._settings.timeout_ms
        if timeout_ms > self._settings.timeout_max_ms:
            timeout_ms = self._settings.timeout_max_ms
        return Deadline(self._clock.monotonic_ms() + timeout_ms, timeout_ms)

    async def _owner(self, call: AgentCall) -> TaskOwner:
        """Who holds the task; also fills in the context the caller left out (A2A 1.0, 3.4.3)."""
        assert call.task_id is not None
        owner = await self._places.owners.owner_of(call.agent_id, call.task_id)
        if owner is None or (owner.principal_id != call.principal.id and not call.principal.is_admin):
            raise TaskNotFound(f"There is no task {call.task_id!r} of yours at agent {call.agent_id!r}.")
        if call.context_id is None:
            call.context_id = owner.context_id
        elif owner.context_id is not None and call.context_id != owner.context_id:
            text = f"the task belongs to context {owner.context_id!r}; send that one or none"
            raise InvalidRequest(f"contextId: {text}", fields=[FieldError("message.contextId", text)])
        return owner

    async def _attempt(self, agent: Agent, call: AgentCall, owner: TaskOwner | None) -> AgentReply | AgentStream:
        """Try instances until one takes the call; only what was certainly not sent is tried again."""
        balancer = self._places.balancer
        tried = _NONE_TRIED
        wanted = owner.instance_id if owner is not None else None
        while True:
            instance = balancer.pick(agent, exclude=tried, wanted=wanted)
            try:
                return await self._call_instance(agent, instance, call)
            except UpstreamUnreachable:
                tried |= {instance.id}
                if wanted is not None or len(tried) >= min(self._settings.attempts_max, len(agent.instances)):
                    raise

    async def _call_instance(self, agent: Agent, instance: Instance, call: AgentCall) -> AgentReply | AgentStream:
        places = self._places
        places.balancer.begin(agent.id, instance.id)
        handed_on = False
        try:
            answer = await places.transport.call(agent, instance, call)
            places.presence.saw_traffic(agent.id, instance.id, ok=True)
            places.balancer.saw(agent.id, instance.id, ok=True)
            if isinstance(answer, AgentStream):
                handed_on = True
                return replace(answer, events=self._watched(answer, agent, instance.id, call))
            if answer.task is not None:
                await self._record(answer.task, agent, instance.id, call)
            return answer
        except UpstreamUnreachable:
            places.presence.saw_traffic(agent.id, instance.id, ok=False)
            places.balancer.saw(agent.id, instance.id, ok=False)
            raise
        except UpstreamBroken:
            places.presence.saw_broken(agent.id, instance.id)
            raise
        finally:
            if not handed_on:
                places.balancer.end(agent.id, instance.id)

    async def _watched(
        self, stream: AgentStream, agent: Agent, instance_id: InstanceId, call: AgentCall
    ) -> AsyncGenerator[StreamEvent, None]:
        """The transport's events, each task recorded before its event goes on; frees the slot at the end."""
        last: TaskSeen | None = None
        try:
            async for event in stream.events:
                seen = event.task
                if seen is not None and (last is None or seen.state is not last.state or seen.task_id != last.task_id):
                    await self._record(seen, agent, instance_id, call)
                    last = seen
                yield event
        except UpstreamError as error:
            error.agent = agent.id
            if isinstance(error, UpstreamBroken):
                self._places.presence.saw_broken(agent.id, instance_id)
            raise
        finally:
            self._places.balancer.end(agent.id, instance_id)
            self._places.admission.release_call()
            await stream.aclose()

    async def _record(self, seen: TaskSeen, agent: Agent, instance_id: InstanceId, call: AgentCall) -> None:
        await self._places.owners.record(
            seen,
            agent_id=agent.id,
            instance_id=instance_id,
            principal_id=call.principal.id,
            now_ms=self._clock.now_ms(),
        )
