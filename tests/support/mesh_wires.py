"""Every wire of a mesh on loopback: a proxy for each pair that talks, so that any of them can be held up.

In a thread with a loop of its own, for tests that are no coroutines.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress

from support.tcp_proxy import TcpProxy, tcp_proxy

__all__ = ["MeshWires", "mesh_wires"]

_ANSWERS_WITHIN_S = 10.0
# Below those that the kernel gives out: servers that are not started yet have such a port in mind.
_PORTS = range(20_000, 32_000)


class MeshWires:
    """Wires are known by the names of both ends: who dials, and who is dialled."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stack = AsyncExitStack()
        self._proxies: dict[tuple[str, str], TcpProxy] = {}

    def lay(self, source: str, target: str, port: int) -> int:
        """The port on which `source` finds `target`, which listens on `port`."""
        opening = asyncio.run_coroutine_threadsafe(self._lay(port), self._loop)
        proxy = opening.result(_ANSWERS_WITHIN_S)
        self._proxies[source, target] = proxy
        return proxy.port

    def hold_up(self, is_hurt: Callable[[str, str], bool]) -> None:
        """Nothing passes on these wires any more, and neither end is told."""
        self._each(is_hurt, TcpProxy.freeze)

    def mend(self) -> None:
        """Everything passes again, first of all what was held up."""
        self._each(lambda source, target: True, TcpProxy.thaw)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result(_ANSWERS_WITHIN_S)

    async def _lay(self, port: int) -> TcpProxy:
        while True:
            own = random.choice(_PORTS)
            with suppress(OSError):
                return await self._stack.enter_async_context(tcp_proxy(port, port=own))

    def _each(self, is_meant: Callable[[str, str], bool], act: Callable[[TcpProxy], None]) -> None:
        async def act_on_all() -> None:
            for (source, target), proxy in self._proxies.items():
                if is_meant(source, target):
                    act(proxy)

        asyncio.run_coroutine_threadsafe(act_on_all(), self._loop).result(_ANSWERS_WITHIN_S)


@contextmanager
def mesh_wires() -> Iterator[MeshWires]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="mesh-wires")
    thread.start()
    wires = MeshWires(loop)
    try:
        yield wires
    finally:
        wires.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_ANSWERS_WITHIN_S)
        loop.close()
