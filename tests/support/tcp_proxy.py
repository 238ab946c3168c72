"""A wire between two processes that a test can cut, or hold up without either side being told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["TcpProxy", "tcp_proxy"]

_CHUNK_BYTES = 65_536


class TcpProxy:
    """Forwards to `target_port` of this machine."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.accepted = 0
        self._target_port = target_port
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """Nothing passes any more, nothing is closed: what a lost route does, or a sleeping laptop."""
        self._flows.clear()

    def thaw(self) -> None:
        """What was held up passes, and all that follows."""
        self._flows.set()

    def cut(self) -> None:
        """Break every connection; new ones are taken."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until one side closes it or the proxy ends."""
        self.accepted += 1
        # Cancelled at the end of the test's loop, of which asyncio's own callback makes an error report.
        with suppress(asyncio.CancelledError):
            await self._flows.wait()
            try:
                there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
            except OSError:
                writer.transport.abort()
                return
            await self._join(reader, writer, there, back)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        back: asyncio.StreamWriter,
    ) -> None:
        pair = {writer, back}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, back))
                group.create_task(self._forward(there, writer))
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                await self._flows.wait()
                writer.write(chunk)
                await writer.drain()
        # One side has closed: the other one learns it, but not through a wire that is held up.
        await self._flows.wait()
        writer.transport.abort()


@asynccontextmanager
async def tcp_proxy(target_port: int, *, port: int = 0) -> AsyncIterator[TcpProxy]:
    """On `port`, 0: on any. Raises: OSError where somebody has it."""
    proxy = TcpProxy(target_port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.thaw()
        proxy.cut()
