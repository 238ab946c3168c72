"""The duty that trims streams to their settings."""

from meshway.engine.ports import Log
from meshway.kernel.clock import Clock
from meshway.messaging.channels import ChannelBook
from meshway.messaging.names import ChannelName
from meshway.messaging.settings import MessagingSettings

__all__ = ["StreamRetention"]


class StreamRetention:
    """One per hub."""

    def __init__(self, log: Log, channels: ChannelBook, *, settings: MessagingSettings, clock: Clock) -> None:
        self._log = log
        self._channels = channels
        self._settings = settings
        self._clock = clock

    def note_append(self, name: ChannelName, size_bytes: int) -> None:
        """A stream has grown; said after each append."""

    async def run(self) -> None:
        """Trim every `trim_interval_ms`, until cancelled."""
