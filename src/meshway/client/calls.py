"""Calling an agent by A2A 1.0 over JSON-RPC: what is sent, and how answers are read."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Literal
from urllib.parse import quote

import httpx
import msgspec

from meshway.client.connection import HubConnection, retry_after_ms
from meshway.client.errors import CallError, HubError, HubUnreachable, UnexpectedAnswer, WrongField
from meshway.client.messages import Answer, Artifact, EventKind, Message, StreamEvent, Task, TaskStatus

__all__ = ["AgentCalls", "stream_event"]

# The hub bounds every unary call itself (60 s unless told otherwise); this is for a hub that hangs.
_UNARY_TIMEOUT_S = 600.0
# On top of the caller's own bound, so that the hub's answer "too late" arrives before we give up.
_TIMEOUT_MARGIN_S = 5.0


# How long a hub lets a unary call wait unless it is told otherwise.
_HUB_TIMEOUT_MS = 60_000
_GOES_ON = frozenset({"TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"})
# Between two questions for a task whose hub went away.
_LOOK_S = 0.25


class _WireError(msgspec.Struct):
    code: int
    message: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")


class _WireDetail(msgspec.Struct, rename="camel"):
    """google.rpc.ErrorInfo and BadRequest in one, as far as they are read."""

    reason: str = ""
    domain: str = ""
    field_violations: list[dict[str, str]] = []


class _WireAnswer(msgspec.Struct):
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: _WireError | None = None


class _WireSendResult(msgspec.Struct):
    task: Task | None = None
    message: Message | None = None


class _WireStatusUpdate(msgspec.Struct, rename="camel"):
    task_id: str = ""
    context_id: str | None = None
    status: TaskStatus = TaskStatus()


class _WireArtifactUpdate(msgspec.Struct, rename="camel"):
    task_id: str = ""
    context_id: str | None = None
    artifact: Artifact = Artifact()
    append: bool = False
    last_chunk: bool = False


class _WireStreamResponse(msgspec.Struct, rename="camel"):
    task: Task | None = None
    message: Message | None = None
    status_update: _WireStatusUpdate | None = None
    artifact_update: _WireArtifactUpdate | None = None


class AgentCalls:
    """One method per shape of answer; the message to send is ready-made."""

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    async def send(
        self,
        agent: str,
        message: Mapping[str, object],
        *,
        timeout_ms: int | None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send and wait for the whole answer. Raises: CallError, HubError, HubUnreachable, UnexpectedAnswer.

        A hub that shuts down answers with the task as it is; then the task is asked for until its turn has ended, at
        this address, where another hub may answer by then.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + (_HUB_TIMEOUT_MS if timeout_ms is None else timeout_ms) / 1000
        result, is_closing = await self._unary(
            agent, "SendMessage", {"message": message}, timeout_ms=timeout_ms, headers=headers
        )
        answer = self._answer(agent, result)
        while is_closing and answer.task is not None and answer.state in _GOES_ON and loop.time() < ends_at:
            await asyncio.sleep(_LOOK_S)
            try:
                answer = await self.task(agent, "GetTask", answer.task.id)
            except (HubUnreachable, HubError):
                # It is away for a moment; what was answered stands.
                continue
        return answer

    def _answer(self, agent: str, result: msgspec.Raw) -> Answer:
        try:
            sent = msgspec.json.decode(result, type=_WireSendResult)
            raw = msgspec.json.decode(result, type=dict[str, object])
        except msgspec.MsgspecError as error:
            raise self._unreadable(agent, error) from error
        if (sent.task is None) == (sent.message is None):
            raise self._unreadable(agent, "the result holds neither a task nor a message")
        return Answer(message=sent.message, task=sent.task, raw=raw)

    async def task(self, agent: str, method: Literal["GetTask", "CancelTask"], task_id: str) -> Answer:
        """Ask for a task, or for its end. Raises: as `send`."""
        result, _ = await self._unary(agent, method, {"id": task_id}, timeout_ms=None)
        try:
            return Answer(
                message=None,
                task=msgspec.json.decode(result, type=Task),
                raw=msgspec.json.decode(result, type=dict[str, object]),
            )
        except msgspec.MsgspecError as error:
            raise self._unreadable(agent, error) from error

    async def stream(
        self,
        agent: str,
        method: Literal["SendStreamingMessage", "SubscribeToTask"],
        params: Mapping[str, object],
        *,
        last_event_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Events as they come; ends when the agent ends the turn. Raises: as `send`, and ConnectionLost midway."""
        sent = {"A2A-Version": "1.0", "Accept": "text/event-stream, application/json", **(headers or {})}
        if last_event_id is not None:
            sent["Last-Event-ID"] = last_event_id
        async with self._connection.exchange(
            "POST", _path(agent), body=_envelope(method, params), headers=sent
        ) as response:
            if not (response.is_success and response.headers.get("content-type", "").startswith("text/event-stream")):
                # An error, or an agent that does not stream.
                yield self._event(agent, response, await self._connection.read(response), event_id=None)
                return
            async for frame in self._connection.events(response):
                yield self._event(agent, response, frame.data, event_id=frame.id)

    async def _unary(
        self,
        agent: str,
        method: str,
        params: Mapping[str, object],
        *,
        timeout_ms: int | None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[msgspec.Raw, bool]:
        """The result, and whether the hub shuts down."""
        headers = {"A2A-Version": "1.0", **(headers or {})}
        timeout_s = _UNARY_TIMEOUT_S
        if timeout_ms is not None:
            headers["Meshway-Timeout-Ms"] = str(timeout_ms)
            timeout_s = timeout_ms / 1000 + _TIMEOUT_MARGIN_S
        async with self._connection.exchange(
            "POST", _path(agent), body=_envelope(method, params), headers=headers, silence_s=timeout_s
        ) as response:
            is_closing = "meshway-draining" in response.headers
            return self._result(agent, response, await self._connection.read(response)), is_closing

    def _result(self, agent: str, response: httpx.Response, content: bytes) -> msgspec.Raw:
        try:
            answer = msgspec.json.decode(content, type=_WireAnswer)
        except msgspec.MsgspecError as error:
            if not response.is_success:
                raise self._connection.refusal(response, content) from error
            raise self._connection.unexpected(response, content, str(error)) from error
        if answer.error is not None:
            raise _call_error(agent, response, answer.error)
        if not response.is_success:
            raise self._connection.refusal(response, content)
        if isinstance(answer.result, msgspec.UnsetType):
            raise self._connection.unexpected(response, content, "neither result nor error")
        return answer.result

    def _event(self, agent: str, response: httpx.Response, data: bytes, *, event_id: bytes | None) -> StreamEvent:
        result = self._result(agent, response, data)
        try:
            return stream_event(result, event_id=event_id)
        except msgspec.MsgspecError as error:
            raise self._unreadable(agent, error) from error

    def _unreadable(self, agent: str, reason: object) -> UnexpectedAnswer:
        return UnexpectedAnswer(
            f"Agent {agent!r} answered something that is not A2A 1.0: {reason}", url=self._connection.url
        )


def stream_event(content: bytes | msgspec.Raw, *, event_id: bytes | None) -> StreamEvent:
    """Read an A2A 1.0 StreamResponse. Raises: msgspec.MsgspecError."""
    shape = msgspec.json.decode(content, type=_WireStreamResponse)
    raw = msgspec.json.decode(content, type=dict[str, object])
    event = _stream_event(shape, raw, None if event_id is None else event_id.decode())
    if event is None:
        raise msgspec.ValidationError("an event holds none of task, message, statusUpdate, artifactUpdate")
    return event


def _stream_event(shape: _WireStreamResponse, raw: dict[str, object], event_id: str | None) -> StreamEvent | None:
    match shape:
        case _WireStreamResponse(task=Task() as task):
            return StreamEvent(
                kind=EventKind.TASK,
                text=task.text,
                raw=raw,
                event_id=event_id,
                task_id=task.id,
                context_id=task.context_id,
                state=task.status.state,
            )
        case _WireStreamResponse(message=Message() as message):
            return StreamEvent(
                kind=EventKind.MESSAGE,
                text=message.text,
                raw=raw,
                event_id=event_id,
                task_id=message.task_id,
                context_id=message.context_id,
            )
        case _WireStreamResponse(status_update=_WireStatusUpdate() as update):
            return StreamEvent(
                kind=EventKind.STATUS,
                text=update.status.message.text if update.status.message else "",
                raw=raw,
                event_id=event_id,
                task_id=update.task_id,
                context_id=update.context_id,
                state=update.status.state,
            )
        case _WireStreamResponse(artifact_update=_WireArtifactUpdate() as chunk):
            return StreamEvent(
                kind=EventKind.ARTIFACT,
                text=chunk.artifact.text,
                raw=raw,
                event_id=event_id,
                task_id=chunk.task_id,
                context_id=chunk.context_id,
                artifact_id=chunk.artifact.artifact_id,
                append=chunk.append,
                is_last_chunk=chunk.last_chunk,
            )
    return None


def _call_error(agent: str, response: httpx.Response, error: _WireError) -> CallError:
    reason = ""
    fields: list[WrongField] = []
    try:
        details = msgspec.json.decode(error.data, type=list[_WireDetail])
    except msgspec.MsgspecError:
        # `data` is any JSON in JSON-RPC; only the A2A form of it is read.
        details = []
    for detail in details:
        reason = reason or detail.reason
        fields.extend(
            WrongField(each.get("field", ""), each.get("description", "")) for each in detail.field_violations
        )
    return CallError(
        error.message or f"Agent {agent!r} answered JSON-RPC error {error.code}",
        code=reason.lower() or f"rpc_{error.code}",
        status=response.status_code,
        rpc_code=error.code,
        agent=agent,
        fields=fields,
        retry_after_ms=retry_after_ms(response),
    )


def _envelope(method: str, params: Mapping[str, object]) -> dict[str, object]:
    # One request a connection at a time, so any id identifies it.
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": dict(params)}


def _path(agent: str) -> str:
    return f"/a2a/{quote(agent, safe='')}"
