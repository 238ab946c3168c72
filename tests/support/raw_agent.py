"""An agent on bare sockets: it keeps every byte it was sent and answers what a test's script writes, word for word.

It lives in the test's own event loop, so a script can wait for the test and the test for the script.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from support.hub_process import HubProcess
from support.ports import free_port

__all__ = [
    "RawAgent",
    "RawRequest",
    "Script",
    "Wire",
    "answering",
    "message_answer",
    "raw_agent",
    "registered_agent",
    "registered_replicas",
    "running_agent",
    "task_answer",
]

WELL_KNOWN = "/.well-known/agent"
# Nothing a test waits for takes longer; what does is a failure, not a slow machine.
_PATIENCE_S = 10.0

_ids = itertools.count(1)


@dataclass
class RawRequest:
    """One request as it came. Header names are in lower case; `head` and `body` are the bytes."""

    method: str
    target: str
    headers: dict[str, str]
    head: bytes
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


class Wire:
    """What a script writes its answer to."""

    def __init__(self, transport: asyncio.Transport, closed: asyncio.Event, can_write: asyncio.Event) -> None:
        self._transport = transport
        self._can_write = can_write
        self.closed = closed

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._transport.write(data)

    def answer(
        self,
        body: bytes | object,
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A whole answer; what is not bytes becomes JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"content-type: {content_type}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += [f"content-length: {len(content)}", "", ""]
        self.send("\r\n".join(lines).encode() + content)

    def start_stream(self) -> None:
        self.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, result: object, *, request_id: object = 1) -> None:
        """One JSON-RPC event in a chunk of its own."""
        document = {"jsonrpc": "2.0", "id": request_id, "result": result}
        self.chunk(b"data: " + json.dumps(document).encode() + b"\n\n")

    async def drain(self) -> None:
        """Wait until the hub takes more."""
        await self._can_write.wait()

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def die(self) -> None:
        """What a killed process does to its connection."""
        self._transport.abort()


Script = Callable[[RawRequest, Wire], Awaitable[None]]


@dataclass
class RawAgent:
    """`url` is the base to register; interfaces are below it. `seen` are the calls, `received` all bytes of all
    connections, reading of the card included."""

    card: dict | bytes
    script: Script
    port: int
    path: str
    id: str = field(default_factory=lambda: f"raw-{next(_ids)}")
    seen: list[RawRequest] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    card_reads: list[RawRequest] = field(default_factory=list)
    connections: int = 0
    # Sent word for word to whoever reads the card; empty: the card.
    raw_card_answer: bytes = b""

    def __post_init__(self) -> None:
        self.transports: set[asyncio.Transport] = set()
        self.scripts: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []
        self._arrived = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    async def wait_seen(self, count: int = 1) -> RawRequest:
        """The latest call, once there are `count`."""
        async with asyncio.timeout(_PATIENCE_S):
            while len(self.seen) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.seen[-1]

    def play(self, request: RawRequest, wire: Wire) -> None:
        """Begin the script; `running_agent` owns its task."""
        self.seen.append(request)
        self._arrived.set()
        script = asyncio.get_running_loop().create_task(self.script(request, wire))
        self.scripts.add(script)
        script.add_done_callback(self._played)

    def _played(self, script: asyncio.Task[None]) -> None:
        self.scripts.discard(script)
        if not script.cancelled() and (error := script.exception()) is not None:
            self.failures.append(error)

    async def scripts_ended(self, *, within_s: float = 2.0) -> None:
        """Wait until no script runs: those that wait for the hub to let go of them have seen it."""
        async with asyncio.timeout(within_s):
            while self.scripts:
                await asyncio.wait(tuple(self.scripts))

    def kill_connections(self) -> None:
        for transport in tuple(self.transports):
            transport.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, agent: RawAgent) -> None:
        self._agent = agent
        self._buffer = bytearray()
        self._closed = asyncio.Event()
        self._can_write = asyncio.Event()
        self._can_write.set()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._agent.transports.add(transport)
        self._agent.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._agent.transports.discard(self._transport)
        self._closed.set()
        self._can_write.set()

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def data_received(self, data: bytes) -> None:
        self._agent.received += data
        self._buffer += data
        while (request := self._take()) is not None:
            wire = Wire(self._transport, self._closed, self._can_write)
            if request.method == "GET" and WELL_KNOWN in request.target:
                self._agent.card_reads.append(request)
                if self._agent.raw_card_answer:
                    wire.send(self._agent.raw_card_answer)
                else:
                    wire.answer(self._agent.card)
            else:
                self._agent.play(request, wire)

    def _take(self) -> RawRequest | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._buffer[: end + 4])
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        size = int(headers.get("content-length", "0"))
        if len(self._buffer) < end + 4 + size:
            return None
        body = bytes(self._buffer[end + 4 : end + 4 + size])
        del self._buffer[: end + 4 + size]
        method, target, _ = first.split(" ")
        return RawRequest(method, target, headers, head, body)


def message_answer(request: RawRequest, *, text: str = "hi") -> dict:
    """A JSON-RPC 1.0 answer that is a message."""
    message = {"messageId": "m-1", "role": "ROLE_AGENT", "parts": [{"text": text}]}
    return {"jsonrpc": "2.0", "id": request.json["id"], "result": {"message": message}}


def task_answer(
    request: RawRequest, *, task: str, context: str = "c-1", state: str = "TASK_STATE_COMPLETED", bare: bool = False
) -> dict:
    """A JSON-RPC 1.0 answer that is a task; `bare` as GetTask gives it."""
    document = {"id": task, "contextId": context, "status": {"state": state}}
    return {"jsonrpc": "2.0", "id": request.json["id"], "result": document if bare else {"task": document}}


def answering(make: Callable[[RawRequest], object]) -> Script:
    """A script that answers every request with the JSON that `make` makes of it."""

    async def script(request: RawRequest, wire: Wire) -> None:
        wire.answer(make(request))

    return script


def raw_agent(
    script: Script | None = None,
    *,
    port: int | None = None,
    path: str = "",
    interfaces: Sequence[tuple[str, str]] = (("JSONRPC", "1.0"),),
    tenant: str | None = None,
    **card: object,
) -> RawAgent:
    """An agent that is not running yet; without a script it answers with a message."""
    port = port or free_port()
    base = f"http://127.0.0.1:{port}{path}"
    offered = []
    for binding, version in interfaces:
        where = f"{base}/rpc" if binding == "JSONRPC" else f"{base}/rest"
        interface = {"url": where, "protocolBinding": binding, "protocolVersion": version}
        offered.append(interface | ({} if tenant is None else {"tenant": tenant}))
    document = {
        "name": "Raw",
        "description": "Answers word for word",
        "version": "1.0.0",
        "supportedInterfaces": offered,
        "capabilities": {"streaming": True, "pushNotifications": True},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{"id": "raw", "name": "Raw", "description": "Raw bytes", "tags": ["raw"]}],
    }
    return RawAgent(document | card, script or answering(message_answer), port, path)


@contextlib.asynccontextmanager
async def running_agent(agent: RawAgent) -> AsyncIterator[RawAgent]:
    """Listen until the block ends; then every connection is cut and every script cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(agent), "127.0.0.1", agent.port, backlog=4096)
    try:
        yield agent
    finally:
        server.close()
        agent.kill_connections()
        scripts = tuple(agent.scripts)
        for script in scripts:
            script.cancel()
        if scripts:
            await asyncio.wait(scripts)
    assert not agent.failures, agent.failures


@contextlib.asynccontextmanager
async def registered_agent(hub: HubProcess, agent: RawAgent, **fields: object) -> AsyncIterator[RawAgent]:
    """A running agent that the hub knows by URL as long as the block runs."""
    async with running_agent(agent):
        await asyncio.to_thread(hub.register, agent.id, agent.url, **fields)
        try:
            yield agent
        finally:
            # A test may have ended the hub.
            with contextlib.suppress(OSError):
                await asyncio.to_thread(hub.request, "DELETE", f"/v1/agents/{agent.id}")


@contextlib.asynccontextmanager
async def registered_replicas(
    hub: HubProcess, first: RawAgent, second: RawAgent, **fields: object
) -> AsyncIterator[tuple[RawAgent, RawAgent]]:
    """One agent with two instances, known by the id of the first."""
    async with running_agent(second), registered_agent(hub, first, **fields):
        status, _, answer = await asyncio.to_thread(
            hub.request, "POST", f"/v1/agents/{first.id}/instances", {"url": second.url, **fields}
        )
        assert status in (200, 201), answer
        yield first, second
