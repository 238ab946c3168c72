"""Drop all messages of a queue."""

import logging

from meshway.gateway.queue_places import QueuePlaces
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.principal import Principal

__all__ = ["PurgeQueue"]

_log = logging.getLogger(__name__)


class PurgeQueue:
    """Held and delayed ones too, their deliveries become stale; dead letters stay."""

    def __init__(self, places: QueuePlaces) -> None:
        self._places = places

    async def execute(self, principal: Principal, queue: str, *, confirm: str | None) -> int:
        """How many were dropped; `confirm` is the name of the queue, once more.

        Messages posted while it runs may stay. Raises: Forbidden, InvalidRequest naming `channel` or `confirm`,
        ChannelNotFound, StorageFull, EngineUnavailable.
        """
        name = self._places.owned(principal, queue).name
        if confirm != name:
            text = f"repeat the name of the queue, confirm={name}: all its messages are dropped for good"
            raise InvalidRequest(f"confirm: {text}", fields=[FieldError("confirm", text)])
        dropped = await self._places.queue_admin.purge(name)
        _log.info("queue_purged", extra={"queue": name, "messages": dropped, "principal": principal.id})
        return dropped
