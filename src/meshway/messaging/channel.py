"""Channels and their settings, as values."""

from typing import Annotated

import msgspec

from meshway.engine.ports import QueueSettings
from meshway.kernel.ids import PrincipalId
from meshway.kernel.retry import RetryPolicy
from meshway.messaging.names import ChannelKind, ChannelName

__all__ = [
    "Channel",
    "ChannelSettings",
    "EventSettings",
    "QueueChannelSettings",
    "RequestSettings",
    "StreamSettings",
    "WhenFull",
    "defaults_of",
]

Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=31_622_400_000)]
Count = Annotated[int, msgspec.Meta(ge=1)]
WhenFull = Annotated[str, msgspec.Meta(pattern="^(drop_oldest|refuse)$")]


class EventSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events have no settings of their own: nothing is kept."""


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a stream is kept; None is no limit. Trimmed every few seconds, so it may exceed them for a moment."""

    retention_ms: Milliseconds | None = None
    max_messages: Count | None = None
    max_bytes: Count | None = None
    # At `max_messages`: `drop_oldest`, or `refuse` with `channel_full`.
    when_full: WhenFull = "drop_oldest"


class QueueChannelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One queue. Changes hold for leases and posts made afterwards."""

    # How long one hand-out lasts: long enough for a slow call of a model, short enough to notice a dead worker.
    lease_ms: Annotated[int, msgspec.Meta(ge=100, le=86_400_000)] = 30_000
    # Hand-outs before a message becomes a dead letter.
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 5
    # The wait after the first failure; doubled with each further one, with jitter.
    backoff_initial_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 1_000
    backoff_max_ms: Annotated[int, msgspec.Meta(ge=0, le=604_800_000)] = 300_000
    # False drops a message that used up its attempts.
    dead_letter: bool = True
    # One message per ordering key at a time, in order of posting; priorities are ignored.
    ordered: bool = False
    dedupe_window_ms: Annotated[int, msgspec.Meta(ge=1_000, le=604_800_000)] = 120_000
    max_messages: Count | None = None
    max_bytes: Count | None = None
    # Waiting messages older than this are dropped.
    retention_ms: Milliseconds | None = None

    def retry_policy(self) -> RetryPolicy:
        """As `kernel.retry` wants it."""
        return RetryPolicy(self.attempts_max, self.backoff_initial_ms, self.backoff_max_ms)

    def engine_settings(self) -> QueueSettings:
        """The part the engine keeps."""
        return QueueSettings(
            lease_ms=self.lease_ms,
            ordered=self.ordered,
            dedupe_window_ms=self.dedupe_window_ms,
            messages_max=self.max_messages,
            bytes_max=self.max_bytes,
            retention_ms=self.retention_ms,
            attempts_max=self.attempts_max,
            dead_letters=self.dead_letter,
        )


class RequestSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel of commands or queries."""

    # Wait of callers who name none; None is the hub's `[messaging] request_timeout_ms`.
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] | None = None


ChannelSettings = EventSettings | StreamSettings | QueueChannelSettings | RequestSettings

_SETTINGS: dict[ChannelKind, ChannelSettings] = {
    ChannelKind.EVENTS: EventSettings(),
    ChannelKind.STREAMS: StreamSettings(),
    ChannelKind.QUEUES: QueueChannelSettings(),
    ChannelKind.COMMANDS: RequestSettings(),
    ChannelKind.QUERIES: RequestSettings(),
}


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel that was used or configured. `owner` made it; None where it was never stored."""

    kind: ChannelKind
    name: ChannelName
    settings: ChannelSettings
    owner: PrincipalId | None
    created_at_ms: int


def defaults_of(kind: ChannelKind) -> ChannelSettings:
    """The settings of a channel that nobody configured."""
    return _SETTINGS[kind]
