"""A client calls an agent: whose task it is, and with that, who answers: the agent itself, or the hub in its place."""

from dataclasses import dataclass

from meshway.gateway.admission import Admission
from meshway.gateway.call_once import CallOnce
from meshway.gateway.inbox_calls import InboxCalls
from meshway.gateway.manage_push_configs import ManagePushConfigs
from meshway.gateway.ports import AgentCall, AgentReply, AgentStream, CoreReply, TaskStream
from meshway.gateway.recorded_calls import RecordedCalls
from meshway.gateway.settings import GatewaySettings
from meshway.gateway.take_push_config import TakePushConfig
from meshway.kernel.clock import Clock
from meshway.kernel.deadline import Deadline
from meshway.kernel.errors import (
    AgentNotFound,
    FieldError,
    InvalidRequest,
    OperationUnsupported,
    TaskNotFound,
    UpstreamError,
    UpstreamUnreachable,
    wrong_field,
)
from meshway.kernel.ids import AgentId
from meshway.kernel.operations import AgentOperation
from meshway.registry.directory import Directory
from meshway.registry.values import Agent
from meshway.tasks.owners import TaskOwners
from meshway.tasks.stops import StopBook
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.values import TaskOwner

__all__ = ["AgentAnswer", "CallAgent", "CallPlaces"]

AgentAnswer = AgentReply | AgentStream | CoreReply | TaskStream

# A probe looks for an agent that is away once a second (registry.probe_retry_ms).
_UNREACHABLE_RETRY_AFTER_MS = 1_000
_Op = AgentOperation
# Compared for each call: a member of an enum class costs more to reach, and to hash, than a name of the module.
_SEND_MESSAGE, _STREAM_MESSAGE, _SUBSCRIBE_TASK = _Op.SEND_MESSAGE, _Op.STREAM_MESSAGE, _Op.SUBSCRIBE_TASK
_PUSH_OPERATIONS = frozenset(
    {_Op.CREATE_PUSH_CONFIG, _Op.GET_PUSH_CONFIG, _Op.LIST_PUSH_CONFIGS, _Op.DELETE_PUSH_CONFIG}
)


@dataclass(frozen=True, slots=True)
class CallPlaces:
    """The rooms a call passes through. `once` relays, and acts once where a key asks for it."""

    directory: Directory
    owners: TaskOwners
    tracks: TaskTracks
    admission: Admission
    stops: StopBook
    inbox: InboxCalls
    sending: TakePushConfig
    once: CallOnce
    recorded: RecordedCalls
    push_configs: ManagePushConfigs


class CallAgent:
    """One use case, for every operation of A2A that concerns one agent."""

    def __init__(self, places: CallPlaces, *, clock: Clock, settings: GatewaySettings) -> None:
        self._places = places
        self._clock = clock
        self._settings = settings

    async def execute(self, call: AgentCall, *, timeout_ms: int | None) -> AgentAnswer:
        """Call the agent. The answer is in the caller's dialect, or A2A 1.0 for the edge to put into it.

        `timeout_ms` is what the caller asked for, None: the agent's setting, else the hub's, for unary calls; streams
        then have no bound but the idle time-out. A stream that is returned must be closed by the caller.

        Raises: AgentNotFound, Forbidden, TooManyInFlight, Draining, TaskNotFound, InvalidRequest, AgentStopped, what
        accepting a task raises, and what the transport raises. An error's `agent` names the agent.
        """
        places = self._places
        agent = places.directory.get(call.agent_id)
        if agent is None:
            raise AgentNotFound(f"There is no agent {call.agent_id!r} at this hub.", agent=call.agent_id)
        places.admission.admit_call(call.principal, call.agent_id)
        handed_on = False
        try:
            wait_ms = self._wait_ms(call, agent, timeout_ms)
            if wait_ms is not None:
                call.deadline = Deadline(self._clock.monotonic_ms() + wait_ms, wait_ms)
            answer = await self._answer(agent, call, wait_ms)
            if isinstance(answer, AgentStream | TaskStream):
                answer.when_closed.append(places.admission.release_call)
                handed_on = True
            return answer
        except UpstreamError as error:
            error.agent = call.agent_id
            if error.retry_after_ms is None and isinstance(error, UpstreamUnreachable):
                error.retry_after_ms = _UNREACHABLE_RETRY_AFTER_MS
            raise
        finally:
            if not handed_on:
                places.admission.release_call()

    def _wait_ms(self, call: AgentCall, agent: Agent, timeout_ms: int | None) -> int | None:
        if timeout_ms is None:
            if call.operation is _STREAM_MESSAGE or call.operation is _SUBSCRIBE_TASK:
                return None
            timeout_ms = agent.settings.timeout_ms or self._settings.timeout_ms
        return min(timeout_ms, self._settings.timeout_max_ms)

    async def _answer(self, agent: Agent, call: AgentCall, wait_ms: int | None) -> AgentAnswer:
        owner = await self._owner(call) if call.task_id is not None else None
        operation = call.operation
        if operation is _SEND_MESSAGE or operation is _STREAM_MESSAGE:
            self._places.stops.check(agent.id)
            if self._is_for_inbox(agent, call, owner):
                if operation is _STREAM_MESSAGE:
                    return await self._places.inbox.stream(call)
                return await self._places.inbox.send(call, wait_ms=wait_ms or self._settings.timeout_ms)
            return await self._places.sending.execute(agent, call, owner)
        if operation in _PUSH_OPERATIONS:
            return CoreReply(await self._push_config(call))
        if owner is None:
            # No operation on a task: what is left is the extended card, which the agent itself writes.
            return await self._places.once.execute(agent, call, owner)
        return await self._on_task(agent, call, owner)

    def _is_for_inbox(self, agent: Agent, call: AgentCall, owner: TaskOwner | None) -> bool:
        """Whether the hub owns the task that this message begins, or goes on with."""
        if owner is not None:
            return owner.hub_owned
        return agent.pull or call.is_durable or agent.settings.delivery == "durable"

    async def _on_task(self, agent: Agent, call: AgentCall, owner: TaskOwner) -> AgentAnswer:
        inbox = self._places.inbox
        match call.operation:
            case _Op.SUBSCRIBE_TASK if owner.hub_owned:
                return await inbox.subscribe(call, owner)
            case _Op.SUBSCRIBE_TASK if agent.settings.record != "off":
                return await self._places.recorded.subscribe(call, owner)
            case _Op.GET_TASK if owner.hub_owned:
                return await inbox.get(call, owner)
            case _Op.CANCEL_TASK if owner.hub_owned:
                return await inbox.cancel(call, owner)
            case _Op.CANCEL_TASK:
                answer = await self._places.once.execute(agent, call, owner)
                await self._places.recorded.cancelled(owner)
                return answer
            case _:
                return await self._places.once.execute(agent, call, owner)

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

    async def _push_config(self, call: AgentCall) -> bytes:
        """Configurations are kept, and notifications delivered, by the hub; agents never see them."""
        configs, principal, agent_id = self._places.push_configs, call.principal, AgentId(call.agent_id)
        assert call.task_id is not None
        # 0.3 lets a config be asked for by its task alone; it is then called like the task.
        config_id = call.config_id or call.task_id
        match call.operation:
            case _Op.CREATE_PUSH_CONFIG:
                created = await configs.create(principal, agent_id, call.reader.push_config(), version=call.version)
                await self._places.recorded.watch(agent_id, call.task_id)
                return created
            case _Op.GET_PUSH_CONFIG:
                return await configs.get(principal, agent_id, call.task_id, config_id)
            case _Op.LIST_PUSH_CONFIGS:
                return await configs.list_of(principal, agent_id, call.task_id)
            case _Op.DELETE_PUSH_CONFIG:
                if call.config_id is None:
                    raise wrong_field("id", "is required")
                await configs.delete(principal, agent_id, call.task_id, call.config_id)
                return b"null"
            case _:
                raise OperationUnsupported(f"{call.operation.value} is no operation on configurations.")
