"""A client of `/v1/ws` for tests: sends frames as dictionaries, and waits for those it expects."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect

__all__ = ["LinkClient", "link_client"]

_PATIENCE_S = 5.0


class LinkClient:
    """Frames that come while another one is expected are kept, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.kept: list[dict] = []
        self._refs = 0

    async def send(self, type_: str, **members: object) -> None:
        await self.socket.send(json.dumps({"type": type_} | {name.rstrip("_"): each for name, each in members.items()}))

    async def next(self) -> dict:
        if self.kept:
            return self.kept.pop(0)
        return await self._receive()

    async def expect(self, type_: str, **members: object) -> dict:
        """The next frame of this type with these members; others are kept."""
        return await self.find(
            lambda frame: frame["type"] == type_ and all(frame.get(name) == each for name, each in members.items())
        )

    async def find(self, wanted: Callable[[dict], bool]) -> dict:
        for index, frame in enumerate(self.kept):
            if wanted(frame):
                return self.kept.pop(index)
        while True:
            frame = await self._receive()
            if wanted(frame):
                return frame
            self.kept.append(frame)

    async def ask(self, type_: str, **members: object) -> dict:
        """Send with a ref of its own; the answer, an error too."""
        self._refs += 1
        ref = f"r{self._refs}"
        await self.send(type_, ref=ref, **members)
        return await self.find(lambda frame: frame.get("ref") == ref)

    async def subscribe(self, id_: str, kind: str, channel: str, **members: object) -> dict:
        """Subscribed, or the error."""
        await self.send("subscribe", id=id_, kind=kind, channel=channel, **members)
        return await self.find(lambda frame: frame["type"] in ("subscribed", "error") and frame.get("id") == id_)

    async def publish(self, kind: str, channel: str, *data: object) -> dict:
        return await self.ask("publish", kind=kind, channel=channel, messages=[{"data": each} for each in data])

    async def messages(self, id_: str, count: int) -> list[dict]:
        """As many messages of a subscription, however they are framed."""
        found: list[dict] = []
        while len(found) < count:
            frame = await self.expect("messages", id=id_)
            found += frame["messages"]
        assert len(found) == count
        return found

    async def silence(self) -> None:
        """Nothing more comes of what was sent before: the hub answers a ping behind it."""
        await self.send("ping", ref="silence")
        frame = await self._receive()
        while frame != {"type": "pong", "ref": "silence"}:
            self.kept.append(frame)
            frame = await self._receive()

    async def closed(self) -> int | None:
        """The close code, once the hub has closed."""
        async with asyncio.timeout(_PATIENCE_S):
            await self.socket.wait_closed()
        return self.socket.close_code

    async def _receive(self) -> dict:
        async with asyncio.timeout(_PATIENCE_S):
            return json.loads(await self.socket.recv())


@asynccontextmanager
async def link_client(port: int, **headers: str) -> AsyncIterator[LinkClient]:
    """A connection that was welcomed."""
    async with connect(
        f"ws://127.0.0.1:{port}/v1/ws", additional_headers=headers, max_size=None, compression=None
    ) as socket:
        client = LinkClient(socket)
        assert (await client.next())["type"] == "welcome"
        try:
            yield client
        finally:
            # The closing handshake would wait behind frames that the test did not read.
            socket.transport.abort()
