"""Configure, show, list and delete channels of all kinds."""

from collections.abc import Iterable, Sequence
from typing import Protocol, assert_never

import msgspec

from meshway.engine.ports import LogBounds, LogTrim, Queue, QueueAdmin
from meshway.gateway.channel_places import ChannelPlaces, channel_missing
from meshway.kernel.errors import Conflict, FieldError, wrong_field
from meshway.kernel.pages import LIMIT_MAX, Page, decode_cursor, encode_cursor
from meshway.kernel.principal import Principal
from meshway.messaging.channel import Channel, ChannelSettings, QueueChannelSettings, StreamSettings, defaults_of
from meshway.messaging.names import ChannelKind, ChannelName, parse_channel_name, subject_of
from meshway.messaging.readers import StreamReader

__all__ = ["ChannelInfo", "LiveFigures", "ManageChannels"]

_KEEPING = frozenset({ChannelKind.STREAMS, ChannelKind.QUEUES})


class LiveFigures(Protocol):
    """What this hub has seen of channels that keep nothing: events, commands, queries."""

    def figures_of(self, kind: ChannelKind, name: ChannelName) -> dict[str, int]:
        """Nothing but zeros for a channel it has not seen, or has forgotten."""

    def names(self, kind: ChannelKind) -> Iterable[ChannelName]:
        """Channels with figures, in any order."""


class ChannelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A channel with its live figures, and its readers where one stream was asked for.

    Queues: waiting, held, delayed, dead. Streams: first, last, count, and for one also readers. Else: `LiveFigures`.
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
        """Replace all settings, in force when this returns; True: the channel is new, and the caller owns it.

        Raises: Forbidden (another key made it), InvalidRequest naming `channel` or the setting, CapacityReached,
        Conflict (also: `ordered` changes while there are messages), StorageFull, EngineUnavailable.
        """
        admission = self._places.admission
        admission.admit_channel(principal)
        checked = parse_channel_name(name)
        _check_settings(kind, settings)
        known = self._places.channels.find(kind, checked)
        if known is not None:
            admission.admit_channel_owner(principal, known)
            await self._check_order(known, settings)
        return await self._places.channels.put(
            kind, checked, settings, principal.id, admit=lambda stored: admission.admit_channel_owner(principal, stored)
        )

    async def _check_order(self, known: Channel, settings: ChannelSettings) -> None:
        """Whether a queue is ordered changes only while it is empty: messages that are out already have no order, and
        putting a million waiting ones into order would hold up everybody else."""
        before = known.settings
        if not isinstance(before, QueueChannelSettings) or not isinstance(settings, QueueChannelSettings):
            return
        if before.ordered == settings.ordered:
            return
        (depth,) = await self._queue.depth([known.name])
        count = depth.waiting + depth.held + depth.delayed
        if count:
            raise Conflict(
                f"Queue {known.name!r} has {count} messages; `ordered` changes only while it has none. Let the workers "
                "finish, purge it, or use another queue.",
                fields=[FieldError("ordered", "changes only while the queue is empty")],
            )

    async def info(self, principal: Principal, kind: ChannelKind, name: str) -> ChannelInfo:
        """Raises: Forbidden, InvalidRequest naming `channel`, ChannelNotFound, EngineUnavailable."""
        self._places.admission.admit_channel(principal)
        channel = self._present(kind, parse_channel_name(name))
        (figures,) = await self._figures(kind, [channel.name])
        readers: Sequence[StreamReader] = ()
        if kind is ChannelKind.STREAMS:
            readers = await self._places.readers.list_of(channel.name)
            figures["readers"] = len(readers)
        return ChannelInfo(channel=channel, figures=figures, readers=readers)

    async def list(
        self, principal: Principal, kind: ChannelKind, *, cursor: str | None, limit: int, prefix: str | None = None
    ) -> Page[ChannelInfo]:
        """Channels of a kind by name, with their figures; `prefix` keeps names that begin so.

        Events, commands and queries: those with settings, and those this hub has seen used lately.
        Raises: Forbidden, InvalidRequest naming `cursor` or `limit`, EngineUnavailable.
        """
        self._places.admission.admit_channel(principal)
        if not 1 <= limit <= LIMIT_MAX:
            raise wrong_field("limit", f"use 1 to {LIMIT_MAX}")
        after = None if cursor is None else decode_cursor(cursor)
        found = self._named(kind, after, limit + 1, prefix or "")
        page = found[:limit]
        figures = await self._figures(kind, [channel.name for channel in page])
        items = [ChannelInfo(channel=channel, figures=each) for channel, each in zip(page, figures, strict=True)]
        return Page(items, encode_cursor(page[-1].name) if len(found) > limit else None)

    async def remove(self, principal: Principal, kind: ChannelKind, name: str, *, confirm: str | None) -> None:
        """Delete the channel with all it holds: messages, dead letters, readers, settings.

        `confirm` is its name once more. A stream that is used again goes on numbering where it stopped, so that no
        reader takes new messages for old ones. The record goes last: what a crash leaves, the same call finishes.
        Raises: Forbidden (another key made it), InvalidRequest naming `channel` or `confirm`, ChannelNotFound,
        StorageFull, EngineUnavailable.
        """
        admission = self._places.admission
        admission.admit_channel(principal)
        channel = self._present(kind, parse_channel_name(name))
        admission.admit_channel_owner(principal, channel)
        if confirm != channel.name:
            raise wrong_field(
                "confirm", f"repeat the name of the channel, confirm={channel.name}, to delete all it holds"
            )
        match kind:
            case ChannelKind.STREAMS:
                await self._empty_stream(channel.name)
            case ChannelKind.QUEUES:
                await self._queue_admin.remove(subject_of(kind, channel.name))
        await self._places.channels.remove(channel)

    async def _empty_stream(self, name: ChannelName) -> None:
        subject = subject_of(ChannelKind.STREAMS, name)
        (bounds,) = await self._places.log.bounds([subject])
        if bounds is not None:
            await self._places.log.trim([LogTrim(subject=subject, before_sequence=bounds.last + 1)])
        await self._places.readers.remove_all(name)

    def _present(self, kind: ChannelKind, name: ChannelName) -> Channel:
        """A stored channel, or one of those that keep nothing and were seen. Raises: ChannelNotFound."""
        channel = self._places.channels.find(kind, name)
        if channel is not None:
            return channel
        if kind not in _KEEPING and any(self._live.figures_of(kind, name).values()):
            return _unstored(kind, name)
        raise channel_missing(kind, name)

    def _named(self, kind: ChannelKind, after: str | None, limit: int, prefix: str) -> Sequence[Channel]:
        """The next channels of a kind by name."""
        book = self._places.channels
        stored = book.page(kind, after=after, limit=limit, prefix=prefix)
        if kind in _KEEPING:
            return stored
        found = {channel.name: channel for channel in stored}
        for name in self._live.names(kind):
            # A record beyond this page is no reason to show the name without it.
            if name.startswith(prefix) and (after is None or name > after) and name not in found:
                found[name] = book.find(kind, name) or _unstored(kind, name)
        return [found[name] for name in sorted(found)[:limit]]

    async def _figures(self, kind: ChannelKind, names: Sequence[ChannelName]) -> Sequence[dict[str, int]]:
        if not names:
            return []
        match kind:
            case ChannelKind.QUEUES:
                depths = await self._queue.depth([subject_of(kind, name) for name in names])
                return [msgspec.structs.asdict(depth) for depth in depths]
            case ChannelKind.STREAMS:
                bounds = await self._places.log.bounds([subject_of(kind, name) for name in names])
                return [_stream_figures(each) for each in bounds]
            case ChannelKind.EVENTS | ChannelKind.COMMANDS | ChannelKind.QUERIES:
                return [self._live.figures_of(kind, name) for name in names]
        assert_never(kind)


def _stream_figures(bounds: LogBounds | None) -> dict[str, int]:
    """`last` is 0 and `first` 1 before the first message; both stay when all messages are gone."""
    if bounds is None:
        return {"first": 1, "last": 0, "count": 0}
    return {"first": bounds.first, "last": bounds.last, "count": bounds.count}


def _unstored(kind: ChannelKind, name: ChannelName) -> Channel:
    """A channel that left no record: nobody owns it, and nobody knows since when it is used."""
    return Channel(kind=kind, name=name, settings=defaults_of(kind), owner=None, created_at_ms=0)


def _check_settings(kind: ChannelKind, settings: ChannelSettings) -> None:
    """What no single field shows. Raises: InvalidRequest naming the setting."""
    if type(settings) is not type(defaults_of(kind)):
        raise wrong_field("settings", f"these are not the settings of {kind.value}")
    match settings:
        case StreamSettings(when_full="refuse", max_messages=None):
            raise wrong_field(
                "max_messages", "when_full=refuse needs it: it is the limit beyond which posts are refused"
            )
        case StreamSettings(when_full="refuse", max_bytes=int()):
            raise wrong_field(
                "max_bytes", "drops the oldest messages, and when_full=refuse drops none; leave one of them out"
            )
        case QueueChannelSettings() if settings.backoff_max_ms < settings.backoff_initial_ms:
            raise wrong_field("backoff_max_ms", "must not be below backoff_initial_ms")
