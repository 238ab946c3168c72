"""The engine that the settings ask for: embedded, in a directory of this hub's own, or NATS, which hubs share."""

import asyncio
from pathlib import Path

import structlog

from meshway.engine.embedded import open_embedded_engine
from meshway.engine.nats.settings import is_nats_engine, settings_of_engine
from meshway.engine.ports import Engine
from meshway.kernel.clock import Clock
from meshway.kernel.metrics import Metrics
from meshway.settings.model import Settings

__all__ = ["open_engine"]

_log = structlog.get_logger()


async def open_engine(settings: Settings, *, clock: Clock, metrics: Metrics) -> Engine:
    """Ready to be used; whoever opens it closes it.

    Raises: DataDirLocked, SchemaTooNew, StoreCorrupt, EngineUnavailable, InvalidRequest naming `engine`.
    """
    data_dir = Path(settings.data)
    if is_nats_engine(settings.engine):
        # A twentieth of a second, and memory, which a hub with a store of its own can do without.
        from meshway.engine.nats.engine import open_nats_engine  # noqa: PLC0415 - the line above says why

        # The secret key is kept there, also where nothing else is.
        await asyncio.to_thread(lambda: data_dir.mkdir(parents=True, exist_ok=True, mode=0o700))
        return await open_nats_engine(settings_of_engine(settings.engine, settings.nats), clock=clock, metrics=metrics)
    engine = await open_embedded_engine(data_dir, settings=settings.embedded, clock=clock, metrics=metrics)
    # Workers that were without a hub for a while go on with what they hold, if they come back within a lease.
    renewed = await engine.queue.renew_found_leases()
    if renewed:
        _log.info("queue_leases_renewed", leases=renewed)
    return engine
