"""The rooms and ports that the use cases of channels share."""

from dataclasses import dataclass

from meshway.engine.ports import Log
from meshway.gateway.admission import Admission
from meshway.kernel.clock import Clock
from meshway.kernel.errors import ChannelNotFound
from meshway.messaging.channel import Channel
from meshway.messaging.channels import ChannelBook
from meshway.messaging.names import ChannelKind, ChannelName
from meshway.messaging.payloads import PayloadStore
from meshway.messaging.readers import ReaderStore
from meshway.messaging.settings import MessagingSettings

__all__ = ["ChannelPlaces", "channel_missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPlaces:
    """What the use cases of channels and streams stand on; made once by assembly."""

    admission: Admission
    channels: ChannelBook
    readers: ReaderStore
    payloads: PayloadStore
    log: Log
    clock: Clock
    settings: MessagingSettings

    def present(self, kind: ChannelKind, name: ChannelName) -> Channel:
        """A stored channel. Raises: ChannelNotFound."""
        channel = self.channels.find(kind, name)
        if channel is None:
            raise channel_missing(kind, name)
        return channel


def channel_missing(kind: ChannelKind, name: str) -> ChannelNotFound:
    """The error for a channel that is not there."""
    return ChannelNotFound(f"There is no {kind.value} channel {name!r} at this hub; using it makes it.")
