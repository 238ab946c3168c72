"""Read streams: in pages, or replay and then live."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from meshway.engine.ports import (
    FromLast,
    FromNew,
    FromSequence,
    FromTime,
    LogEntry,
    LogStart,
    LogTail,
    SubscriptionLost,
)
from meshway.gateway.channel_places import ChannelPlaces
from meshway.kernel.errors import EngineUnavailable, wrong_field
from meshway.kernel.pages import LIMIT_MAX
from meshway.kernel.principal import Principal
from meshway.messaging.names import (
    ChannelKind,
    ChannelName,
    is_pattern,
    parse_channel_name,
    parse_channel_pattern,
    subject_of,
)
from meshway.messaging.readers import parse_reader_name
from meshway.messaging.stream_items import ItemMaker, StreamItem, StreamPage
from meshway.messaging.stream_start import cursor_before, parse_channel_start, parse_pattern_start, start_after_cursor
from meshway.messaging.subscription_places import SubscriptionPlaces

__all__ = ["ReadStream", "StreamTail"]

# A page is put together in memory. The read of its first few messages may exceed this: 64 MiB with the largest data.
_PAGE_BYTES_MAX = 16 * 1024 * 1024
_FIRST_READ = 8


class StreamTail:
    """One reader's place in a stream, or in all streams of a pattern. One `take` at a time.

    `cursor` goes on from where it began; None where that is not known (a time, or what is new of a pattern).
    """

    def __init__(
        self, tail: LogTail, items: ItemMaker, *, since_ms: int, skips_reserved: bool, cursor: str | None
    ) -> None:
        self.cursor = cursor
        self._tail = tail
        self._items = items
        self._since_ms = since_ms
        self._skips_reserved = skips_reserved

    async def take(self, count_max: int) -> Sequence[StreamItem]:
        """Wait for at least one message, then all that are at hand, at most `count_max`; cancelled, none is lost.

        Raises: EngineUnavailable when the store ends the tail; go on with the cursor of the last message.
        """
        while True:
            try:
                entries = await self._tail.take(count_max)
            except SubscriptionLost as error:
                text = f"The store ended this subscription ({error}); go on with the cursor of the last message."
                raise EngineUnavailable(text) from error
            if self._since_ms or self._skips_reserved:
                entries = self._wanted(entries)
            if entries:
                return self._items.items_of(entries)

    def _wanted(self, entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
        if self._since_ms:
            entries = _since(entries, self._since_ms)
            if entries:
                # Times never fall along a log.
                self._since_ms = 0
        if self._skips_reserved:
            reserved = subject_of(ChannelKind.STREAMS, "_")
            entries = [entry for entry in entries if not entry.subject.startswith(reserved)]
        return entries


class ReadStream:
    """A stream that nobody used yet is empty, and its readers wait for its first message."""

    def __init__(self, places: ChannelPlaces, subscriptions: SubscriptionPlaces) -> None:
        self._places = places
        self._subscriptions = subscriptions
        # Readers of the same messages share them: with many of them a message is rendered once.
        self._channel_items = ItemMaker(by_position=False)
        self._pattern_items = ItemMaker(by_position=True)

    async def page(
        self,
        principal: Principal,
        channel: str,
        *,
        start: str | None,
        reader: str | None = None,
        limit: int,
        wait_ms: int = 0,
    ) -> StreamPage:
        """At most `limit` (1 to 500) messages, fewer where they are large. An empty page waits up to `wait_ms`.

        `reader` begins after its position, and excludes `start`.
        Raises: Forbidden, InvalidRequest naming `channel`, `from`, `reader`, `limit` or `wait_ms`, ReaderNotFound,
        EngineUnavailable.
        """
        self._places.admission.admit_channel(principal)
        name = parse_channel_name(channel)
        _check_between("limit", limit, 1, LIMIT_MAX)
        _check_between("wait_ms", wait_ms, 0, self._places.settings.long_poll_max_ms)
        _check_one_start(start, reader)
        wanted = parse_channel_start(start)
        if reader is not None:
            wanted = await self._after_reader(name, parse_reader_name(reader))
        begin = await self._numbered(name, wanted)
        entries, is_cut = await self._read(name, begin, limit)
        if not entries and wait_ms:
            entries, is_cut = await self._wait(name, begin, limit, wait_ms), False
        if entries:
            following = str(entries[-1].sequence + 1)
        else:
            following = str(begin.sequence) if isinstance(begin, FromSequence) else start or "new"
        return StreamPage(items=self._channel_items.items_of(entries), next_start=following, is_cut=is_cut)

    def tail(
        self,
        principal: Principal,
        pattern: str,
        *,
        start: str | None = None,
        cursor: str | None = None,
        reader: str | None = None,
    ) -> AbstractAsyncContextManager[StreamTail]:
        """Replay, then live, without gap or repetition; active when entered.

        `cursor` goes on after the item that had it, and wins over the others: a browser that connects again repeats
        its address and adds the cursor. `reader` begins after its position, and excludes `start`.
        Raises, at once: Forbidden, InvalidRequest naming `channel`, `from`, `cursor` or `reader`. On entering:
        ReaderNotFound, TooManyInFlight, EngineUnavailable.
        """
        self._places.admission.admit_channel(principal)
        name = parse_channel_pattern(pattern)
        many = is_pattern(name)
        _check_one_start(start, reader)
        begin = parse_pattern_start(start) if many else parse_channel_start(start)
        if reader is not None:
            parse_reader_name(reader)
            if many:
                raise wrong_field("reader", "a reader belongs to one stream; name it instead of a pattern")
        if cursor is not None:
            begin = start_after_cursor(cursor, is_pattern=many)
            reader = None
        return self._tail(name, begin, reader)

    @asynccontextmanager
    async def _tail(self, name: str, begin: LogStart, reader: str | None) -> AsyncIterator[StreamTail]:
        if reader is not None:
            begin = await self._after_reader(ChannelName(name), reader)
        many = is_pattern(name)
        if not many:
            # As a number, so that who is cut before the first message knows where to go on.
            begin = await self._numbered(ChannelName(name), begin)
        since_ms = begin.timestamp_ms if isinstance(begin, FromTime) else 0
        items = self._pattern_items if many else self._channel_items
        log, subject = self._places.log, subject_of(ChannelKind.STREAMS, name)
        with self._subscriptions.take():
            async with log.tail(subject, begin) as tail:
                yield StreamTail(
                    tail, items, since_ms=since_ms, skips_reserved=name[0] in "*>", cursor=cursor_before(begin)
                )

    async def _after_reader(self, name: ChannelName, reader: str) -> FromSequence:
        return FromSequence(await self._places.readers.position_of(name, reader) + 1)

    async def _numbered(self, name: ChannelName, start: LogStart) -> FromSequence | FromTime:
        """The same start as a number, so that a wait that follows the read leaves no gap; a time says it by itself."""
        if isinstance(start, FromSequence | FromTime):
            return start
        (bounds,) = await self._places.log.bounds([subject_of(ChannelKind.STREAMS, name)])
        last = 0 if bounds is None else bounds.last
        match start:
            case FromLast(count=count):
                return FromSequence(max(1, last - count + 1))
            case FromNew():
                return FromSequence(last + 1)
        raise wrong_field("from", "one stream is read by its sequences")

    async def _read(
        self, name: ChannelName, begin: FromSequence | FromTime, limit: int
    ) -> tuple[Sequence[LogEntry], bool]:
        """At most `limit` entries, fewer where they are large; True: the page is full, there may be more.

        The second read asks for as many as are likely to fit.
        """
        subject = subject_of(ChannelKind.STREAMS, name)
        first = min(limit, _FIRST_READ)
        entries = list(await self._places.log.read(subject, begin, limit=first))
        if len(entries) < first or first == limit:
            return entries, len(entries) == limit
        size = sum([len(entry.data) for entry in entries])
        more = min(limit - first, max(0, _PAGE_BYTES_MAX - size) * first // max(size, 1))
        if more:
            following = FromSequence(entries[-1].sequence + 1)
            entries += await self._places.log.read(subject, following, limit=more)
        return entries, len(entries) == first + more

    async def _wait(
        self, name: ChannelName, begin: FromSequence | FromTime, limit: int, wait_ms: int
    ) -> Sequence[LogEntry]:
        since_ms = begin.timestamp_ms if isinstance(begin, FromTime) else 0
        try:
            async with (
                asyncio.timeout(wait_ms / 1000),
                self._places.log.tail(subject_of(ChannelKind.STREAMS, name), begin) as tail,
            ):
                while True:
                    entries = _since(await tail.take(limit), since_ms)
                    if entries:
                        return entries
        except TimeoutError:
            return []
        except SubscriptionLost as error:
            raise EngineUnavailable(f"The store ended this wait ({error}); ask again.") from error


def _since(entries: Sequence[LogEntry], since_ms: int) -> Sequence[LogEntry]:
    """Without what a start in the future would let through: the log begins at its end then, this stream at the time."""
    return [entry for entry in entries if entry.timestamp_ms >= since_ms]


def _check_one_start(start: str | None, reader: str | None) -> None:
    if start is not None and reader is not None:
        raise wrong_field("from", "leave it out with reader: a reader begins after its position")


def _check_between(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise wrong_field(field, f"choose {low:,} to {high:,}")
