"""The relay: a call goes to an instance of its agent, and what the agent says comes back, numbered and kept on the way.

It makes no engine round trip but the owner record of an answer that shows a task for the first time, written before the
caller sees the task's id; events of streams are written before the caller sees their numbers.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from meshway.engine.ports import KvWrite
from meshway.gateway.delegation_guard import DelegationGuard
from meshway.gateway.ports import AgentCall, AgentReply, AgentStream, AgentTransport, StreamEvent
from meshway.gateway.settings import GatewaySettings
from meshway.gateway.task_pumps import TaskPumps
from meshway.kernel.clock import Clock, rfc3339_ms
from meshway.kernel.errors import UpstreamBroken, UpstreamError, UpstreamUnreachable
from meshway.kernel.ids import AgentId, InstanceId, TaskId, new_id
from meshway.kernel.operations import AgentOperation
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.values import Agent, Instance
from meshway.routing.balancer import Balancer
from meshway.tasks.children import TaskChildren
from meshway.tasks.event_writer import Overtaken
from meshway.tasks.owners import TaskOwners
from meshway.tasks.stops import Stop, StopBook
from meshway.tasks.track import Draft
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.values import TaskCause, TaskOwner, TaskParent, TaskSeen

__all__ = ["RelayCall", "RelayPlaces"]

# Compared for each call: a member of an enum class costs more to reach, and to hash, than a name of the module.
_SEND_MESSAGE, _STREAM_MESSAGE = AgentOperation.SEND_MESSAGE, AgentOperation.STREAM_MESSAGE
_SHOWING = frozenset({AgentOperation.GET_TASK, AgentOperation.CANCEL_TASK})
_NONE_TRIED: frozenset[str] = frozenset()

Given = TypeVar("Given")


@dataclass(frozen=True, slots=True)
class RelayPlaces:
    """The rooms a relayed call passes through."""

    balancer: Balancer
    owners: TaskOwners
    presence: PresenceTracker
    transport: AgentTransport
    tracks: TaskTracks
    pumps: TaskPumps
    children: TaskChildren
    guard: DelegationGuard
    stops: StopBook


@dataclass(slots=True)
class _Relayed:
    """One call on its way. `cause` None: it begins no work."""

    agent: Agent
    call: AgentCall
    owner: TaskOwner | None
    cause: TaskCause | None = None


class RelayCall:
    """For agents that are called by URL."""

    def __init__(self, places: RelayPlaces, *, clock: Clock, settings: GatewaySettings) -> None:
        self._places = places
        self._clock = clock
        self._settings = settings
        # Those who wait for an agent's first word, by agent; once a task is shown, that is what a stop cancels.
        self._waiting: dict[AgentId, set[asyncio.Task[object]]] = {}
        self._cut: set[asyncio.Task[object]] = set()
        places.stops.listen(self._heard_of_stop)

    async def execute(self, agent: Agent, call: AgentCall, owner: TaskOwner | None) -> AgentReply | AgentStream:
        """Raises: DelegationRefused, OwnLimitReached, TooManyInFlight, and what the transport raises."""
        relayed = _Relayed(agent, call, owner)
        operation = call.operation
        if operation is not _SEND_MESSAGE and operation is not _STREAM_MESSAGE:
            call.wants_core = call.wants_core or (operation in _SHOWING and agent.settings.record != "off")
            return await self._attempt(relayed)
        call.wants_core = call.wants_core or _is_recorded(agent, operation)
        admitted = self._places.guard.admit(call.principal, agent.id, call.chain)
        handed_on = False
        try:
            above = admitted.chain_above
            call_id = TaskId(new_id())
            chain = self._places.guard.child(above, agent.id, call_id, None)
            headers = (*call.headers, (b"meshway-chain", self._places.guard.token(chain).encode("ascii")))
            if chain.deadline_ms is not None:
                headers = (*headers, (b"meshway-deadline", rfc3339_ms(chain.deadline_ms).encode("ascii")))
            call.headers = headers
            relayed.cause = TaskCause(
                call_id=call_id,
                parent=None if above is None else _parent(above.hops[-1].agent_id, above.hops[-1].task_id),
                root=None if above is None else _parent(above.root.agent_id, above.root.task_id),
            )
            answer = await self._attempt(relayed)
            if admitted.is_counted and not isinstance(answer, AgentReply):
                answer.when_closed.append(admitted.end)
                handed_on = True
            return answer
        finally:
            if not handed_on:
                admitted.end()

    async def _unless_stopped(self, agent_id: AgentId, work: Awaitable[Given]) -> Given:
        """What the agent says, if it is not stopped meanwhile. Raises: UpstreamBroken then."""
        task = asyncio.current_task()
        assert task is not None
        waiting = self._waiting.setdefault(agent_id, set())
        waiting.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if task not in self._cut or task.cancelling() > 1:
                raise
            raise _cut_by_stop(agent_id) from None
        finally:
            waiting.discard(task)
            if not waiting and self._waiting.get(agent_id) is waiting:
                del self._waiting[agent_id]
            if task in self._cut:
                self._cut.discard(task)
                task.uncancel()

    def _heard_of_stop(self, agent_id: AgentId | None, stop: Stop | None) -> None:
        if stop is None:
            return
        for stopped in list(self._waiting) if agent_id is None else [agent_id]:
            for task in self._waiting.get(stopped, ()):
                if task not in self._cut:
                    self._cut.add(task)
                    task.cancel()

    async def _attempt(self, relayed: _Relayed) -> AgentReply | AgentStream:
        """Try instances until one takes the call; only what was certainly not sent is tried again."""
        balancer, agent = self._places.balancer, relayed.agent
        tried = _NONE_TRIED
        wanted = relayed.owner.instance_id if relayed.owner is not None else None
        while True:
            instance = balancer.pick(agent, exclude=tried, wanted=wanted)
            try:
                return await self._call_instance(relayed, instance)
            except UpstreamUnreachable:
                tried |= {instance.id}
                if wanted is not None or len(tried) >= min(self._settings.attempts_max, len(agent.instances)):
                    raise

    async def _call_instance(self, relayed: _Relayed, instance: Instance) -> AgentReply | AgentStream:
        places, agent = self._places, relayed.agent
        places.balancer.begin(agent.id, instance.id)
        handed_on = False
        try:
            if relayed.cause is None:
                answer = await places.transport.call(agent, instance, relayed.call)
            else:
                places.stops.check(agent.id)
                calling = places.transport.call(agent, instance, relayed.call)
                answer = await self._unless_stopped(agent.id, calling)
            places.presence.saw_traffic(agent.id, instance.id, ok=True)
            places.balancer.saw(agent.id, instance.id, ok=True)
            if isinstance(answer, AgentStream):
                handed_on = True
                if relayed.call.wants_core:
                    answer.when_closed.append(partial(places.balancer.end, agent.id, instance.id))
                    return AgentStream(self._recorded(answer, relayed, instance.id))
                return replace(answer, events=self._watched(answer, relayed, instance.id))
            if answer.task is not None:
                await self._record_answer(answer, relayed, instance.id)
            return answer
        except UpstreamUnreachable:
            places.presence.saw_traffic(agent.id, instance.id, ok=False)
            places.balancer.saw(agent.id, instance.id, ok=False)
            raise
        except UpstreamBroken:
            if not places.stops.is_stopped(agent.id):
                places.presence.saw_broken(agent.id, instance.id)
            raise
        finally:
            if not handed_on:
                places.balancer.end(agent.id, instance.id)

    async def _watched(
        self, stream: AgentStream, relayed: _Relayed, instance_id: InstanceId
    ) -> AsyncGenerator[StreamEvent, None]:
        """The transport's events, each task's owner stored before its event goes on; frees the slot at the end."""
        last: TaskSeen | None = None
        try:
            async for event in stream.events:
                seen = event.task
                if seen is not None and (last is None or seen.state is not last.state or seen.task_id != last.task_id):
                    await self._record(seen, relayed, instance_id)
                    last = seen
                yield event
        except UpstreamError as error:
            error.agent = relayed.agent.id
            if isinstance(error, UpstreamBroken):
                self._places.presence.saw_broken(relayed.agent.id, instance_id)
            raise
        finally:
            self._places.balancer.end(relayed.agent.id, instance_id)
            await stream.aclose()

    # Keeping what was said

    async def _recorded(
        self, stream: AgentStream, relayed: _Relayed, instance_id: InstanceId
    ) -> AsyncGenerator[StreamEvent, None]:
        """A stream of a task is read by the hub and followed by the client, numbered; one of a message passes."""
        try:
            if self._places.stops.is_stopped(relayed.agent.id):
                raise _cut_by_stop(relayed.agent.id)
            first = await self._unless_stopped(relayed.agent.id, anext(stream.events, None))
            seen = None if first is None else first.task
            if first is None or seen is None or first.core is None:
                async for event in _with_first(first, stream):
                    yield event
                return
            pumps, cause = self._places.pumps, relayed.cause
            mark = pumps.mark(relayed.agent.id, seen.task_id)
            owner = await self._record(seen, relayed, instance_id, along=[mark])
            track = await self._places.tracks.open(relayed.agent.id, seen.task_id, context_id=seen.context_id or "")
            before = track.last
            is_read = pumps.running(relayed.agent.id, seen.task_id) is not None
            is_marked = cause is not None and owner.call_id == cause.call_id
            pump = await pumps.start(stream, first, owner, track, is_marked=is_marked)
        except UpstreamError as error:
            error.agent = relayed.agent.id
            if isinstance(error, UpstreamBroken) and not self._places.stops.is_stopped(relayed.agent.id):
                self._places.presence.saw_broken(relayed.agent.id, instance_id)
            await stream.aclose()
            raise
        except BaseException:
            await stream.aclose()
            raise
        if is_read and before:
            # What the agent said first to this client is in the log already, in one form or another.
            yield StreamEvent(b"", None, first.core, before)
        rest = self._places.pumps.follow(pump, after=before, outlet=relayed.call.outlet)
        try:
            yield StreamEvent(b"", seen, rest=rest)
        finally:
            await rest.aclose()

    async def _record_answer(self, answer: AgentReply, relayed: _Relayed, instance_id: InstanceId) -> None:
        """A whole answer with a task is one event; one that only shows it again is, where something is new in it."""
        seen, core = answer.task, answer.core
        assert seen is not None
        before = relayed.owner
        tracks = self._places.tracks
        if core is not None and relayed.agent.settings.record == "all":
            sends = relayed.call.operation is _SEND_MESSAGE
            if sends and before is None and tracks.known(relayed.agent.id, seen.task_id) is None:
                # Most likely a task that the agent has just made: its first event needs no look at the log.
                track = tracks.new(relayed.agent.id, seen.task_id, context_id=seen.context_id or "")
                written = track.append([Draft(body=core, state=seen.state)], at_ms=self._clock.now_ms())
                # Both are on their way before either is waited for.
                owner = await self._record(seen, relayed, instance_id)
                try:
                    await written
                except Overtaken:
                    # It had made it before.
                    await self._reconcile(owner, core, sends=True)
                return
            owner = await self._record(seen, relayed, instance_id)
            if sends or before is None or seen.state is not before.state:
                await self._reconcile(owner, core, sends=sends)
            return
        await self._record(seen, relayed, instance_id)

    async def _reconcile(self, owner: TaskOwner, core: bytes, *, sends: bool) -> None:
        pumps = self._places.pumps
        track = await self._places.tracks.open(owner.agent_id, owner.task_id, context_id=owner.context_id or "")
        pump = await pumps.found(owner, track)
        if pump is not None:
            # What the agent says is on its way already.
            if not sends:
                pumps.heard_of_end(pump, core)
            return
        if sends:
            if not track.state.is_terminal:
                draft = Draft(body=core, state=owner.state, turn=track.turn)
                await track.append([draft], at_ms=self._clock.now_ms())
        else:
            await pumps.reconcile(owner, track, core)

    async def _record(
        self, seen: TaskSeen, relayed: _Relayed, instance_id: InstanceId, *, along: Sequence[KvWrite] = ()
    ) -> TaskOwner:
        """Whose task it is, and what it belongs to. `along` is stored with a first sight.

        Raises: StorageFull, EngineUnavailable.
        """
        agent, call, cause = relayed.agent, relayed.call, relayed.cause
        owner = await self._places.owners.record(
            seen,
            agent_id=agent.id,
            instance_id=instance_id,
            principal_id=call.principal.id,
            now_ms=self._clock.now_ms(),
            cause=cause,
            along=along,
        )
        if cause is not None and cause.parent is not None and relayed.owner is None:
            await self._places.children.add(cause.parent, agent.id, seen.task_id)
            # Known from here on: later events of the stream add nothing.
            relayed.owner = owner
        return owner


async def _with_first(first: StreamEvent | None, stream: AgentStream) -> AsyncGenerator[StreamEvent, None]:
    """The stream with the event that was looked at."""
    try:
        if first is not None:
            yield first
            async for event in stream.events:
                yield event
    finally:
        await stream.aclose()


def _cut_by_stop(agent_id: AgentId) -> UpstreamBroken:
    text = f"Agent {agent_id!r} was stopped by an operator while it worked on this."
    return UpstreamBroken(text, may_have_acted=True, agent=agent_id)


def _is_recorded(agent: Agent, operation: AgentOperation) -> bool:
    record = agent.settings.record
    return record == "all" or (record == "streams" and operation is _STREAM_MESSAGE)


def _parent(agent_id: AgentId, task_id: str) -> TaskParent:
    return TaskParent(agent_id=agent_id, task_id=TaskId(task_id))
