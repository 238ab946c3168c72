"""Put dead letters back into their queue, one, many or all, at once or at a rate."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from meshway.gateway.queue_places import QueuePlaces
from meshway.kernel.errors import wrong_field
from meshway.kernel.principal import Principal
from meshway.messaging.redrive import RedriveJob, Redrives, redrive_at_once

__all__ = ["RedriveDeadLetters", "RedriveStarted"]

_log = logging.getLogger(__name__)

_IDS_MAX = 10_000
_RATE_PER_S_MAX = 10_000.0
# More than this outlasts the patience of a caller and of the proxies between: it goes on in the background.
_AT_ONCE_MAX = 10_000


@dataclass(frozen=True, slots=True)
class RedriveStarted:
    """`messages`: back in the queue; where the redrive goes on in the background, how many it set out with."""

    messages: int


class RedriveDeadLetters:
    """Attempts start again at 1, at the end of the queue; limits and the message's expiry do not hold them back."""

    def __init__(self, places: QueuePlaces, redrives: Redrives) -> None:
        self._places = places
        self._redrives = redrives

    async def execute(
        self, principal: Principal, queue: str, *, ids: Sequence[str] | None, rate_per_s: float | None
    ) -> RedriveStarted:
        """The named ones, or all that are there now; `rate_per_s` (above 0, at most 10,000) spreads them over time.

        Unknown ids are passed over. At a rate, and for more than 10,000 at once, it goes on after this returns, at
        this hub; a later one of all of the queue takes the place of an earlier one.
        Raises: Forbidden, InvalidRequest naming `channel`, `ids` or `rate_per_s`, ChannelNotFound, CapacityReached,
        Draining, StorageFull, EngineUnavailable.
        """
        places = self._places
        name = places.owned(principal, queue).name
        _check(ids, rate_per_s)
        (depth,) = await places.queue.depth([name])
        left = depth.dead if ids is None else len(ids)
        job = RedriveJob(name, ids=ids, left=left, until_ms=places.clock.now_ms(), rate_per_s=rate_per_s)
        facts = {"queue": name, "principal": principal.id}
        if rate_per_s is None and left <= _AT_ONCE_MAX:
            redriven = await redrive_at_once(places.queue_admin, job)
            _log.info("dead_letters_redriven", extra={**facts, "messages": redriven})
            return RedriveStarted(redriven)
        self._redrives.start(job)
        _log.info("redrive_accepted", extra={**facts, "messages": left})
        return RedriveStarted(min(left, depth.dead))


def _check(ids: Sequence[str] | None, rate_per_s: float | None) -> None:
    if ids is not None and not 1 <= len(ids) <= _IDS_MAX:
        raise wrong_field("ids", f"name 1 to {_IDS_MAX:,} dead letters, or leave ids out for all of them")
    if rate_per_s is not None and not (math.isfinite(rate_per_s) and 0 < rate_per_s <= _RATE_PER_S_MAX):
        raise wrong_field("rate_per_s", f"choose more than 0 and at most {_RATE_PER_S_MAX:,.0f}, or leave it out")
