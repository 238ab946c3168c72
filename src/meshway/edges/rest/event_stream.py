"""A server-sent event stream as an ASGI answer: a first comment at once, comments in silence, ends with its client."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from meshway.protocols.sse import KEEP_ALIVE

__all__ = ["EventStreamResponse", "disconnected"]

# Headers and this leave together, when the subscription is active; readers drop comments.
_FIRST_COMMENT = b": connected\n\n"
_FAREWELL = b": the hub is shutting down\n\n"
# Made ahead of a slow reader; sources keep what they have (a log, or the latest value of each agent): nothing is lost.
_FRAMES_AHEAD_MAX = 16


class EventStreamResponse(Response):
    """Relays `frames`, each of whole events, until they end, the client leaves or the hub shuts down.

    The generator is closed then, and `on_end` is called once.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        keep_alive_ms: int,
        shutdown: asyncio.Event,
        on_end: Callable[[], None],
    ) -> None:
        # Proxies must neither keep nor collect what is sent (X-Accel-Buffering is nginx's word for it).
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._keep_alive_s = keep_alive_ms / 1000
        self._shutdown = shutdown
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await _write(send, _FIRST_COMMENT)
            await self._relay(receive, send)
        except* OSError:
            # The client went while something was written to it: the usual end of a stream.
            pass
        finally:
            await self._frames.aclose()
            self._on_end()

    async def _relay(self, receive: Receive, send: Send) -> None:
        waiting: asyncio.Queue[bytes | None] = asyncio.Queue(_FRAMES_AHEAD_MAX)
        async with asyncio.TaskGroup() as group:
            pump = group.create_task(self._pump(waiting))
            written = group.create_task(self._write_all(waiting, send))
            left = group.create_task(disconnected(receive))
            shutdown = group.create_task(self._shutdown.wait())
            await asyncio.wait({written, left, shutdown}, return_when=asyncio.FIRST_COMPLETED)
            is_shutdown, is_left = shutdown.done(), left.done()
            for task in (pump, written, left, shutdown):
                task.cancel()
        if not is_left:
            await send({"type": "http.response.body", "body": _FAREWELL if is_shutdown else b"", "more_body": False})

    async def _pump(self, waiting: "asyncio.Queue[bytes | None]") -> None:
        # Apart from the writer, whose time-outs would otherwise cancel the generator itself.
        async for frame in self._frames:
            await waiting.put(frame)
        await waiting.put(None)

    async def _write_all(self, waiting: "asyncio.Queue[bytes | None]", send: Send) -> None:
        while True:
            try:
                async with asyncio.timeout(self._keep_alive_s):
                    frame = await waiting.get()
            except TimeoutError:
                frame = KEEP_ALIVE
            if frame is None:
                return
            await _write(send, frame)


async def _write(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
