"""The SDK's front door: one hub, seen from a program."""

from collections.abc import AsyncIterator, Mapping
from types import TracebackType

from meshway.client.agents import AgentsApi
from meshway.client.calls import AgentCalls
from meshway.client.connection import HubConnection
from meshway.client.keys import KeysApi
from meshway.client.messages import Answer, StreamEvent, message_of
from meshway.client.messaging import MessagingClient, Transport

__all__ = ["MeshwayClient"]


class MeshwayClient(MessagingClient):
    """Ask agents, send and receive messages, operate one hub. Use it as `async with MeshwayClient() as client:`.

    `url` and `api_key` default to MESHWAY_URL (else http://127.0.0.1:7070) and MESHWAY_API_KEY. One client belongs to
    one event loop and serves any number of its tasks; programs without a loop take `BlockingClient`. All methods raise
    the errors of `meshway.client.errors`.

    `send_timeout_s` bounds how long messages are repeated while the hub is away. `transport="http"` sends messages by
    posts and has workers poll; feeds and responders always need a WebSocket.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        send_timeout_s: float = 30.0,
        transport: Transport = "websocket",
    ) -> None:
        super().__init__(HubConnection(url, api_key), send_timeout_s=send_timeout_s, transport=transport)
        self._calls = AgentCalls(self._connection)
        self.agents = AgentsApi(self._connection)
        self.keys = KeysApi(self._connection)

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
    ) -> Answer:
        """Send text, or an A2A 1.0 message, and wait for the answer.

        `timeout_ms` bounds the wait (the hub's default: 60 s). `context_id` goes on in a conversation, `task_id` with a
        task that waits for input. A failed task is an Answer with `is_failed`; a refused call raises CallError.
        """
        message = message_of(content, context_id=context_id, task_id=task_id)
        return await self._calls.send(agent, message, timeout_ms=timeout_ms)

    def stream(
        self,
        agent: str,
        content: str | Mapping[str, object],
        *,
        context_id: str | None = None,
        task_id: str | None = None,
    ) -> AsyncIterator[StreamEvent]:
        """Send, and get events as the agent makes them: `async for event in client.stream("echo", "hi"): ...`.

        Leaving the loop early closes the stream once the iterator is closed (`contextlib.aclosing`) or collected.
        """
        message = message_of(content, context_id=context_id, task_id=task_id)
        return self._calls.stream(agent, "SendStreamingMessage", {"message": message})

    def follow_task(self, agent: str, task_id: str, *, last_event_id: str | None = None) -> AsyncIterator[StreamEvent]:
        """Join a task: its present state, then what follows; where events are numbered, after `last_event_id`."""
        return self._calls.stream(agent, "SubscribeToTask", {"id": task_id}, last_event_id=last_event_id)

    async def get_task(self, agent: str, task_id: str) -> Answer:
        """Raises: CallError `task_not_found`, also for somebody else's task."""
        return await self._calls.task(agent, "GetTask", task_id)

    async def cancel_task(self, agent: str, task_id: str) -> Answer:
        """Ask the agent to stop. Raises: CallError `task_not_found`, `task_not_cancelable`."""
        return await self._calls.task(agent, "CancelTask", task_id)

    async def __aenter__(self) -> "MeshwayClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
