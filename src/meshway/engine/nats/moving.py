"""Leaving a server that is parted from the cluster: the connection stands, but what needs the others is not answered.

    somebody waits for an answer, or got none -- a small write is tried here, for a while
      -- it, or any other write, was answered --> the server was slow, or a leader was elected: stay
      -- it was not -- the same write is tried at the other servers
           -- answered nowhere --> there is no leader, or no majority: stay
           -- answered there, and once more not here --> go there

Reads prove nothing: a parted server answers them from what it has. And an election moves nobody, because while it lasts
no server answers a write.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from nats.aio.client import Srv

from meshway.engine.nats.failures import Unanswered
from meshway.engine.nats.link import Ask, Link
from meshway.engine.nats.measures import Measures
from meshway.engine.nats.settings import NatsSettings
from meshway.kernel.errors import EngineUnavailable
from meshway.kernel.metrics import NullMetrics

__all__ = ["Moving"]

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.25
# Somebody waits for so long: three and a half seconds, with what follows, until the server is left.
_PATIENCE_S = 1.0
_HERE_S = 1.5
_ONCE_MORE_S = 0.75
# Another server is near, and has nothing else of ours to do.
_THERE_S = 1.0
# A write that met an election is lost, not late.
_TRY_MS = 500
_PAUSE_S = 0.1
# Between two rounds over the other servers while there is no leader anywhere.
_AGAIN_S = 1.0
# After a move: as long as an election takes, so that none makes a hub move back and forth.
_REST_S = 8.0


class Moving:
    """Of one connection, for as long as `run` does."""

    def __init__(self, link: Link, subject: str, settings: NatsSettings, measures: Measures) -> None:
        """`subject`: where a write does no harm; the stream keeps its last message."""
        self._link = link
        self._ask = Ask(subject)
        self._settings = settings
        self._measures = measures

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            others = self._link.other_servers()
            if not others or not self._link.is_connected or self._link.waits_s < _PATIENCE_S:
                continue
            await asyncio.sleep(_REST_S if await self._move(others) else _AGAIN_S)

    async def _move(self, others: Sequence[Srv]) -> bool:
        """Whether this server was left."""
        if await self._is_served(self._link, _HERE_S):
            return False
        better = await self._find(others)
        if better is None or await self._is_served(self._link, _ONCE_MORE_S) or not self._link.is_connected:
            return False
        _log.warning("nats_server_left", extra={"server": self._link.server_info.name, "next": better.uri.netloc})
        self._measures.servers_left.inc()
        await self._link.go_to(better)
        return True

    async def _find(self, others: Sequence[Srv]) -> Srv | None:
        """One of them that answers what this server does not."""
        for other in others:
            settings = self._settings.only(other.uri.geturl(), start_timeout_ms=int(_THERE_S * 1000))
            try:
                link = await Link.open(settings, Measures(NullMetrics()), tls_name=other.tls_name)
            except EngineUnavailable:
                continue
            try:
                # It may be this one, by another address.
                is_other = link.server_info.id != self._link.server_info.id
                if is_other and await self._is_served(link, _THERE_S):
                    return other
            finally:
                await link.close()
        return None

    async def _is_served(self, link: Link, within_s: float) -> bool:
        """Whether any write is answered from now on, within this time."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        while link.served_at < began_at and (left_s := began_at + within_s - loop.time()) > 0:
            with contextlib.suppress(Unanswered):
                await link.ask(self._ask, timeout_ms=max(1, min(_TRY_MS, int(left_s * 1000))))
            if link.served_at < began_at:
                await asyncio.sleep(_PAUSE_S)
        return link.served_at >= began_at
