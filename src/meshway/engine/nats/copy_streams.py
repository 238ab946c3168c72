"""The streams of a mesh without a hub on them: for those that fill them or read them as a whole."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshway.engine.nats.engine import open_streams
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.link import Link
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout

__all__ = ["opened_streams"]


@asynccontextmanager
async def opened_streams(settings: NatsSettings) -> AsyncIterator[tuple[JetStream, Layout]]:
    """Made where they are missing. Raises: EngineUnavailable with what to do."""
    link = await Link.open(settings)
    try:
        yield await open_streams(link, settings)
    finally:
        await link.close()
