"""A whole hub in the test's own loop, on a real socket: everything is real but the process."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from meshway.assembly.hub import Hub, build_hub
from meshway.messaging.settings import MessagingSettings
from meshway.settings.model import Settings

__all__ = ["ChannelHub", "channel_hub"]


@dataclass
class ChannelHub:
    """The hub, where it listens, and a client of it."""

    hub: Hub
    port: int
    http: httpx.AsyncClient
    serving: asyncio.Task[None]

    @property
    def waits(self) -> int:
        """Feeds and long polls that the hub is answering."""
        return self.hub.server._runtime.drain.waits  # no caller but a test counts them

    def drain(self) -> None:
        """As SIGTERM does."""
        self.hub.server.handle_exit(15, None)

    async def stored(self, queue: str) -> int:
        """Messages in a queue, whatever their state."""
        answer = await self.http.get(f"/v1/queues/{queue}/messages")
        return len(answer.json()["items"]) if answer.status_code == 200 else 0

    async def connect(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of its own on which `request` was sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        return reader, writer


@asynccontextmanager
async def channel_hub(data: Path, *, messaging: MessagingSettings | None = None) -> AsyncIterator[ChannelHub]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    settings = Settings(data=str(data), port=port, messaging=messaging or MessagingSettings())
    async with build_hub(settings, port=port) as hub, asyncio.TaskGroup() as group:
        serving = group.create_task(hub.server.serve_on(listener))
        async with asyncio.timeout(5):
            while not hub.server.started:  # noqa: ASYNC110  uvicorn has a flag, no event
                await asyncio.sleep(0)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
                yield ChannelHub(hub, port, http, serving)
        finally:
            hub.server.should_exit = True
            hub.server.force_exit = True
