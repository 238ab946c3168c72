"""A whole hub inside a program's own event loop: for tests of agents, workers and clients.

    from meshway.testing import local_hub

    async def test_an_order_is_shipped():
        async with local_hub() as hub, hub.client() as client:
            async with client.worker("orders", ship):
                await client.enqueue("orders", {"item": "tea"})
                await shipped.wait()

It is the real thing, the embedded engine with its files included, on a free port of the loopback. It leaves signals and
logging alone: what it logs goes to the standard library's logging, where pytest's `caplog` sees it.
"""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshway.assembly.hub import build_hub
from meshway.client import MeshwayClient
from meshway.client.messaging import Transport
from meshway.observability.light_structlog import structlog
from meshway.settings.load import load_settings

__all__ = ["LocalHub", "local_hub"]

# A test that leaves a connection open should not wait as long for it as an operator would.
_DRAIN_TIMEOUT_MS = 1_000


@dataclass(frozen=True, slots=True)
class LocalHub:
    """A running hub. `data` is its directory; a hub started on it again has everything."""

    url: str
    port: int
    data: Path

    def client(self, *, send_timeout_s: float = 30.0, transport: Transport = "websocket") -> MeshwayClient:
        """A client of this hub, to be used as `async with`; the options are those of MeshwayClient."""
        return MeshwayClient(self.url, send_timeout_s=send_timeout_s, transport=transport)


@asynccontextmanager
async def local_hub(
    *, data: Path | None = None, port: int = 0, settings: Mapping[str, object] | None = None
) -> AsyncIterator[LocalHub]:
    """A hub for as long as the block lasts, then drained and gone, with its files where `data` is None.

    `settings` by their dotted names (docs/reference/settings.md): `{"messaging.batch_max": 10}`. To see how a program
    takes a restart, leave the block and enter another with the same `data` and `port`.

    Raises: SettingsError naming what is wrong; OSError when the port is taken.
    """
    failure: Exception | None = None
    with ExitStack() as stack:
        directory = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshway-")))
        listener = stack.enter_context(_listener(port))
        stack.enter_context(_logging_through_the_standard_library())
        bound_port = listener.getsockname()[1]
        flags = {"http.drain_timeout_ms": _DRAIN_TIMEOUT_MS, **(settings or {})}
        flags |= {"host": "127.0.0.1", "port": bound_port, "data": str(directory)}
        effective = load_settings(file=None, environ={}, flags=flags).settings
        async with build_hub(effective, port=bound_port) as hub, asyncio.TaskGroup() as group:
            hub.duties.start("configured_agents", hub.configured.run)
            hub.server.takes_signals = False
            group.create_task(hub.server.serve_on(listener))
            try:
                yield LocalHub(f"http://127.0.0.1:{bound_port}", bound_port, directory)
            except Exception as error:  # noqa: BLE001  raised again below, as it is: the hub's groups would wrap it
                failure = error
            finally:
                hub.server.begin_drain()
    if failure is not None:
        raise failure


def _listener(port: int) -> socket.socket:
    # Calls that come before the first turn of the loop wait in the backlog.
    listener = socket.create_server(("127.0.0.1", port), backlog=1_024)
    listener.setblocking(False)
    return listener


@contextmanager
def _logging_through_the_standard_library() -> Iterator[None]:
    """Unless the program has set structlog up for itself, which is then left as it is."""
    if structlog.is_configured():
        yield
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.reset_defaults()
