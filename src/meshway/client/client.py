"""The SDK's front door: one hub, seen from a program."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType

from meshway.client.agents import AgentsApi
from meshway.client.calls import AgentCalls
from meshway.client.connection import HubConnection
from meshway.client.keys import KeysApi
from meshway.client.mesh import MeshApi
from meshway.client.messages import Answer, StreamEvent, message_of
from meshway.client.messaging import MessagingClient, Transport
from meshway.client.push import PushApi
from meshway.client.resumed_stream import TASK_ENDS, TURN_ENDS, StreamPosition, resumed_stream
from meshway.client.tasks import TasksApi

__all__ = ["MeshwayClient"]


class MeshwayClient(MessagingClient):
    """Ask agents, send and receive messages, operate one hub. Use it as `async with MeshwayClient() as client:`.

    `url` and `api_key` default to MESHWAY_URL (else http://127.0.0.1:7070) and MESHWAY_API_KEY. One client belongs to
    one event loop and serves any number of its tasks; programs without a loop take `BlockingClient`. All methods raise
    the errors of `meshway.client.errors`.

    `send_timeout_s` bounds how long messages are repeated while the hub is away. `transport="http"` sends messages by
    posts and has workers poll; feeds and responders always need a WebSocket. `reconnect_timeout_s` bounds how long a
    stream that broke is tried again without a further event.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        send_timeout_s: float = 30.0,
        transport: Transport = "websocket",
        reconnect_timeout_s: float = 60.0,
    ) -> None:
        super().__init__(HubConnection(url, api_key), send_timeout_s=send_timeout_s, transport=transport)
        self._calls = AgentCalls(self._connection)
        self.agents = AgentsApi(self._connection)
        self.keys = KeysApi(self._connection)
        self.push = PushApi(self._connection)
        self.mesh = MeshApi(self._connection)
        self.tasks = TasksApi(self._connection, reconnect_timeout_s=reconnect_timeout_s)
        self._reconnect_timeout_s = reconnect_timeout_s

    @property
    def url(self) -> str:
        """Where the hub is, without a slash at the end."""
        return self._connection.url

    async def ask(
        self,
        agent: str,
        content: str | Mapping[str, object],
        *,
        timeout_ms: int | None = None,
        context_id: str | None = None,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        durable: bool = False,
    ) -> Answer:
        """Send text, or an A2A 1.0 message, and wait for the answer.

        `timeout_ms` bounds the wait (the hub's default: 60 s). `context_id` goes on in a conversation, `task_id` with a
        task that waits for input. The same `idempotency_key` again joins the task, or gets its result. `durable`: the
        hub keeps the message and delivers it when the agent can be reached. A failed task is an Answer with
        `is_failed`; a refused call raises CallError.
        """
        message = message_of(content, context_id=context_id, task_id=task_id, idempotency_key=idempotency_key)
        headers = _delivery_headers(idempotency_key, is_durable=durable)
        return await self._calls.send(agent, message, timeout_ms=timeout_ms, headers=headers)

    def stream(
        self,
        agent: str,
        content: str | Mapping[str, object],
        *,
        context_id: str | None = None,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        durable: bool = False,
    ) -> AsyncIterator[StreamEvent]:
        """Send, and get events as the agent makes them: `async for event in client.stream("echo", "hi"): ...`.

        Where the hub numbers events, a connection that breaks is made again, without gap or repetition; with an
        `idempotency_key` also before the first event. Leaving the loop early closes the stream once the iterator is
        closed (`contextlib.aclosing`) or collected; the task goes on.
        """
        message = message_of(content, context_id=context_id, task_id=task_id, idempotency_key=idempotency_key)
        headers = _delivery_headers(idempotency_key, is_durable=durable)

        def open_stream(position: StreamPosition) -> AsyncGenerator[StreamEvent, None] | None:
            if position.has_events:
                return self._subscription(agent, position)
            if has_begun and idempotency_key is None:
                return None
            has_begun.append(True)
            return self._calls.stream(agent, "SendStreamingMessage", {"message": message}, headers=headers)

        has_begun: list[bool] = []
        return resumed_stream(open_stream, StreamPosition(), ends=TURN_ENDS, timeout_s=self._reconnect_timeout_s)

    def follow_task(self, agent: str, task_id: str, *, last_event_id: str | None = None) -> AsyncIterator[StreamEvent]:
        """Join a task: its present state, then what follows; where events are numbered, after `last_event_id`.

        A connection that breaks is made again, without gap or repetition.
        """

        def open_stream(position: StreamPosition) -> AsyncGenerator[StreamEvent, None] | None:
            if position.has_events:
                return self._subscription(agent, position)
            return self._calls.stream(agent, "SubscribeToTask", {"id": task_id}, last_event_id=last_event_id)

        position = StreamPosition(task_id=task_id, last_event_id=last_event_id)
        return resumed_stream(open_stream, position, ends=TASK_ENDS, timeout_s=self._reconnect_timeout_s)

    async def get_task(self, agent: str, task_id: str) -> Answer:
        """Raises: CallError `task_not_found`, also for somebody else's task."""
        return await self._calls.task(agent, "GetTask", task_id)

    async def cancel_task(self, agent: str, task_id: str) -> Answer:
        """Ask the agent to stop. Raises: CallError `task_not_found`, `task_not_cancelable`."""
        return await self._calls.task(agent, "CancelTask", task_id)

    def _subscription(self, agent: str, position: StreamPosition) -> AsyncGenerator[StreamEvent, None] | None:
        """The rest of a stream that broke; None where its events have no numbers to go on from."""
        if position.task_id is None or position.number is None:
            return None
        return self._calls.stream(
            agent, "SubscribeToTask", {"id": position.task_id}, last_event_id=position.last_event_id
        )

    async def __aenter__(self) -> "MeshwayClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _delivery_headers(idempotency_key: str | None, *, is_durable: bool) -> dict[str, str]:
    headers = {}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    if is_durable:
        headers["Meshway-Delivery"] = "durable"
    return headers
