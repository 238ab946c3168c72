"""A hub's WebSocket side that does what a test says: real sockets, scripted answers, disconnects at nasty moments."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HandshakeRequest
from websockets.http11 import Response as HandshakeResponse

from meshway.client import MeshwayClient
from meshway.protocols.link import frames

__all__ = ["FakeLinkHub", "document", "fake_link_hub", "problem"]

_decode = msgspec.json.Decoder(frames.ClientFrame).decode
_WAIT_S = 20.0


class FakeLinkHub:
    """`received` holds every frame of every connection in order; `answer` reacts to each."""

    def __init__(self) -> None:
        self.received: list[frames.ClientFrame] = []
        self.connections: list[ServerConnection] = []
        self.handshakes: list[Headers] = []
        # Of agents: what `accept_all` confirmed.
        self.reports: list[frames.ReportItem] = []
        self.task_settlements: list[frames.TaskSettlement] = []
        self.lease_ms = 30_000
        self.answer: Callable[[ServerConnection, frames.ClientFrame], Awaitable[None]] = self.accept_all
        self.refuse_with: tuple[int, bytes] | None = None
        self.frame_bytes_max = 1_000_000
        self.protocol = 1
        self.port = 0
        self._server: Server | None = None
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await serve(
            self._converse, "127.0.0.1", self.port, process_request=self._gate, compression=None, close_timeout=0.2
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Away, as after kill -9: open connections break, new ones are refused."""
        if self._server is not None:
            self.drop()
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def drop(self) -> None:
        """Cut all connections without a word."""
        for connection in self.connections:
            connection.transport.abort()

    async def send(self, frame: frames.HubFrame) -> None:
        """To the newest connection."""
        await self.connections[-1].send(msgspec.json.encode(frame), text=True)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that frames or connections bring about."""
        async with asyncio.timeout(_WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def of(self, kind: type) -> list:
        """Frames of a type that came so far."""
        return [frame for frame in self.received if isinstance(frame, kind)]

    async def next_of(self, kind: type, count: int = 1) -> msgspec.Struct:
        """The `count`-th frame of a type, as soon as it is there."""
        await self.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    async def accept_all(self, connection: ServerConnection, frame: frames.ClientFrame) -> None:
        """What a hub does where nothing goes wrong."""
        match frame:
            case frames.Subscribe():
                await _tell(connection, frames.Subscribed(id=frame.id))
            case frames.Serve():
                states = [
                    frames.HoldState(delivery_id=each.delivery_id, held=True, source=each.source)
                    for each in frame.holds
                ]
                await _tell(connection, self.served(frame, states))
            case frames.Report():
                self.reports += frame.reports
                await _tell(connection, frames.Reported(ref=frame.ref, outcomes=_kept(frame.reports)))
            case frames.SettleTasks():
                self.task_settlements += frame.settlements
                await _tell(connection, frames.Settled(ref=frame.ref, outcomes=["done"] * len(frame.settlements)))
            case frames.Unsubscribe() | frames.Bye():
                await _tell(connection, frames.Unsubscribed(id=frame.id))
            case frames.Publish():
                ids = [each["id"] for each in json.loads(bytes(frame.messages))]
                receipts = [frames.Receipt(id=each, duplicate=False) for each in ids]
                await _tell(connection, frames.Accepted(ref=frame.ref, receipts=receipts))
            case frames.Settle():
                outcomes = ["done"] * len(frame.settlements)
                await _tell(connection, frames.Settled(ref=frame.ref, outcomes=outcomes))
            case frames.Reply():
                await _tell(connection, frames.Replied(ref=frame.ref, outcome="done"))
            case frames.Request():
                await _tell(connection, frames.Response(ref=frame.ref, executed=True, data=frame.data, cache="off"))
            case frames.Ack():
                await _tell(connection, frames.Acked(ref=frame.ref, sequence=frame.sequence))

    def served(self, frame: frames.Serve, states: list[frames.HoldState]) -> frames.Served:
        """The answer to an instance of an agent."""
        return frames.Served(id=frame.id, instance=frame.instance, lease_ms=self.lease_ms, grace_ms=5_000, holds=states)

    def _gate(self, connection: ServerConnection, request: HandshakeRequest) -> HandshakeResponse | None:
        self.handshakes.append(request.headers)
        self._changed.set()
        if self.refuse_with is None:
            return None
        status, body = self.refuse_with
        headers = Headers({"Content-Type": "application/problem+json", "Content-Length": str(len(body))})
        return HandshakeResponse(status, HTTPStatus(status).phrase, headers, body)

    async def _converse(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        welcome = frames.Welcome(
            protocol=self.protocol,
            hub="fake",
            ping_interval_ms=15_000,
            frame_bytes_max=self.frame_bytes_max,
            subscriptions_max=1_000,
        )
        try:
            await _tell(connection, welcome)
            async for content in connection:
                frame = _decode(content)
                self.received.append(frame)
                self._changed.set()
                await self.answer(connection, frame)
        except ConnectionClosed:
            return
        finally:
            self._changed.set()


async def _tell(connection: ServerConnection, frame: frames.HubFrame) -> None:
    await connection.send(msgspec.json.encode(frame), text=True)


def _kept(reports: list[frames.ReportItem]) -> list[frames.ReportOutcome]:
    last = {item.delivery_id: item.source for item in reports}
    return [frames.ReportOutcome(delivery_id=each, outcome="done", source=source) for each, source in last.items()]


def document(message_id: str, data: object = None, *, channel: str = "c", **more: object) -> msgspec.Raw:
    """A message as the hub sends it."""
    members = {
        "id": message_id,
        "channel": channel,
        "data": data,
        "content_type": "application/json",
        "attributes": {},
        "timestamp": "2026-11-22T07:00:00.000Z",
        "principal": "local",
    }
    return msgspec.Raw(json.dumps({**members, **more}).encode())


def problem(code: str, status: int, **more: object) -> msgspec.Raw:
    """A problem document (RFC 9457)."""
    members = {"type": "about:blank", "title": code, "status": status, "detail": f"it is {code}", "code": code}
    return msgspec.Raw(json.dumps({**members, **more}).encode())


@asynccontextmanager
async def fake_link_hub(**client_options: object) -> AsyncIterator[tuple[FakeLinkHub, MeshwayClient]]:
    """The hub, and a client of it."""
    hub = FakeLinkHub()
    await hub.start()
    try:
        async with MeshwayClient(hub.url, **client_options) as client:
            yield hub, client
    finally:
        await hub.stop()
