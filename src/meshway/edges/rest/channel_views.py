"""From channels, readers and attempts to what the wire shows. Pure."""

from collections.abc import Sequence

import msgspec

from meshway.edges.rest.channel_models import ChannelInfoView, ChannelView, DeadLetterAttempt, ReaderView
from meshway.engine.ports import AttemptRecord
from meshway.gateway.manage_channels import ChannelInfo
from meshway.kernel.clock import rfc3339_ms
from meshway.messaging.channel import Channel
from meshway.messaging.readers import StreamReader

__all__ = ["attempt_views", "channel_info_view", "channel_view", "reader_view"]


def channel_view(channel: Channel) -> ChannelView:
    """The channel without figures."""
    return ChannelView(
        kind=channel.kind,
        name=channel.name,
        settings=msgspec.Raw(msgspec.json.encode(channel.settings)),
        owner=channel.owner,
        created_at=_created_at(channel),
    )


def channel_info_view(info: ChannelInfo) -> ChannelInfoView:
    """The channel with its live figures, and its readers where it is one stream."""
    channel = info.channel
    return ChannelInfoView(
        kind=channel.kind,
        name=channel.name,
        settings=msgspec.Raw(msgspec.json.encode(channel.settings)),
        owner=channel.owner,
        created_at=_created_at(channel),
        figures=info.figures,
        readers=tuple(reader_view(reader) for reader in info.readers),
    )


def reader_view(reader: StreamReader) -> ReaderView:
    """Times as everywhere on the wire."""
    return ReaderView(
        name=reader.name,
        position=reader.position,
        lag=reader.lag,
        created_at=rfc3339_ms(reader.created_at_ms),
        updated_at=rfc3339_ms(reader.updated_at_ms),
    )


def attempt_views(attempts: Sequence[AttemptRecord]) -> tuple[DeadLetterAttempt, ...]:
    """The history of a dead letter, in its order."""
    return tuple(
        DeadLetterAttempt(
            attempt=each.attempt,
            leased_at=rfc3339_ms(each.leased_at_ms),
            ended_at=rfc3339_ms(each.ended_at_ms),
            outcome=each.outcome,
            reason=each.reason,
        )
        for each in attempts
    )


def _created_at(channel: Channel) -> str | None:
    # Channels that keep nothing are not stored on mere use: nobody knows since when they are used.
    return rfc3339_ms(channel.created_at_ms) if channel.created_at_ms else None
