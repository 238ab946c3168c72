"""The engines that the contract suite runs against. A new adapter is one more entry in ADAPTERS.

Real, short times: servers have their own clocks. A test says what must become true and waits until it is.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.engine.nats.engine import open_nats_engine
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import Engine
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import NullMetrics
from support.nats_process import running_nats

Value = TypeVar("Value")


@asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[Engine]:
    engine = await open_embedded_engine(folder, settings=EmbeddedSettings(), clock=SystemClock(), metrics=NullMetrics())
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def nats_single(folder: Path) -> AsyncIterator[Engine]:
    """One real server, on its own."""
    with running_nats(folder) as server:
        engine = await open_nats_engine(NatsSettings(servers=(server.url,)), clock=SystemClock())
        try:
            yield engine
        finally:
            await engine.close()


ADAPTERS: dict[str, Callable[[Path], AbstractAsyncContextManager[Engine]]] = {
    "embedded": embedded,
    "nats": nats_single,
}


class WaitUntil:
    """Ask again until the answer is a true one, for at most `seconds`; the answer."""

    async def __call__(self, question: Callable[[], Awaitable[Value]], *, seconds: float = 5.0) -> Value:
        async with asyncio.timeout(seconds):
            while True:
                answer = await question()
                if answer:
                    return answer
                await asyncio.sleep(0.02)
