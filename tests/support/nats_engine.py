"""An engine on a test's NATS server, and an operator who meddles with its streams."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats

from meshway.engine.nats.engine import NatsEngine, open_nats_engine
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import Engine
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import Metrics, NullMetrics

__all__ = ["as_operator", "nats_engine", "until_health"]


@asynccontextmanager
async def nats_engine(settings: NatsSettings, *, metrics: Metrics | None = None) -> AsyncIterator[NatsEngine]:
    engine = await open_nats_engine(settings, clock=SystemClock(), metrics=metrics or NullMetrics())
    try:
        yield engine
    finally:
        await engine.close()


async def as_operator(url: str, verb: str, body: object = None) -> None:
    """One call of the JetStream API from outside, such as `STREAM.DELETE.MW_KV`."""
    client = await nats.connect(url)
    try:
        answer = await client.request(f"$JS.API.{verb}", b"" if body is None else json.dumps(body).encode(), timeout=5)
        assert "error" not in json.loads(answer.data), answer.data
    finally:
        await client.close()


async def until_health(engine: Engine, *, writable: bool, seconds: float = 10.0) -> str:
    """Wait until the engine is healthy, or is not; the reason it gives, or nothing."""
    async with asyncio.timeout(seconds):
        health = await engine.health()
        while health.writable is not writable:
            await asyncio.sleep(0.02)
            health = await engine.health()
        return health.reason or ""
