"""Events as their subscribers see them: documents in order, and word of those they were too slow for."""

import re
from collections.abc import Sequence

import msgspec

from meshway.engine.ports import BusMessage, BusSubscription, SubscriptionLost
from meshway.kernel.errors import EngineUnavailable, FieldError, InvalidRequest
from meshway.messaging.activity import Activity
from meshway.messaging.names import ChannelPattern

__all__ = ["EventSubscription", "MissedEvents", "bus_group_of"]

# A path, a log line and a NATS queue group: one token, as long as a DNS label.
_GROUP = re.compile(r"[A-Za-z0-9_-]{1,63}")


class MissedEvents(msgspec.Struct, frozen=True, kw_only=True):
    """Events are gone at this place: how many, or None when only that some may be."""

    missed: int | None


class EventSubscription:
    """One subscriber. Its events wait in a bounded buffer; what does not fit is counted and told."""

    def __init__(self, subscription: BusSubscription, *, pattern: ChannelPattern, activity: Activity) -> None:
        self._subscription = subscription
        self._pattern = pattern
        self._activity = activity

    async def take(self, count_max: int) -> Sequence[bytes | MissedEvents]:
        """Wait for at least one, then everything that is there up to `count_max`, in order per publisher.

        A cancelled call loses nothing. Raises: EngineUnavailable when the engine ended the subscription.
        """
        try:
            found = await self._subscription.take(count_max)
        except SubscriptionLost as lost:
            raise EngineUnavailable(f"The subscription ended: {lost}. Subscribe again.") from lost
        return [each.data if isinstance(each, BusMessage) else self._missed(each.missed) for each in found]

    def _missed(self, missed: int | None) -> MissedEvents:
        self._activity.missed(self._pattern, missed or 0)
        return MissedEvents(missed=missed)


def bus_group_of(group: str | None) -> str | None:
    """The group's name on the bus, which no group of the hub's own has. Raises: InvalidRequest naming `group`."""
    if group is None:
        return None
    if not _GROUP.fullmatch(group):
        message = "use 1 to 63 characters A-Z a-z 0-9 _ -"
        raise InvalidRequest(f"group: {message}", fields=[FieldError("group", message)])
    return f"g-{group}"
