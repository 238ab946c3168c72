"""The head of a task (ids, state, time), read from an answer or event without decoding what hangs below it."""

import functools
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from meshway.kernel.clock import parse_rfc3339_ms
from meshway.kernel.ids import ContextId, TaskId
from meshway.kernel.operations import AgentOperation
from meshway.protocols.a2a.dialect import JSONRPC_1_0, Binding, Dialect, Version
from meshway.protocols.a2a.shapes import Json
from meshway.tasks.values import TaskSeen, TaskState

__all__ = ["Head", "HeadReader", "head_reader", "seen_in_core"]

_Op = AgentOperation
# Looked at for each answer: a member of an enum class costs more to reach than a name of the module.
_SEND, _STREAM, _SUBSCRIBE = _Op.SEND_MESSAGE, _Op.STREAM_MESSAGE, _Op.SUBSCRIBE_TASK
_GET, _CANCEL = _Op.GET_TASK, _Op.CANCEL_TASK
_STATES: Mapping[object, TaskState] = {
    **{state.value: state for state in TaskState},
    # The proto of 0.3 spells it so; ProtoJSON may give numbers; the rest is 0.3 on JSON-RPC.
    "TASK_STATE_CANCELLED": TaskState.CANCELED,
    1: TaskState.SUBMITTED,
    2: TaskState.WORKING,
    3: TaskState.COMPLETED,
    4: TaskState.FAILED,
    5: TaskState.CANCELED,
    6: TaskState.INPUT_REQUIRED,
    7: TaskState.REJECTED,
    8: TaskState.AUTH_REQUIRED,
    "submitted": TaskState.SUBMITTED,
    "working": TaskState.WORKING,
    "completed": TaskState.COMPLETED,
    "failed": TaskState.FAILED,
    "canceled": TaskState.CANCELED,
    "rejected": TaskState.REJECTED,
    "input-required": TaskState.INPUT_REQUIRED,
    "auth-required": TaskState.AUTH_REQUIRED,
}


# 2026-11-22T07:00:00.123Z, as the specification wants it.
_USUAL_LENGTH = 24


class Head(Protocol):
    """An answer or event, decoded as far as needed."""

    @property
    def is_answer(self) -> bool:
        """Whether it is an answer of its binding at all."""

    def seen(self) -> TaskSeen | None:
        """The task in it."""


# From the bytes of one whole answer or event. Raises: msgspec.DecodeError, UnicodeDecodeError, RecursionError.
HeadReader = Callable[[bytes], Head]


class _Status(msgspec.Struct):
    state: str | int = ""
    timestamp: str | None = None


class _Task(msgspec.Struct):
    id: str = ""
    contextId: str | None = None  # noqa: N815 - the wire's own name, here and below
    status: _Status | None = None

    def seen(self) -> TaskSeen | None:
        return _seen(self.id, self.contextId, self.status)


class _Update(msgspec.Struct):
    taskId: str = ""  # noqa: N815
    contextId: str | None = None  # noqa: N815
    status: _Status | None = None


class _Event(msgspec.Struct):
    """A StreamResponse or SendMessageResponse, of 1.0 or the 0.3 proto."""

    task: _Task | None = None
    statusUpdate: _Update | None = None  # noqa: N815

    @property
    def is_answer(self) -> bool:
        return True

    def seen(self) -> TaskSeen | None:
        if self.task is not None:
            return _seen(self.task.id, self.task.contextId, self.task.status)
        update = self.statusUpdate
        return None if update is None else _seen(update.taskId, update.contextId, update.status)


class _BareTask(_Task):
    @property
    def is_answer(self) -> bool:
        return True


class _Legacy(msgspec.Struct):
    """Any result of 0.3 on JSON-RPC: what it is stands in `kind`."""

    kind: str | None = None
    id: str = ""
    taskId: str = ""  # noqa: N815
    contextId: str | None = None  # noqa: N815
    status: _Status | None = None

    def seen(self) -> TaskSeen | None:
        if self.status is None or self.kind == "message":
            return None
        return _seen(
            self.taskId if self.kind == "status-update" else self.id or self.taskId, self.contextId, self.status
        )


class _Other(msgspec.Struct):
    @property
    def is_answer(self) -> bool:
        return True

    def seen(self) -> TaskSeen | None:
        return None


class _EventAnswer(msgspec.Struct):
    result: _Event | msgspec.UnsetType | None = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_answer(self) -> bool:
        return self.result is not msgspec.UNSET or self.error is not msgspec.UNSET

    def seen(self) -> TaskSeen | None:
        return self.result.seen() if isinstance(self.result, _Event) else None


class _TaskAnswer(msgspec.Struct):
    result: _Task | msgspec.UnsetType | None = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_answer(self) -> bool:
        return self.result is not msgspec.UNSET or self.error is not msgspec.UNSET

    def seen(self) -> TaskSeen | None:
        return self.result.seen() if isinstance(self.result, _Task) else None


class _LegacyAnswer(msgspec.Struct):
    result: _Legacy | msgspec.UnsetType | None = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_answer(self) -> bool:
        return self.result is not msgspec.UNSET or self.error is not msgspec.UNSET

    def seen(self) -> TaskSeen | None:
        return self.result.seen() if isinstance(self.result, _Legacy) else None


class _OtherAnswer(msgspec.Struct):
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_answer(self) -> bool:
        return self.result is not msgspec.UNSET or self.error is not msgspec.UNSET

    def seen(self) -> TaskSeen | None:
        return None


_EVENT: HeadReader = msgspec.json.Decoder(_Event).decode
_TASK: HeadReader = msgspec.json.Decoder(_BareTask).decode
_OTHER: HeadReader = msgspec.json.Decoder(_Other).decode
_EVENT_ANSWER: HeadReader = msgspec.json.Decoder(_EventAnswer).decode
_TASK_ANSWER: HeadReader = msgspec.json.Decoder(_TaskAnswer).decode
_LEGACY_ANSWER: HeadReader = msgspec.json.Decoder(_LegacyAnswer).decode
_OTHER_ANSWER: HeadReader = msgspec.json.Decoder(_OtherAnswer).decode


def head_reader(operation: AgentOperation, dialect: Dialect) -> HeadReader:
    """How to read answers to an operation in a dialect."""
    event = operation is _SEND or operation is _STREAM or operation is _SUBSCRIBE
    if event and dialect is JSONRPC_1_0:
        return _EVENT_ANSWER
    whole_task = operation is _GET or operation is _CANCEL
    if dialect.binding is Binding.HTTP_JSON:
        return _EVENT if event else _TASK if whole_task else _OTHER
    if not event and not whole_task:
        return _OTHER_ANSWER
    if dialect.version is Version.V0_3:
        return _LEGACY_ANSWER
    return _EVENT_ANSWER if event else _TASK_ANSWER


def seen_in_core(operation: AgentOperation, result: Json) -> TaskSeen | None:
    """The task in a decoded result of 1.0."""
    if not isinstance(result, dict):
        return None
    try:
        if operation is _GET or operation is _CANCEL:
            return msgspec.convert(result, _Task).seen()
        if operation is _SEND or operation is _STREAM or operation is _SUBSCRIBE:
            return msgspec.convert(result, _Event).seen()
    except msgspec.ValidationError:
        return None
    return None


def _seen(task_id: str, context_id: str | None, status: _Status | None) -> TaskSeen | None:
    if not task_id:
        return None
    if status is None:
        return TaskSeen(
            task_id=TaskId(task_id),
            context_id=ContextId(context_id) if context_id else None,
            state=TaskState.UNSPECIFIED,
        )
    return TaskSeen(
        task_id=TaskId(task_id),
        context_id=ContextId(context_id) if context_id else None,
        state=_STATES.get(status.state, TaskState.UNSPECIFIED),
        timestamp_ms=_moment_ms(status.timestamp) if status.timestamp else None,
    )


def _moment_ms(text: str) -> int | None:
    """Epoch milliseconds; None for what is no RFC 3339 time. Many events share a minute, so minutes are remembered."""
    try:
        if len(text) == _USUAL_LENGTH and text[16] == ":" and text[19] == "." and text[23] == "Z":
            seconds, milliseconds = text[17:19], text[20:23]
            if seconds.isdigit() and milliseconds.isdigit():
                return _minute_ms(text[:16]) + int(seconds) * 1000 + int(milliseconds)
        return parse_rfc3339_ms(text)
    except (ValueError, OverflowError):
        return None


@functools.lru_cache(maxsize=64)
def _minute_ms(text: str) -> int:
    return parse_rfc3339_ms(text + ":00.000Z")
