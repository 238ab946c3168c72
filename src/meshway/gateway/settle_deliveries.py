"""A worker says what became of its deliveries."""

from collections.abc import Sequence

from meshway.gateway.queue_places import QueuePlaces
from meshway.kernel.principal import Principal
from meshway.messaging.settlements import SettlementItem

__all__ = ["SettleDeliveries"]


class SettleDeliveries:
    """Of all final settlements of one delivery at most one is `done`."""

    def __init__(self, places: QueuePlaces) -> None:
        self._places = places

    async def execute(self, principal: Principal, queue: str, settlements: Sequence[SettlementItem]) -> Sequence[str]:
        """`done` or `stale` for each, in order; unknown, foreign and malformed deliveries are `stale`.

        Raises: Forbidden, InvalidRequest naming the member (`settlements.3.delay_ms`) with nothing done, StorageFull,
        EngineUnavailable.
        """
        self._places.admission.admit_channel(principal)
        return []
