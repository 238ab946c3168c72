"""Take a message on as work of the hub's own: a new task in the agent's inbox, or a further turn of one."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from meshway.gateway.manage_push_configs import ManagePushConfigs
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import FieldError, InvalidRequest, OperationUnsupported
from meshway.kernel.ids import AgentId, ContextId, TaskId, new_id
from meshway.kernel.principal import Principal
from meshway.tasks import event_bodies
from meshway.tasks.inbox import InboxItem
from meshway.tasks.send_terms import SendTerms
from meshway.tasks.track import Track
from meshway.tasks.values import TaskOwner, TaskParent

__all__ = ["AcceptTask", "TaskRequest"]


# Names of contexts that are made of the ids of their first tasks.
_CONTEXT_NAMES = uuid.UUID("d0c1b9a4-5f0a-4f6e-9a53-5f2f0b2a7c1e")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """What somebody wants done. `timeout_ms` bounds the work from now on; None: the agent's own limit, from its start.

    `task_id`: the id of a new task where it had to be known before. `chain` is the token that came with the call.
    """

    principal: Principal
    agent_id: AgentId
    terms: SendTerms
    timeout_ms: int | None = None
    task_id: TaskId | None = None
    chain: str | None = None
    traceparent: str | None = None
    idempotency_key: str | None = None
    metadata: dict[str, object] | None = None
    # A2A version of the client: what its webhooks are told in.
    version: str = "1.0"


class AcceptTask:
    """On disk when `execute` returns."""

    def __init__(self, places: TaskPlaces, *, push_configs: ManagePushConfigs) -> None:
        self._places = places
        self._push_configs = push_configs

    async def execute(self, request: TaskRequest) -> Track:
        """The task that was begun or goes on; its opening event is written.

        Raises: AgentStopped, InboxFull, StorageFull, TaskNotFound, OperationUnsupported (the task has ended, or works
        already), InvalidRequest, DelegationRefused, OwnLimitReached, DeadlineExceeded, EngineUnavailable.
        """
        places = self._places
        places.stops.check(request.agent_id)
        if request.terms.push_config is not None:
            self._push_configs.check_inline(request.terms.push_config)
        if request.terms.task_id is not None:
            owner = await places.owned(request.principal, request.agent_id, TaskId(request.terms.task_id))
            return await self._go_on(request, owner)
        return await self._begin(request)

    async def _begin(self, request: TaskRequest) -> Track:
        places, terms = self._places, request.terms
        admitted = places.guard.admit(request.principal, request.agent_id, request.chain)
        try:
            above = admitted.chain_above
            now_ms = places.clock.now_ms()
            task_id = request.task_id or TaskId(new_id())
            # What is repeated under a given id must be the same task to the last.
            own_context = new_id() if request.task_id is None else str(uuid.uuid5(_CONTEXT_NAMES, task_id))
            context_id = ContextId(terms.context_id or own_context)
            deadlines = [] if request.timeout_ms is None else [now_ms + request.timeout_ms]
            if above is not None and above.deadline_ms is not None:
                deadlines.append(above.deadline_ms)
            expires_at_ms = now_ms + places.settings.inbox_ttl_ms
            message = _filled_in(terms.message, task_id, context_id)
            metadata = {**(request.metadata or {}), "inboxExpiresAtMs": expires_at_ms}
            item = InboxItem(
                agent_id=request.agent_id,
                task_id=task_id,
                context_id=context_id,
                principal_id=request.principal.id,
                turn=1,
                created_at_ms=now_ms,
                expires_at_ms=expires_at_ms,
                message=msgspec.Raw(message),
                opening=msgspec.Raw(
                    event_bodies.submitted(task_id, context_id, message, at_ms=now_ms, metadata=metadata)
                ),
                deadline_ms=min(deadlines, default=None),
                chain=request.chain or "",
                traceparent=request.traceparent,
                idempotency_key=request.idempotency_key,
                extensions=terms.extensions,
                metadata=None if terms.metadata is None else msgspec.Raw(terms.metadata),
                parent=None if above is None else _parent(above.hops[-1].agent_id, above.hops[-1].task_id),
                root=None if above is None else _parent(above.root.agent_id, above.root.task_id),
            )
            if item.parent is not None:
                # Before the task is there: what cancels the parent must find it.
                await places.children.add(item.parent, item.agent_id, item.task_id)
            accept = places.tasks.accept if request.task_id is None else places.tasks.accept_named
            track = await accept(item)
        except BaseException:
            admitted.end()
            raise
        if admitted.is_counted:
            _end_with(track, admitted.end)
        await self._attach(request, track, after=0)
        return track

    async def _go_on(self, request: TaskRequest, owner: TaskOwner) -> Track:
        places, terms = self._places, request.terms
        if terms.context_id is not None and terms.context_id != owner.context_id:
            text = f"the task belongs to context {owner.context_id!r}; send that one or none"
            raise InvalidRequest(f"contextId: {text}", fields=[FieldError("message.contextId", text)])
        track = await places.tasks.track_of(owner)
        if not track.state.is_interrupted:
            what = "has ended" if track.state.is_terminal else "does not wait for an answer"
            raise OperationUnsupported(f"Task {owner.task_id!r} {what}: it is {track.state.value}.")
        # What answers a task in the course of another one is held to the limits of that one's chain.
        places.guard.admit(request.principal, request.agent_id, request.chain).end()
        number = track.written
        now_ms = places.clock.now_ms()
        message = _filled_in(terms.message, owner.task_id, track.context_id)
        picture = await places.tasks.tracks.picture(track)
        item = InboxItem(
            agent_id=owner.agent_id,
            task_id=owner.task_id,
            context_id=ContextId(track.context_id),
            principal_id=owner.principal_id,
            turn=track.turn + 1,
            created_at_ms=now_ms,
            expires_at_ms=now_ms + places.settings.inbox_ttl_ms,
            message=msgspec.Raw(message),
            opening=msgspec.Raw(event_bodies.resubmitted(picture, message, at_ms=now_ms)),
            deadline_ms=None if request.timeout_ms is None else now_ms + request.timeout_ms,
            chain=request.chain or "",
            traceparent=request.traceparent,
            idempotency_key=request.idempotency_key,
            extensions=terms.extensions,
            parent=owner.parent,
            root=owner.root,
        )
        if not await places.tasks.begin_turn(track, item):
            raise OperationUnsupported(f"Task {owner.task_id!r} has just been answered by somebody else, or has ended.")
        await self._attach(request, track, after=number)
        return track

    async def _attach(self, request: TaskRequest, track: Track, *, after: int) -> None:
        """The configuration that came with the message: its receiver hears of the events after this number."""
        if request.terms.push_config is None:
            return
        owner = await self._places.owned(request.principal, track.agent_id, track.task_id)
        await self._push_configs.attach(owner, request.terms.push_config, version=request.version, after=after)


def _end_with(track: Track, end: Callable[[], None]) -> None:
    """Call `end` when the task has ended."""

    def heard(of: Track, events: object) -> None:
        if of.written_state.is_terminal:
            of.unlisten(heard)
            end()

    track.listen(heard)


def _parent(agent_id: AgentId, task_id: str) -> TaskParent:
    return TaskParent(agent_id=agent_id, task_id=TaskId(task_id))


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def _filled_in(message: bytes, task_id: str, context_id: str) -> bytes:
    """The client's message with the ids it may leave out (A2A 1.0, 3.4.3)."""
    fields: dict[str, object] = {**_decode_fields(message)}
    fields["taskId"], fields["contextId"] = task_id, context_id
    return _encode(fields)
