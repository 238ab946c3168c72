"""Look at what a queue holds without taking it."""

from meshway.gateway.queue_places import QueuePlaces
from meshway.kernel.pages import Page
from meshway.kernel.principal import Principal
from meshway.messaging.queue_views import DeadLetterView

__all__ = ["InspectQueue"]


class InspectQueue:
    """Pages hold at most `limit` items, fewer where they are large."""

    def __init__(self, places: QueuePlaces) -> None:
        self._places = places

    async def peek(self, principal: Principal, queue: str, *, cursor: str | None, limit: int) -> Page[bytes]:
        """Documents of messages not yet done, held and delayed ones included, in the order of hand-out.

        Raises: Forbidden, InvalidRequest naming `queue`, `cursor` or `limit`, ChannelNotFound.
        """
        self._places.known(principal, queue)
        return Page([])

    async def dead_letters(
        self, principal: Principal, queue: str, *, cursor: str | None, limit: int
    ) -> Page[DeadLetterView]:
        """Oldest first. Raises: as `peek`."""
        self._places.known(principal, queue)
        return Page([])
