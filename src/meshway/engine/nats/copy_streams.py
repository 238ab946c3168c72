"""The streams of a mesh without a hub on them: for those that fill them or read them as a whole."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.link import Link
from meshway.engine.nats.measures import Measures
from meshway.engine.nats.preparing import prepare_jetstream
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.kernel.clock import Clock
from meshway.kernel.metrics import NullMetrics

__all__ = ["opened_streams"]


@asynccontextmanager
async def opened_streams(settings: NatsSettings, clock: Clock) -> AsyncIterator[tuple[JetStream, Layout]]:
    """Made where they are missing. Raises: EngineUnavailable with what to do."""
    link = await Link.open(settings, Measures(NullMetrics()))
    try:
        jetstream, layout = JetStream(link, settings), Layout(settings)
        await prepare_jetstream(jetstream, layout, settings, clock)
        yield jetstream, layout
    finally:
        await link.close()
