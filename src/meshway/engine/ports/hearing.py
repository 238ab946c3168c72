"""Hear what hubs say on a subject of the bus, for ever: every room that goes by hearsay does it this way."""

import asyncio
import logging
from collections.abc import Callable

from meshway.engine.ports.bus import Bus, BusMessage
from meshway.engine.ports.outcomes import SubscriptionLost
from meshway.kernel.errors import EngineError

__all__ = ["hear_always"]

_log = logging.getLogger(__name__)

# Messages of one turn of the loop, and the wait before a lost subscription is opened again.
_TAKE_MAX = 1_000
_REOPEN_S = 0.2


async def hear_always(bus: Bus, subject: str, heard: Callable[[bytes], None]) -> None:
    """Call `heard` with the data of each message, until cancelled. What is lost is lost."""
    while True:
        try:
            await _hear(bus, subject, heard)
        except (EngineError, SubscriptionLost) as error:
            _log.warning("bus_not_heard", extra={"subject": subject, "reason": str(error)})
        await asyncio.sleep(_REOPEN_S)


async def _hear(bus: Bus, subject: str, heard: Callable[[bytes], None]) -> None:
    async with bus.subscribe(subject) as messages:
        while True:
            for message in await messages.take(_TAKE_MAX):
                if isinstance(message, BusMessage):
                    heard(message.data)
