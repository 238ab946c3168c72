"""Listen to events, alone or sharing them with a group."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from meshway.engine.ports import Bus
from meshway.gateway.admission import Admission
from meshway.kernel.principal import Principal
from meshway.messaging.activity import Activity
from meshway.messaging.events import EventSubscription, bus_group_of
from meshway.messaging.names import ChannelKind, ChannelPattern, parse_channel_pattern, subject_of
from meshway.messaging.settings import MessagingSettings
from meshway.messaging.subscription_places import SubscriptionPlaces

__all__ = ["SubscribeEvents"]


class SubscribeEvents:
    """Each subscriber has a bounded buffer of its own: who is slow misses events and hears how many, nobody waits."""

    def __init__(
        self,
        bus: Bus,
        activity: Activity,
        *,
        admission: Admission,
        places: SubscriptionPlaces,
        settings: MessagingSettings,
    ) -> None:
        self._bus = bus
        self._activity = activity
        self._admission = admission
        self._places = places
        self._settings = settings

    def open(
        self, principal: Principal, pattern: str, *, group: str | None = None
    ) -> AbstractAsyncContextManager[EventSubscription]:
        """Active when `__aenter__` returns. Of each group exactly one member gets an event.

        Raises: Forbidden, InvalidRequest naming `channel` or `group`, at once; TooManyInFlight on entering.
        """
        self._admission.admit_channel(principal)
        return self._open(parse_channel_pattern(pattern), bus_group_of(group))

    @asynccontextmanager
    async def _open(self, pattern: ChannelPattern, group: str | None) -> AsyncGenerator[EventSubscription, None]:
        subject = subject_of(ChannelKind.EVENTS, pattern)
        with self._places.take():
            async with self._bus.subscribe(
                subject, group=group, buffer_max=self._settings.event_buffer_max
            ) as subscription:
                self._activity.joined(ChannelKind.EVENTS, pattern)
                try:
                    yield EventSubscription(subscription, pattern=pattern, activity=self._activity)
                finally:
                    self._activity.left(ChannelKind.EVENTS, pattern)
