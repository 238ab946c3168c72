"""Tasks through the SDK: `client.tasks`. Of every agent, in the hub's own words; conversations go by `client.ask`."""

import builtins
from collections.abc import AsyncGenerator, Mapping, Sequence
from urllib.parse import quote

import msgspec

from meshway.client.calls import stream_event
from meshway.client.connection import HubConnection
from meshway.client.errors import UnexpectedAnswer
from meshway.client.messages import StreamEvent, Task, message_of
from meshway.client.resumed_stream import TASK_ENDS, StreamPosition, resumed_stream
from meshway.client.task_values import Inbox, LostTask, StopNotice, SubmittedTask, TaskPage, TaskReceipt
from meshway.client.values import Page

__all__ = ["TasksApi"]


class _WireReceipts(msgspec.Struct):
    items: tuple[TaskReceipt, ...] = ()


class _WireRedriven(msgspec.Struct):
    tasks: tuple[str, ...] = ()


class _WireResumed(msgspec.Struct):
    was_stopped: bool = True


class TasksApi:
    """Every method raises the errors of `meshway.client.errors`; HubError `task_not_found` also for others' tasks."""

    def __init__(self, connection: HubConnection, *, reconnect_timeout_s: float) -> None:
        self._connection = connection
        self._reconnect_timeout_s = reconnect_timeout_s

    async def submit(
        self,
        content: str | Mapping[str, object],
        *,
        agent: str | None = None,
        skill: str | None = None,
        timeout_ms: int | None = None,
        idempotency_key: str | None = None,
    ) -> SubmittedTask:
        """Give text, or an A2A 1.0 message, to an agent or to whoever has a skill; does not wait for the result.

        `timeout_ms` bounds the work, after which the task fails. The same `idempotency_key` again returns the same
        task. Kept when this returns. Raises: HubError `inbox_full`, `agent_not_found`, `idempotency_key_reused`.
        """
        message = message_of(content, idempotency_key=idempotency_key)
        if skill is not None:
            # By this an agent with several skills knows which one is meant.
            message["metadata"] = {"skill": skill, **_metadata(message)}
        body: dict[str, object] = {"message": message}
        wishes = {"agent": agent, "skill": skill, "timeout_ms": timeout_ms, "idempotency_key": idempotency_key}
        body |= {name: value for name, value in wishes.items() if value is not None}
        return await self._connection.request("POST", "/v1/tasks", SubmittedTask, body=body)

    async def get(self, task_id: str) -> Task:
        """As it is now, with its history and artifacts."""
        return await self._connection.request("GET", _path(task_id), Task)

    async def list(
        self,
        *,
        agent: str | None = None,
        state: str | None = None,
        context_id: str | None = None,
        status_after: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> TaskPage:
        """A page of tasks, the last that changed first; go on with `cursor=page.next_cursor`.

        `state` as `working` or TASK_STATE_WORKING; `status_after`: an RFC 3339 time; `limit` at most 100.
        """
        wishes = {
            "agent": agent,
            "state": state,
            "context": context_id,
            "status_after": status_after,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._connection.request("GET", "/v1/tasks", TaskPage, params=_params(wishes))

    def events(self, task_id: str, *, last_event_id: str | None = None) -> AsyncGenerator[StreamEvent, None]:
        """Every event of the task from its first, or after `last_event_id`, until it ends.

        A connection that breaks is made again, without gap or repetition; only the first connect raises HubUnreachable.
        """

        def open_stream(position: StreamPosition) -> AsyncGenerator[StreamEvent, None]:
            return self._open_events(task_id, position.last_event_id)

        position = StreamPosition(task_id=task_id, last_event_id=last_event_id)
        return resumed_stream(open_stream, position, ends=TASK_ENDS, timeout_s=self._reconnect_timeout_s)

    async def cancel(self, task_id: str) -> Task:
        """End it, and what it has caused. Raises: HubError `task_not_cancelable`."""
        return await self._connection.request("POST", _path(task_id, "cancel"), Task)

    async def receipts(self, task_id: str) -> builtins.list[TaskReceipt]:
        """What has become of it step by step, oldest first; none for a task that its agent owns."""
        return [*(await self._connection.request("GET", _path(task_id, "receipts"), _WireReceipts)).items]

    async def tree(self, task_id: str) -> dict[str, object]:
        """The task and what it has caused, as the hub shows it: each with its `children`."""
        return await self._connection.request("GET", _path(task_id, "tree"), dict[str, object])

    async def inbox(self, agent: str, *, limit: int | None = None, cursor: str | None = None) -> Inbox:
        """What waits for an agent, and what it works on. Raises: HubError `forbidden` for who does not serve it."""
        params = _params({"limit": limit, "cursor": cursor})
        return await self._connection.request("GET", _agent_path(agent, "inbox"), Inbox, params=params)

    async def dead_letters(self, agent: str, *, limit: int | None = None, cursor: str | None = None) -> Page[LostTask]:
        """Tasks that an agent failed at for good, oldest first. Raises: as `inbox`."""
        params = _params({"limit": limit, "cursor": cursor})
        path = _agent_path(agent, "dead-letters")
        return await self._connection.request("GET", path, Page[LostTask], params=params)

    async def redrive(self, agent: str, *, ids: Sequence[str] | None = None) -> builtins.list[str]:
        """Try dead letters again, all (at most 500) without `ids`: each becomes a new task, whose ids are returned."""
        body: dict[str, object] = {} if ids is None else {"ids": builtins.list(ids)}
        path = _agent_path(agent, "dead-letters/redrive")
        return [*(await self._connection.request("POST", path, _WireRedriven, body=body)).tasks]

    async def stop(self, agent: str | None = None, *, reason: str = "") -> StopNotice:
        """Stop an agent, or everything: new work is refused, queued work held, running work cancelled."""
        path = "/v1/stop" if agent is None else _agent_path(agent, "stop")
        return await self._connection.request("POST", path, StopNotice, body={"reason": reason} if reason else {})

    async def resume(self, agent: str | None = None) -> bool:
        """Lift a stop; False where there was none. What was cancelled stays cancelled."""
        path = "/v1/resume" if agent is None else _agent_path(agent, "resume")
        return (await self._connection.request("POST", path, _WireResumed)).was_stopped

    async def _open_events(self, task_id: str, last_event_id: str | None) -> AsyncGenerator[StreamEvent, None]:
        headers = {"Accept": "text/event-stream, application/json"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        async with self._connection.exchange("GET", _path(task_id, "events"), headers=headers) as response:
            if not (response.is_success and response.headers.get("content-type", "").startswith("text/event-stream")):
                raise self._connection.refusal(response, await self._connection.read(response))
            async for frame in self._connection.events(response):
                try:
                    event = stream_event(frame.data, event_id=frame.id)
                except msgspec.MsgspecError as error:
                    raise UnexpectedAnswer(
                        f"An event of task {task_id} is not A2A 1.0: {error}", url=self._connection.url
                    ) from error
                yield event


def _metadata(message: Mapping[str, object]) -> Mapping[str, object]:
    metadata = message.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


def _path(task_id: str, action: str = "") -> str:
    path = f"/v1/tasks/{quote(task_id, safe='')}"
    return f"{path}/{action}" if action else path


def _agent_path(agent: str, action: str) -> str:
    return f"/v1/agents/{quote(agent, safe='')}/{action}"


def _params(wishes: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in wishes.items() if value is not None}
