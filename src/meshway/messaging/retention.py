"""The duty that trims streams to their settings.

Only streams with limits cost anything: one that grew is looked at in the next round, one whose oldest message has a
known end is looked at then, and all others are left alone, however many there are.
"""

import asyncio
import logging
from collections.abc import Sequence

from meshway.engine.ports import FromSequence, Log, LogBounds, LogTrim
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineError, LimitError
from meshway.messaging.channel import Channel, StreamSettings
from meshway.messaging.channels import ChannelBook
from meshway.messaging.names import ChannelKind, ChannelName, subject_of
from meshway.messaging.settings import MessagingSettings

__all__ = ["StreamRetention"]

_log = logging.getLogger(__name__)

# Streams looked at in one call of the store.
_LOOK_MAX = 200
# To find what exceeds a number of bytes the store reads the sizes of all that is kept, so that is done each time the
# stream has grown by this part of its limit, not each round.
_BYTES_SHARE = 64
_ANY_SIZE = 1 << 62


class StreamRetention:
    """One per hub; sees to the streams that grew at this hub, and by age to all."""

    def __init__(self, log: Log, channels: ChannelBook, *, settings: MessagingSettings, clock: Clock) -> None:
        self._log = log
        self._channels = channels
        self._settings = settings
        self._clock = clock
        # Streams with limits, and the bytes each grew by since its bytes were last trimmed.
        self._limited: dict[str, StreamSettings] = {}
        self._bytes: dict[str, int] = {}
        # Streams to look at in the next round, and when others must be looked at for the age of their oldest message.
        self._grown: dict[str, None] = {}
        self._due_ms: dict[str, int] = {}
        channels.listen(self._follow)
        for channel in channels.all_of(ChannelKind.STREAMS):
            self._follow(ChannelKind.STREAMS, channel.name, channel)

    def note_append(self, name: ChannelName, size_bytes: int) -> None:
        """A stream has grown by so much; said after each append."""
        if name in self._limited:
            self._bytes[name] += size_bytes
            self._grown[name] = None

    async def run(self) -> None:
        """Trim every `trim_interval_ms`, until cancelled. A round that fails is repeated by the next one."""
        while True:
            await asyncio.sleep(self._settings.trim_interval_ms / 1000)
            try:
                await self.trim_due()
            except (EngineError, LimitError) as error:
                _log.warning("streams_not_trimmed", extra={"reason": error.detail})

    async def trim_due(self) -> None:
        """One round. Raises: StorageFull, EngineUnavailable; what was not done stays due."""
        now_ms = self._clock.now_ms()
        for name in [name for name, at_ms in self._due_ms.items() if at_ms <= now_ms]:
            self._grown[name] = None
        names = list(self._grown)
        for begin in range(0, len(names), _LOOK_MAX):
            part = names[begin : begin + _LOOK_MAX]
            bounds = await self._log.bounds([subject_of(ChannelKind.STREAMS, name) for name in part])
            for name, found in zip(part, bounds, strict=True):
                # Before the trim: what is appended while it runs must be seen by the next round.
                self._grown.pop(name, None)
                try:
                    await self._trim(name, found, now_ms)
                except BaseException:
                    self._grown[name] = None
                    raise

    async def _trim(self, name: str, bounds: LogBounds | None, now_ms: int) -> None:
        settings = self._limited.get(name)
        if settings is None or bounds is None or not bounds.count:
            self._due_ms.pop(name, None)
            return
        trim = self._needed(name, settings, bounds, now_ms)
        if trim is not None:
            # The count begins anew before the sizes are read: what is appended meanwhile counts for the next time.
            if trim.keep_bytes is not None:
                self._bytes[name] = 0
            (dropped,) = await self._log.trim([trim])
            if dropped:
                _log.debug("stream_trimmed", extra={"channel": name, "messages": dropped})
        await self._plan(name, now_ms)

    def _needed(self, name: str, settings: StreamSettings, bounds: LogBounds, now_ms: int) -> LogTrim | None:
        keep_count = keep_bytes = before_ms = None
        if settings.max_messages is not None and settings.when_full != "refuse":
            keep_count = settings.max_messages if bounds.count > settings.max_messages else None
        if settings.max_bytes is not None and self._bytes[name] > settings.max_bytes // _BYTES_SHARE:
            keep_bytes = settings.max_bytes
        if settings.retention_ms is not None and self._due_ms.get(name, 0) <= now_ms:
            before_ms = now_ms - settings.retention_ms
        if keep_count is None and keep_bytes is None and before_ms is None:
            return None
        return LogTrim(
            subject=subject_of(ChannelKind.STREAMS, name),
            before_ms=before_ms,
            keep_count=keep_count,
            keep_bytes=keep_bytes,
        )

    async def _plan(self, name: str, now_ms: int) -> None:
        """Find out when the oldest message of a stream ends, unless that is known and still to come."""
        settings = self._limited.get(name)
        if settings is None or settings.retention_ms is None:
            self._due_ms.pop(name, None)
        elif self._due_ms.get(name, 0) <= now_ms:
            oldest = await self._log.read(subject_of(ChannelKind.STREAMS, name), FromSequence(1), limit=1)
            # Gone meanwhile: the stream is looked at again when it grows.
            self._due_ms.pop(name, None)
            if oldest and name in self._limited:
                self._due_ms[name] = oldest[0].timestamp_ms + settings.retention_ms + 1

    def _follow(self, kind: ChannelKind, name: ChannelName, channel: Channel | None) -> None:
        """A channel was made, configured or deleted."""
        if kind is not ChannelKind.STREAMS:
            return
        settings = None if channel is None else channel.settings
        self._due_ms.pop(name, None)
        if isinstance(settings, StreamSettings) and _has_limits(settings):
            self._limited[name] = settings
            self._bytes[name] = _ANY_SIZE
            self._grown[name] = None
        else:
            self._limited.pop(name, None)
            self._bytes.pop(name, None)
            self._grown.pop(name, None)


def _has_limits(settings: StreamSettings) -> bool:
    limits: Sequence[int | None] = (settings.retention_ms, settings.max_messages, settings.max_bytes)
    return any(limit is not None for limit in limits)
