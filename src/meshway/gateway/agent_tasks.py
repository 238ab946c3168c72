"""What the hub itself asks an agent about a task of the agent's: its state, its stream, its end. A2A 1.0 both ways."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from meshway.gateway.ports import AgentCall, AgentReply, AgentStream, AgentTransport, CallReader
from meshway.kernel.clock import Clock
from meshway.kernel.deadline import Deadline
from meshway.kernel.errors import (
    AgentNotFound,
    MeshwayError,
    OperationUnsupported,
    TaskNotCancelable,
    TaskNotFound,
    UpstreamInvalid,
    UpstreamUnreachable,
)
from meshway.kernel.ids import AgentId, ContextId, InstanceId, TaskId
from meshway.kernel.operations import AgentOperation
from meshway.kernel.principal import ANONYMOUS
from meshway.registry.directory import Directory
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.values import Agent, Instance
from meshway.routing.balancer import Balancer
from meshway.tasks.send_terms import SendTerms

__all__ = ["AgentTasks", "CoreAnswer", "MakeRequest"]

# Makes the wire request of an operation from its params, both A2A 1.0.
MakeRequest = Callable[[AgentOperation, bytes], object]

_Op = AgentOperation
# The hub's own questions are short; an agent that does not answer them in this time is asked again later.
_TIMEOUT_MS = 15_000
# Tasks of one context, and messages of each, that are looked through for one that began with a certain message.
_LOOKED_AT, _HISTORY = 20, 50
_ERRORS: dict[int, type[MeshwayError]] = {
    -32001: TaskNotFound,
    -32002: TaskNotCancelable,
    -32004: OperationUnsupported,
    -32601: OperationUnsupported,
}


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Answer(msgspec.Struct):
    error: _Error | None = None


class _SendResult(msgspec.Struct):
    task: msgspec.Raw = msgspec.Raw(b"")
    message: msgspec.Raw = msgspec.Raw(b"")


class _TaskList(msgspec.Struct):
    tasks: list[msgspec.Raw] = []


class _MessageHead(msgspec.Struct):
    messageId: str = ""  # noqa: N815 - the wire's own name


class _TaskHistory(msgspec.Struct):
    history: list[_MessageHead] = []


_decode_tasks = msgspec.json.Decoder(_TaskList).decode
_decode_history = msgspec.json.Decoder(_TaskHistory).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_result = msgspec.json.Decoder(_SendResult).decode


class _NoReader:
    """The hub's own calls are not read again."""

    def send_terms(self) -> SendTerms:
        raise AssertionError

    def history_length(self) -> int | None:
        raise AssertionError

    def push_config(self) -> bytes:
        raise AssertionError

    def without_push_config(self) -> object:
        raise AssertionError


_NO_READER: CallReader = _NoReader()


@dataclass(frozen=True, slots=True)
class CoreAnswer:
    """A whole answer: `task` or `message` as A2A 1.0 JSON, the other empty."""

    task: bytes = b""
    message: bytes = b""


class AgentTasks:
    """All raise AgentNotFound, UpstreamError, TooManyInFlight, and what the agent says: TaskNotFound (it does not know
    it), OperationUnsupported (it cannot, or not any more), TaskNotCancelable, UpstreamInvalid (any other error)."""

    def __init__(
        self,
        directory: Directory,
        balancer: Balancer,
        presence: PresenceTracker,
        transport: AgentTransport,
        *,
        make_request: MakeRequest,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._balancer = balancer
        self._presence = presence
        self._transport = transport
        self._make_request = make_request
        self._clock = clock

    async def get(self, agent_id: AgentId, task_id: TaskId, instance_id: InstanceId) -> bytes:
        """The task as it is now."""
        params = msgspec.json.encode({"id": task_id})
        answer = await self._ask(agent_id, _Op.GET_TASK, params, instance_id)
        return self._core_of(answer)

    async def cancel(self, agent_id: AgentId, task_id: TaskId, instance_id: InstanceId) -> bytes:
        """The task after it was asked to end."""
        params = msgspec.json.encode({"id": task_id})
        answer = await self._ask(agent_id, _Op.CANCEL_TASK, params, instance_id)
        return self._core_of(answer)

    async def subscribe(self, agent_id: AgentId, task_id: TaskId, instance_id: InstanceId) -> AgentStream:
        """Its events from now on, the first being the task as it is. Whoever gets it closes it."""
        params = msgspec.json.encode({"id": task_id})
        answer = await self._ask(agent_id, _Op.SUBSCRIBE_TASK, params, instance_id)
        if isinstance(answer, AgentStream):
            return answer
        self._core_of(answer)
        raise OperationUnsupported(f"Agent {agent_id!r} does not stream what becomes of a task.")

    async def send(
        self,
        agent_id: AgentId,
        instance_id: InstanceId | None,
        message: bytes,
        *,
        streams: bool,
        timeout_ms: int | None,
        headers: tuple[tuple[bytes, bytes], ...],
    ) -> CoreAnswer | AgentStream:
        """Give it a message; `instance_id` None: any of its instances. `timeout_ms` bounds the whole."""
        params = b'{"message":%b}' % message
        operation = _Op.STREAM_MESSAGE if streams else _Op.SEND_MESSAGE
        answer = await self._ask(agent_id, operation, params, instance_id, timeout_ms=timeout_ms, headers=headers)
        if isinstance(answer, AgentStream):
            return answer
        result = _decode_result(self._core_of(answer))
        return CoreAnswer(bytes(result.task), bytes(result.message))

    async def of_message(
        self, agent_id: AgentId, context_id: ContextId, message_id: str, instance_id: InstanceId | None
    ) -> bytes | None:
        """The task that this message has begun, looked for in its context; None: there is none, or it cannot tell."""
        params = msgspec.json.encode({"contextId": context_id, "pageSize": _LOOKED_AT, "historyLength": _HISTORY})
        try:
            answer = await self._ask(agent_id, _Op.LIST_TASKS, params, instance_id)
            tasks = _decode_tasks(self._core_of(answer)).tasks
        except (OperationUnsupported, UpstreamInvalid, msgspec.DecodeError):
            return None
        for task in tasks:
            if any(message.messageId == message_id for message in _decode_history(task).history):
                return bytes(task)
        return None

    async def _ask(
        self,
        agent_id: AgentId,
        operation: AgentOperation,
        params: bytes,
        instance_id: InstanceId | None,
        *,
        timeout_ms: int | None = _TIMEOUT_MS,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> AgentReply | AgentStream:
        agent = self._directory.get(agent_id)
        if agent is None:
            raise AgentNotFound(f"There is no agent {agent_id!r} at this hub.", agent=agent_id)
        instance = self._balancer.pick(agent, wanted=instance_id)
        deadline = None
        if timeout_ms is not None and operation is not _Op.SUBSCRIBE_TASK:
            deadline = Deadline(self._clock.monotonic_ms() + timeout_ms, timeout_ms)
        call = AgentCall(
            agent_id=agent_id,
            operation=operation,
            principal=ANONYMOUS,
            deadline=deadline,
            payload=self._make_request(operation, params),
            reader=_NO_READER,
            headers=headers,
            wants_core=True,
        )
        return await self._call(agent, instance, call)

    async def _call(self, agent: Agent, instance: Instance, call: AgentCall) -> AgentReply | AgentStream:
        try:
            answer = await self._transport.call(agent, instance, call)
        except UpstreamUnreachable:
            self._presence.saw_traffic(agent.id, instance.id, ok=False)
            self._balancer.saw(agent.id, instance.id, ok=False)
            raise
        self._presence.saw_traffic(agent.id, instance.id, ok=True)
        self._balancer.saw(agent.id, instance.id, ok=True)
        return answer

    def _core_of(self, answer: AgentReply | AgentStream) -> bytes:
        if isinstance(answer, AgentStream):
            raise UpstreamInvalid("The agent answered a question with a stream.", may_have_acted=True)
        if answer.core is not None:
            return answer.core
        error = _decode_answer(answer.body).error or _Error()
        raise _ERRORS.get(error.code, UpstreamInvalid)(error.message or f"The agent answered with error {error.code}.")
