"""Configure, show, list and delete channels of all kinds."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from meshway.engine.ports import Queue, QueueAdmin
from meshway.gateway.channel_places import ChannelPlaces
from meshway.kernel.pages import Page
from meshway.kernel.principal import Principal
from meshway.messaging.channel import Channel, ChannelSettings
from meshway.messaging.names import ChannelKind, ChannelName
from meshway.messaging.readers import StreamReader

__all__ = ["ChannelInfo", "LiveFigures", "ManageChannels"]


class LiveFigures(Protocol):
    """What this hub has seen of channels that keep nothing: events, commands, queries."""

    def figures_of(self, kind: ChannelKind, name: ChannelName) -> dict[str, int]:
        """Empty for a channel it has not seen, or has forgotten."""

    def names(self, kind: ChannelKind) -> Iterable[ChannelName]:
        """Channels with figures, in any order."""


class ChannelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A channel with its live figures; `readers` only for one stream, not in lists.

    Queues: waiting, held, delayed, dead. Streams: first, last, count, readers (not in lists). Else: `LiveFigures`.
    """

    channel: Channel
    figures: dict[str, int]
    readers: Sequence[StreamReader] = ()


class ManageChannels:
    """Settings and administration; the data calls are verbs of their own."""

    def __init__(self, places: ChannelPlaces, queue: Queue, queue_admin: QueueAdmin, live: LiveFigures) -> None:
        self._places = places
        self._queue = queue
        self._queue_admin = queue_admin
        self._live = live

    async def put(
        self, principal: Principal, kind: ChannelKind, name: str, settings: ChannelSettings
    ) -> tuple[Channel, bool]:
        """Replace all settings; True: the channel is new, and the caller owns it."""
        raise AssertionError

    async def info(self, principal: Principal, kind: ChannelKind, name: str) -> ChannelInfo:
        """Raises: Forbidden, InvalidRequest, ChannelNotFound, EngineUnavailable."""
        raise AssertionError

    async def list(
        self, principal: Principal, kind: ChannelKind, *, cursor: str | None, limit: int, prefix: str | None = None
    ) -> Page[ChannelInfo]:
        """Channels of a kind by name; `prefix` keeps names that begin so."""
        raise AssertionError

    async def remove(self, principal: Principal, kind: ChannelKind, name: str, *, confirm: str | None) -> None:
        """Delete the channel with all it holds; `confirm` is its name once more."""
        raise AssertionError
