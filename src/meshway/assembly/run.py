"""From effective settings to a process that serves until it is told to stop."""

import asyncio
import gc
import socket
from collections.abc import Callable

import structlog
import uvloop

from meshway.assembly.hub import Hub, build_hub
from meshway.kernel.clock import SystemClock
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.observability.logs import configure_logging
from meshway.settings.model import Settings

__all__ = ["run_hub"]

_log = structlog.get_logger()

# Objects made since the collector last looked. Messages live for milliseconds and hold no cycles; looking through them
# after every 700, as Python does, took a fourteenth of what a message costs.
_YOUNG_MAX = 20_000
# Connections that may wait to be accepted: a burst of clients after a restart.
_BACKLOG = 4_096


def run_hub(
    settings: Settings,
    *,
    on_ready: Callable[[str], None] = lambda url: None,
    shares_port: bool = False,
    group: str = "",
) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean drain. `on_ready` gets the hub's URL once calls are served.

    `shares_port`: other processes, those of the same `group`, listen on the port too.

    Raises: InvalidRequest (a setting, a port in use), DataDirLocked, SchemaTooNew, StoreCorrupt, EngineUnavailable.
    """
    configure_logging(settings.log, clock=SystemClock())
    listener = _listen(settings.host, settings.port, is_shared=shares_port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener, on_ready, group))
    return 0


async def _serve(settings: Settings, listener: socket.socket, on_ready: Callable[[str], None], group: str) -> None:
    with listener:
        async with build_hub(settings, port=listener.getsockname()[1], group=group) as hub:
            hub.duties.start("configured_agents", hub.configured.run)
            # What was made to start up stays for good: taking it out of the collector's sight spares each full pass.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_YOUNG_MAX, *gc.get_threshold()[1:])
            announce = asyncio.get_running_loop().call_soon(_announce, hub, on_ready)
            try:
                await hub.server.serve_on(listener)
            finally:
                announce.cancel()
    _log.info("hub_stopped")


def _announce(hub: Hub, on_ready: Callable[[str], None]) -> None:
    _log.info("hub_started", url=hub.url, engine=hub.engine.name)
    on_ready(hub.url)


def _listen(host: str, port: int, *, is_shared: bool) -> socket.socket:
    """Bind before anything else is opened: a port in use is the commonest reason why a hub does not start."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        text = f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port, or stop what is there"
        raise InvalidRequest(f"port: {text}", fields=[FieldError("port", text)]) from error
    listener.setblocking(False)
    return listener
