"""Both ends of a stream, as raw as asyncio allows.

`agent PORT` sends; `read URL STREAMS SECONDS KEY` measures; `hold URL STREAMS SECONDS KEY` keeps streams open. Each is
a process of its own on the load core. Events carry the agent's clock (CLOCK_MONOTONIC, the same for all processes of a
machine), so the reader knows how long each was under way.
"""

import asyncio
import json
import resource
import statistics
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping
from typing import cast

import uvloop

__all__: list[str] = []

_EVENTS_PER_STREAM = 100
_INTERVAL_S = 0.020
_TICK_S = 0.001
_MARK = b'"text":"at='
_DIGITS = 20
# Opening thousands of connections at once would measure the listen queue.
_OPENING_AT_ONCE = 50
_WARM_UP_S = 1.0
# A server that does not answer must not hang the benchmark.
_OPENING_TIMEOUT_S = 30.0

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class Agent:
    """All its streams, on one wheel of ticks: a timer a stream would be the load generator's own cost."""

    def __init__(self) -> None:
        slots = round(_INTERVAL_S / _TICK_S)
        self._wheel: list[list[AgentConnection]] = [[] for _ in range(slots)]
        self._next = 0

    def add(self, connection: "AgentConnection") -> None:
        # Spread over the wheel, so that no tick has a burst.
        self._wheel[self._next % len(self._wheel)].append(connection)
        self._next += 1

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        started, tick = loop.time(), 0
        while True:
            slot = self._wheel[tick % len(self._wheel)]
            slot[:] = [connection for connection in slot if connection.send_next()]
            tick += 1
            await asyncio.sleep(max(0.0, started + tick * _TICK_S - loop.time()))


class AgentConnection(asyncio.Protocol):
    """One connection of the agent: the card, a stream that is paced, or one that falls silent."""

    def __init__(self, agent: Agent, url: str) -> None:
        self._agent = agent
        self._url = url
        self._received = b""
        self._sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio.Transport in all but name.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        self._received = b""
        path = head.split(b" ", 2)[1]
        if path.endswith(b"agent-card.json"):
            self._send_card(path.split(b"/")[1].decode())
            return
        self._task_id, self._context_id = str(uuid.uuid4()), str(uuid.uuid4())
        task = {"id": self._task_id, "contextId": self._context_id, "status": {"state": "TASK_STATE_WORKING"}}
        self._transport.write(_HEAD + _chunk({"task": task}))
        self._sent = 0
        if path == b"/stream":
            self._agent.add(self)

    def send_next(self) -> bool:
        """Write one event; False when the stream is over or its reader has gone."""
        if self._transport.is_closing():
            return False
        self._sent += 1
        ids = {"taskId": self._task_id, "contextId": self._context_id}
        if self._sent < _EVENTS_PER_STREAM:
            text = f"at={time.monotonic_ns():0{_DIGITS}d} and some words"
            artifact = {"artifactId": "a1", "parts": [{"text": text}]}
            self._transport.write(_chunk({"artifactUpdate": {**ids, "artifact": artifact, "append": self._sent > 1}}))
            return True
        status = {"statusUpdate": {**ids, "status": {"state": "TASK_STATE_COMPLETED"}}}
        self._transport.write(_chunk(status) + b"0\r\n\r\n")
        return False

    def _send_card(self, name: str) -> None:
        card = {
            "name": name,
            "description": "Streams.",
            "version": "1.0.0",
            "supportedInterfaces": [
                {"url": f"{self._url}/{name}", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
            ],
            "capabilities": {"streaming": True},
            "defaultInputModes": ["text/plain"],
            "defaultOutputModes": ["text/plain"],
            "skills": [{"id": "s", "name": "S", "description": "Stream", "tags": ["bench"]}],
        }
        body = json.dumps(card).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


class Reader(asyncio.Protocol):
    """One connection of the client: asks for a stream, notes delays, asks again when it has ended."""

    def __init__(self, request: bytes, tally: "Tally", *, repeats: bool) -> None:
        self._request = request
        self._tally = tally
        self._repeats = repeats
        self._rest = b""
        self.is_open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio.Transport in all but name.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        buffer = self._rest + data if self._rest else data
        if not self.is_open.done():
            if not buffer.startswith(b"HTTP/1.1 200"):
                self._tally.failed += 1
            self.is_open.set_result(None)
        position = 0
        while (found := buffer.find(_MARK, position)) >= 0 and found + len(_MARK) + _DIGITS <= len(buffer):
            begin = found + len(_MARK)
            position = begin + _DIGITS
            self._tally.note(now_ns - int(buffer[begin:position]))
        if buffer.endswith(b"0\r\n\r\n"):
            self._rest = b""
            if self._repeats:
                self._transport.write(self._request)
        else:
            # A mark may be cut anywhere; what is left of this event is all that can matter.
            self._rest = buffer[max(position, len(buffer) - len(_MARK) - _DIGITS) :]

    def connection_lost(self, error: Exception | None) -> None:
        if not self._tally.is_over:
            self._tally.failed += 1
        if not self.is_open.done():
            self.is_open.set_result(None)


class Tally:
    """Delays in nanoseconds while measuring."""

    def __init__(self) -> None:
        self.delays_ns: deque[int] = deque()
        self.failed = 0
        self.is_measuring = False
        self.is_over = False

    def note(self, delay_ns: int) -> None:
        if self.is_measuring:
            self.delays_ns.append(delay_ns)


async def serve(port: int) -> None:
    agent = Agent()
    loop = asyncio.get_running_loop()
    url = f"http://127.0.0.1:{port}"
    await loop.create_server(lambda: AgentConnection(agent, url), "127.0.0.1", port, backlog=4096)
    await agent.turn()


async def read(url: str, streams: int, seconds: float, key: str) -> None:
    tally = Tally()
    await _open(url, streams, key, tally, repeats=True)
    await asyncio.sleep(_WARM_UP_S)
    print("measuring", flush=True)
    started, tally.is_measuring = time.monotonic(), True
    await asyncio.sleep(seconds)
    tally.is_measuring, tally.is_over = False, True
    percentiles = statistics.quantiles(tally.delays_ns, n=100) if len(tally.delays_ns) > 1 else [float("inf")] * 99
    seen = {
        "events": len(tally.delays_ns),
        "seconds": time.monotonic() - started,
        "failed": tally.failed,
        "p50_ms": percentiles[49] / 1e6,
        "p99_ms": percentiles[98] / 1e6,
    }
    print(json.dumps(seen), flush=True)


async def hold(url: str, streams: int, seconds: float, key: str) -> None:
    """Say how many are open after they have been silent for so many seconds (two keep-alive comments)."""
    tally = Tally()
    await _open(url, streams, key, tally, repeats=False)
    await asyncio.sleep(min(seconds, 0.002 * streams))
    print(streams - tally.failed, flush=True)
    # Long enough for whoever reads that line to look at the hub's memory.
    await asyncio.sleep(1.0)
    tally.is_over = True


async def _open(url: str, streams: int, key: str, tally: Tally, *, repeats: bool) -> None:
    loop = asyncio.get_running_loop()
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    request = _request(f"/{path}", host, key)
    opening: deque[Reader] = deque()
    async with asyncio.timeout(_OPENING_TIMEOUT_S):
        for _ in range(streams):
            _, reader = await loop.create_connection(lambda: Reader(request, tally, repeats=repeats), name, int(port))
            opening.append(reader)
            if len(opening) >= _OPENING_AT_ONCE:
                await opening.popleft().is_open
        for reader in opening:
            await reader.is_open


def _request(path: str, host: str, key: str) -> bytes:
    message = {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "Stream, please."}]}
    call = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": {"message": message}}
    body = json.dumps(call)
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        "A2A-Version: 1.0",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def _chunk(result: Mapping[str, object]) -> bytes:
    event = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}, separators=(",", ":"))
    data = f"data: {event}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def main(role: str, *arguments: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if role == "agent":
        uvloop.run(serve(int(arguments[0])))
        return
    url, streams, seconds, *key = arguments
    work = read if role == "read" else hold
    uvloop.run(work(url, int(streams), float(seconds), key[0] if key else ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
