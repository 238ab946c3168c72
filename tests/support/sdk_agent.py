"""Agents built with the real a2a-sdk server, one interface each: {1.0, 0.3} x {JSON-RPC, HTTP+JSON}."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import httpx
import uvicorn
from a2a.helpers.proto_helpers import new_task_from_user_message, new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import (
    BasePushNotificationSender,
    InMemoryPushNotificationConfigStore,
    InMemoryTaskStore,
    TaskUpdater,
)
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Part
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from support.hub_process import select_pause
from support.ports import free_port

__all__ = ["DIALECTS", "SdkAgents", "running_sdk_agents"]

# name -> (binding, version)
DIALECTS = {
    "j10": ("JSONRPC", "1.0"),
    "r10": ("HTTP+JSON", "1.0"),
    "j03": ("JSONRPC", "0.3"),
    "r03": ("HTTP+JSON", "0.3"),
}


class ScriptedExecutor(AgentExecutor):
    """What it does is the first word of the message: hello, work, count, ask, sleep, else an echo."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        text = context.get_user_input()
        verb, _, rest = text.partition(" ")
        if verb not in ("work", "count", "ask", "sleep") and context.current_task is None:
            await event_queue.enqueue_event(new_text_message(f"echo: {text}", context_id=context.context_id))
            return
        task = context.current_task
        if task is None:
            assert context.message is not None
            task = new_task_from_user_message(context.message)
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await self._work(updater, verb, rest)

    async def _work(self, updater: TaskUpdater, verb: str, rest: str) -> None:
        await updater.start_work()
        if verb == "ask":
            await updater.requires_input(updater.new_agent_message([Part(text="which colour?")]))
            return
        if verb == "sleep":
            await asyncio.sleep(float(rest))
        for n in range(int(rest) if verb == "count" else 1):
            await updater.add_artifact(
                [Part(text=f"{n} " if verb == "count" else f"done: {rest}")], artifact_id="a", append=n > 0
            )
            await asyncio.sleep(0.001)
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


class SeenHeaders:
    """Middleware that remembers the headers of every request: what reached the agents."""

    def __init__(self, app: ASGIApp, seen: list[dict[str, str]]) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            self._seen.append({":path": scope["path"], **headers})
        await self._app(scope, receive, send)


class SdkAgents:
    """One server process-wide; `url("j10")` is the base URL of the agent of that dialect."""

    def __init__(self) -> None:
        self.port = free_port()
        self.seen: list[dict[str, str]] = []

    def url(self, dialect: str) -> str:
        return f"http://127.0.0.1:{self.port}/{dialect}"

    def card(self, dialect: str) -> AgentCard:
        binding, version = DIALECTS[dialect]
        return AgentCard(
            name=f"Scripted {dialect}",
            description="Does what the first word says",
            version="1.0.0",
            supported_interfaces=[
                # The SDK's JSON-RPC route answers at the slash only, and redirects are not followed.
                AgentInterface(
                    url=self.url(dialect) + ("/" if binding == "JSONRPC" else ""),
                    protocol_binding=binding,
                    protocol_version=version,
                )
            ],
            capabilities=AgentCapabilities(
                streaming=True, push_notifications=True, extended_agent_card=dialect == "j10"
            ),
            default_input_modes=["text/plain"],
            default_output_modes=["text/plain"],
            skills=[AgentSkill(id="script", name="Script", description="Follows orders", tags=["test", dialect])],
        )

    def extended_card(self, dialect: str) -> AgentCard | None:
        """What authenticated callers of the first agent see: one skill more."""
        card = self.card(dialect)
        if not card.capabilities.extended_agent_card:
            return None
        card.skills.append(AgentSkill(id="secret", name="Secret", description="For friends", tags=["test"]))
        return card

    def app(self) -> Starlette:
        mounts = [Mount(f"/{dialect}", routes=self._routes(dialect)) for dialect in DIALECTS]
        return Starlette(routes=mounts, middleware=[Middleware(SeenHeaders, seen=self.seen)])

    def _routes(self, dialect: str) -> list:
        binding, version = DIALECTS[dialect]
        card = self.card(dialect)
        configs = InMemoryPushNotificationConfigStore()
        handler = DefaultRequestHandler(
            agent_executor=ScriptedExecutor(),
            task_store=InMemoryTaskStore(),
            agent_card=card,
            extended_agent_card=self.extended_card(dialect),
            push_config_store=configs,
            push_sender=BasePushNotificationSender(httpx.AsyncClient(), configs),
        )
        compat = version == "0.3"
        if binding == "JSONRPC":
            calls = create_jsonrpc_routes(handler, "/", enable_v0_3_compat=compat)
        else:
            calls = create_rest_routes(handler, enable_v0_3_compat=compat)
        return [*create_agent_card_routes(card), *calls]


@contextlib.contextmanager
def running_sdk_agents() -> Iterator[SdkAgents]:
    agents = SdkAgents()
    server = uvicorn.Server(
        uvicorn.Config(agents.app(), port=agents.port, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, name="sdk-agents")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            select_pause()
        yield agents
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(10)
