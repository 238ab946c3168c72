"""Trying again while the cluster elects a leader or is away for a moment, up to a bound."""

import asyncio
from collections.abc import Mapping

from meshway.engine.nats.failures import ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import JetStream, Page

__all__ = ["Retries", "read_patiently"]

_FIRST_S, _MAX_S = 0.01, 0.25
# JetStream's own word for "no leader, or no quorum, at this moment".
_UNAVAILABLE = 503


class Retries:
    """Of one call; its time begins when this is made."""

    def __init__(self, within_ms: int) -> None:
        self._ends_at = asyncio.get_running_loop().time() + within_ms / 1000
        self._wait_s = _FIRST_S

    async def pause(self) -> bool:
        """Wait a little, longer each time; False, at once, when the time is over."""
        if asyncio.get_running_loop().time() + self._wait_s > self._ends_at:
            return False
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(self._wait_s * 2, _MAX_S)
        return True

    async def pause_or_raise(self, failure: ApiError | Unanswered) -> None:
        """After a read that failed. Raises: what callers hear, where trying again does not help or the time is over."""
        passing = isinstance(failure, Unanswered) or failure.status == _UNAVAILABLE
        if not passing or not await self.pause():
            raise error_of(failure) from failure


async def read_patiently(jetstream: JetStream, stream: str, body: Mapping[str, object], *, within_ms: int) -> Page:
    """`JetStream.read`, tried again for so long. Raises: EngineUnavailable."""
    retries = Retries(within_ms)
    while True:
        try:
            return await jetstream.read(stream, body)
        except (ApiError, Unanswered) as failure:
            await retries.pause_or_raise(failure)
