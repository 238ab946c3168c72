"""The engines that the contract suite runs against. A new adapter is one more entry in ADAPTERS.

Real, short times: servers have their own clocks. A test says what must become true and waits until it is.
"""

import asyncio
import atexit
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.engine.nats.engine import open_nats_engine
from meshway.engine.nats.failures import Unanswered
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.link import Link
from meshway.engine.nats.measures import Measures
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import Engine
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import NullMetrics
from support.nats_process import NatsProcess, running_cluster, running_nats

Value = TypeVar("Value")

_numbers = itertools.count(1)


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
        engine = await open_nats_engine(NatsSettings(servers=(server.url,)), clock=SystemClock(), metrics=NullMetrics())
        try:
            yield engine
        finally:
            await engine.close()


@asynccontextmanager
async def nats_cluster(folder: Path) -> AsyncIterator[Engine]:
    """Three real servers that are started once; each engine has a prefix, and so streams, of its own.

    Three servers take a second to make streams or to remove them: both go on beside the tests.
    """
    settings = await asyncio.wrap_future(_prepared.get_nowait() if not _prepared.empty() else _prepare())
    _prepared.put(_prepare())
    engine = await open_nats_engine(settings, clock=SystemClock(), metrics=NullMetrics())
    try:
        yield engine
    finally:
        await engine.close()
        _beside.submit(asyncio.run, _remove_streams(settings))


_beside = ThreadPoolExecutor(2)
_prepared: "SimpleQueue[Future[NatsSettings]]" = SimpleQueue()


def _prepare() -> "Future[NatsSettings]":
    """Streams under a prefix that no other test has."""
    # An election under a call is no failure of a promise, and takes long where three servers share two busy cores.
    settings = NatsSettings(
        servers=tuple(server.url for server in _cluster()), prefix=f"t{next(_numbers)}", request_timeout_ms=12_000
    )
    return _beside.submit(asyncio.run, _make_streams(settings))


async def _make_streams(settings: NatsSettings) -> NatsSettings:
    await (await open_nats_engine(settings, clock=SystemClock(), metrics=NullMetrics())).close()
    return settings


async def _remove_streams(settings: NatsSettings) -> None:
    """All at once, and again: a busy cluster does not always say that it did."""
    link = await Link.open(settings, Measures(NullMetrics()))
    try:
        calls = [(f"STREAM.DELETE.{name}", None) for name in Layout(settings).configs(settings, 3)]
        async with asyncio.timeout(20):
            while any(
                isinstance(answer, Unanswered)
                for answer in await JetStream(link, settings).api_all(calls, timeout_ms=1_000)
            ):
                pass
    finally:
        await link.close()


@cache
def _cluster() -> Sequence[NatsProcess]:
    """Until the tests end."""
    stack = ExitStack()
    atexit.register(stack.close)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="meshway-nats-"))
    servers = stack.enter_context(running_cluster(Path(folder)))
    # Before the servers go.
    stack.callback(_beside.shutdown)
    return servers


ADAPTERS: dict[str, Callable[[Path], AbstractAsyncContextManager[Engine]]] = {
    "embedded": embedded,
    "nats": nats_single,
    "nats-cluster": nats_cluster,
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
