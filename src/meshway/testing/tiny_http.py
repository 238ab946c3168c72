"""A very small HTTP/1.1 server on asyncio streams, for agents that live inside tests and demos.

It knows keep-alive, bodies with a content length and chunked answers, and nothing else: never put it on a network.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

__all__ = ["HttpHandler", "HttpReply", "HttpRequest", "serve_http"]

# A demo's messages are short; whoever sends more talks to the wrong server.
_HEAD_BYTES_MAX = 16 * 1024
_BODY_BYTES_MAX = 1024 * 1024
# A client that opened a connection and says nothing is let go.
_IDLE_S = 75.0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpReply:
    """`body` is the whole answer, or an async generator whose every item is sent at once, as a chunk of its own."""

    body: bytes | AsyncGenerator[bytes, None]
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


HttpHandler = Callable[[HttpRequest], Awaitable[HttpReply]]


@asynccontextmanager
async def serve_http(handler: HttpHandler, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve until the block ends; yields the base URL. Port 0 takes a free one. Open connections are cut at the end."""
    connections: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            connections.add(task)
            task.add_done_callback(connections.discard)
        await _converse(handler, reader, writer)

    server = await asyncio.start_server(converse, host, port, limit=_HEAD_BYTES_MAX)
    try:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections, timeout=5)
        await server.wait_closed()


async def _converse(handler: HttpHandler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, request after request."""
    try:
        while (request := await _read_request(reader)) is not None:
            reply = await handler(request)
            await _write_reply(writer, reply)
            if request.headers.get("connection", "").lower() == "close":
                return
    except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        # The client left, or speaks something else: nobody is there to tell.
        return
    except asyncio.CancelledError:
        # The server is closing; asyncio's stream server would report a cancelled connection as an error.
        return
    finally:
        writer.close()


async def _read_request(reader: asyncio.StreamReader) -> HttpRequest | None:
    """The next request, or None when the client is done. Raises: ValueError when it is not one we understand."""
    async with asyncio.timeout(_IDLE_S):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        request_line, *header_lines = head.decode("latin-1").split("\r\n")
        method, target, _ = request_line.split(" ", 2)
        pairs = (line.partition(":") for line in header_lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        if length > _BODY_BYTES_MAX or "transfer-encoding" in headers:
            raise ValueError("only bodies with a content length, up to 1 MiB")
        body = await reader.readexactly(length)
    return HttpRequest(method, target.partition("?")[0], headers, body)


async def _write_reply(writer: asyncio.StreamWriter, reply: HttpReply) -> None:
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", f"content-type: {reply.content_type}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    if isinstance(reply.body, bytes):
        lines.append(f"content-length: {len(reply.body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + reply.body)
        await writer.drain()
        return
    writer.write("\r\n".join([*lines, "transfer-encoding: chunked", "", ""]).encode())
    await _write_chunks(writer, reply.body)


async def _write_chunks(writer: asyncio.StreamWriter, body: AsyncGenerator[bytes, None]) -> None:
    """Chunk by chunk; the generator is closed also when the client leaves half way."""
    async with aclosing(body) as chunks:
        async for chunk in chunks:
            if writer.is_closing():
                raise ConnectionResetError("the client left")
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()
