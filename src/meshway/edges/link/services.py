"""What the WebSocket edge is given by assembly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.gateway.ports import Credentials
from meshway.gateway.task_use_cases import TaskUseCases
from meshway.kernel.clock import Clock
from meshway.kernel.metrics import Metrics
from meshway.kernel.principal import Principal
from meshway.messaging.settings import MessagingSettings
from meshway.messaging.subscription_places import SubscriptionPlaces

__all__ = ["LinkServices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkServices:
    """`credentials_of` and `authenticate` raise Unauthenticated; `places` is the one of all verbs."""

    channels: ChannelUseCases
    tasks: TaskUseCases
    places: SubscriptionPlaces
    settings: MessagingSettings
    credentials_of: Callable[[Mapping[bytes, bytes]], Credentials]
    authenticate: Callable[[Credentials], Principal]
    metrics: Metrics
    clock: Clock
    # As Welcome shows it.
    hub_version: str
    # [http] body_bytes_max: one limit for what a client sends at once, however it sends it.
    frame_bytes_max: int
