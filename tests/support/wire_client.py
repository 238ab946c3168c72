"""A client on bare sockets: it says exactly what a test wants said and sees exactly what came back, and when."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from support.hub_process import HubProcess

__all__ = ["JSON", "V03", "V10", "EventStream", "Reply", "open_stream", "rpc", "say", "send_params", "sse_data"]

JSON = {"content-type": "application/json"}
V10 = JSON | {"a2a-version": "1.0"}
V03 = JSON
_PATIENCE_S = 15.0


@dataclass(frozen=True)
class Reply:
    """Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


def send_params(text: str = "hello", **message: object) -> dict:
    """Params of SendMessage in 1.0."""
    return {"message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": text}]} | message}


def rpc(method: str, params: object, *, request_id: object = 1) -> dict:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


async def say(
    hub: HubProcess,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request on a connection of its own. Bodies that are not bytes become JSON; Host is the hub's unless given."""
    async with asyncio.timeout(_PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
        try:
            writer.write(_request(hub, method, path, body, {**(headers or {}), "connection": "close"}))
            status, found = await _read_head(reader)
            content = await reader.read()
        finally:
            writer.close()
    if found.get("transfer-encoding") == "chunked":
        content = _unchunked(content)
    return Reply(status, found, content)


@dataclass
class EventStream:
    """An answer that goes on; closed by leaving, without a word, as a client that dies."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    # Frames as they came, comments included.
    frames: list[bytes] = field(default_factory=list)
    _buffer: bytes = b""
    _ended: bool = False

    async def frame(self) -> bytes | None:
        """The next frame without its blank line; None at the orderly end of the answer."""
        async with asyncio.timeout(_PATIENCE_S):
            while b"\n\n" not in self._buffer:
                if self._ended:
                    return None
                size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
                self._buffer += (await self.reader.readexactly(size + 2))[:-2]
                self._ended = size == 0
        frame, _, self._buffer = self._buffer.partition(b"\n\n")
        self.frames.append(frame)
        return frame

    async def event(self) -> dict | None:
        """The data of the next event, comments passed over."""
        while (frame := await self.frame()) is not None:
            if not frame.startswith(b":"):
                return sse_data(frame)
        return None

    async def rest(self) -> list[dict]:
        events = []
        while (event := await self.event()) is not None:
            events.append(event)
        return events

    def close(self) -> None:
        self.writer.transport.abort()

    async def __aenter__(self) -> "EventStream":
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.close()


async def open_stream(
    hub: HubProcess, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
) -> EventStream:
    """Send, and come back as soon as the head of the answer is there."""
    async with asyncio.timeout(_PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.port, limit=1 << 20)
        writer.write(_request(hub, method, path, body, headers or {}))
        status, found = await _read_head(reader)
    return EventStream(status, found, reader, writer)


def sse_data(frame: bytes) -> dict:
    lines = [line[5:].strip() for line in frame.split(b"\n") if line.startswith(b"data:")]
    return json.loads(b"\n".join(lines))


def _request(hub: HubProcess, method: str, path: str, body: object, headers: Mapping[str, str]) -> bytes:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1"]
    if not any(name.lower() == "host" for name in headers):
        lines.append(f"Host: 127.0.0.1:{hub.port}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"content-length: {len(content)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + content


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


def _unchunked(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body, data = body + data[:length], data[length + 2 :]
        if not length:
            break
    return body
