"""Durable readers of streams: named positions that the hub keeps, one record each under `reader.<stream>.<name>`.

A position is the last sequence that is done. It only rises by acknowledging; putting a reader moves it anywhere.
"""

import asyncio
import re
from collections.abc import Callable, Sequence

import msgspec

from meshway.engine.ports import (
    FromLast,
    FromNew,
    FromSequence,
    FromTime,
    KeyValue,
    KvCreate,
    KvDelete,
    KvEntry,
    KvUpdate,
    KvWritten,
    Log,
    LogBounds,
    LogStart,
    Undecided,
    subject_token,
)
from meshway.kernel.clock import Clock
from meshway.kernel.errors import (
    CapacityReached,
    Conflict,
    EngineUnavailable,
    ReaderNotFound,
    StoreCorrupt,
    wrong_field,
)
from meshway.messaging.names import ChannelKind, ChannelName, subject_of

__all__ = ["ReaderStore", "StreamReader", "parse_reader_name"]

_PREFIX = "reader"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
# A reader is a service, not a connection; a stream's figures list them all.
_READERS_MAX = 1_000
_PAGE = 500
# Writers of one reader are few; one that loses this often meets a fault, not competition.
_ROUNDS_MAX = 16
# Streams whose end is remembered, so that most acknowledgements need not ask for it.
_ENDS_MAX = 10_000
# What another hub has shown is seen here within a second, or never.
_LAGGING_READS_MAX = 10
_LAGGING_PAUSE_S = 0.1


class StreamReader(msgspec.Struct, frozen=True, kw_only=True):
    """A reader. `position`: the last sequence it has done, 0 for none; `lag`: how many numbers come after it."""

    channel: ChannelName
    name: str
    position: int
    lag: int
    created_at_ms: int
    updated_at_ms: int


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """A reader as it is stored."""

    position: int
    created_at_ms: int
    updated_at_ms: int


_encode = msgspec.json.Encoder().encode
_decode_record = msgspec.json.Decoder(_Record).decode


class ReaderStore:
    """Typed store of readers over KeyValue. What a call answered survives power loss."""

    def __init__(self, key_value: KeyValue, log: Log, *, clock: Clock, is_shared: bool = False) -> None:
        """`is_shared`: other hubs write to the log too."""
        self._is_shared = is_shared
        self._key_value = key_value
        self._log = log
        self._clock = clock
        # Ends only rise, so a remembered one is never too high.
        self._ends: dict[ChannelName, int] = {}

    async def show(self, channel: ChannelName, name: str) -> StreamReader:
        """Raises: ReaderNotFound, EngineUnavailable, StoreCorrupt."""
        return self._reader(channel, name, await self._present(channel, name), await self._end_of(channel))

    async def position_of(self, channel: ChannelName, name: str) -> int:
        """Raises: ReaderNotFound, EngineUnavailable, StoreCorrupt."""
        return (await self._present(channel, name)).position

    async def list_of(self, channel: ChannelName) -> Sequence[StreamReader]:
        """All readers of a stream, by name. Raises: EngineUnavailable, StoreCorrupt."""
        entries = await self._entries(channel)
        if not entries:
            return []
        end = await self._end_of(channel)
        return [self._reader(channel, entry.key.rpartition(".")[2], _decode(entry), end) for entry in entries]

    async def put(self, channel: ChannelName, name: str, start: LogStart | None) -> tuple[StreamReader, bool]:
        """Make the reader at `start`, or move it there; None: a new one begins at the end, another stays where it is.

        True: it is new. Raises: InvalidRequest naming `from` beyond the end, CapacityReached, Conflict, StorageFull,
        EngineUnavailable, StoreCorrupt.
        """
        now_ms = self._clock.now_ms()
        position, end = await self._resolve(channel, start)
        if position > end:
            raise wrong_field("from", f"the stream ends at {end}; a reader begins there at the latest, with from=new")

        def decide(before: _Record | None) -> _Record:
            if before is None:
                return _Record(position=position, created_at_ms=now_ms, updated_at_ms=now_ms)
            if start is None or before.position == position:
                return before
            return _Record(position=position, created_at_ms=before.created_at_ms, updated_at_ms=now_ms)

        before, after = await self._change(channel, name, decide)
        return self._reader(channel, name, after, end), before is None

    async def ack(self, channel: ChannelName, name: str, sequence: int) -> int:
        """Everything up to `sequence` is done; the position now, which never moves back.

        Raises: InvalidRequest naming `sequence` beyond the end, ReaderNotFound, Conflict, StorageFull,
        EngineUnavailable, StoreCorrupt.
        """
        if sequence < 0:
            raise wrong_field("sequence", "must not be negative")
        if sequence > self._ends.get(channel, 0):
            end = await self._end_at_least(channel, sequence)
            if sequence > end:
                raise wrong_field("sequence", f"the stream ends at {end}; acknowledge what was read")
        now_ms = self._clock.now_ms()

        def decide(before: _Record | None) -> _Record:
            if before is None:
                raise _missing(channel, name)
            if sequence <= before.position:
                return before
            return _Record(position=sequence, created_at_ms=before.created_at_ms, updated_at_ms=now_ms)

        _, after = await self._change(channel, name, decide)
        return after.position

    async def remove(self, channel: ChannelName, name: str) -> None:
        """Raises: ReaderNotFound, StorageFull, EngineUnavailable."""
        key = _key(channel, name)
        (entry,) = await self._key_value.get([key])
        if entry is None:
            raise _missing(channel, name)
        await self._delete([key])

    async def remove_all(self, channel: ChannelName) -> None:
        """Forget the readers of a stream. Raises: StorageFull, EngineUnavailable."""
        while entries := await self._entries(channel):
            await self._delete([entry.key for entry in entries])

    async def _resolve(self, channel: ChannelName, start: LogStart | None) -> tuple[int, int]:
        """The position that a start means, and the stream's end."""
        bounds = await self._bounds(channel)
        if bounds is None:
            bounds = LogBounds(first=1, last=0, count=0, last_message_id=None)
        match start:
            case FromSequence(sequence=sequence):
                return max(sequence, bounds.first) - 1, bounds.last
            case FromLast(count=count):
                return max(bounds.last - count, bounds.first - 1), bounds.last
            case FromTime():
                entries = await self._log.read(subject_of(ChannelKind.STREAMS, channel), start, limit=1)
                return (entries[0].sequence - 1 if entries else bounds.last), bounds.last
            case FromNew() | None:
                return bounds.last, bounds.last
        raise wrong_field("from", "a reader belongs to one stream")

    async def _change(
        self, channel: ChannelName, name: str, decide: Callable[[_Record | None], _Record]
    ) -> tuple[_Record | None, _Record]:
        """Store what `decide` makes of the present record; returned unchanged, nothing is written. Before and after."""
        key = _key(channel, name)
        for _ in range(_ROUNDS_MAX):
            (entry,) = await self._key_value.get([key])
            before = None if entry is None else _decode(entry)
            after = decide(before)
            if after is before:
                return before, after
            value = _encode(after)
            if entry is None:
                await self._check_room(channel)
                write: KvCreate | KvUpdate = KvCreate(key=key, value=value)
            else:
                write = KvUpdate(key=key, value=value, revision=entry.revision)
            (outcome,) = await self._key_value.write([write])
            # Of an undecided write the next round sees what became of it: what it would write stands already.
            if isinstance(outcome, KvWritten):
                return before, after
        raise Conflict(f"Reader {name!r} of stream {channel!r} is being changed by others at this moment; try again.")

    async def _check_room(self, channel: ChannelName) -> None:
        page = await self._key_value.page(_prefix(channel), limit=_READERS_MAX)
        if len(page.entries) >= _READERS_MAX:
            raise CapacityReached(f"Stream {channel!r} has {_READERS_MAX} readers, as many as it takes; remove some.")

    async def _present(self, channel: ChannelName, name: str) -> _Record:
        (entry,) = await self._key_value.get([_key(channel, name)])
        if entry is None:
            raise _missing(channel, name)
        return _decode(entry)

    async def _entries(self, channel: ChannelName) -> Sequence[KvEntry]:
        found: list[KvEntry] = []
        after: str | None = None
        while True:
            page = await self._key_value.page(_prefix(channel), after=after, limit=_PAGE)
            found.extend(page.entries)
            after = page.next_after
            if after is None:
                return found

    async def _delete(self, keys: Sequence[str]) -> None:
        for _ in range(_ROUNDS_MAX):
            outcomes = await self._key_value.write([KvDelete(key=key) for key in keys])
            keys = [key for key, outcome in zip(keys, outcomes, strict=True) if isinstance(outcome, Undecided)]
            if not keys:
                return
        raise EngineUnavailable("The store does not say whether the reader was removed; try again.")

    async def _bounds(self, channel: ChannelName) -> LogBounds | None:
        (bounds,) = await self._log.bounds([subject_of(ChannelKind.STREAMS, channel)])
        if bounds is not None:
            if len(self._ends) >= _ENDS_MAX:
                self._ends.clear()
            self._ends[channel] = max(bounds.last, self._ends.get(channel, 0))
        return bounds

    async def _end_at_least(self, channel: ChannelName, sequence: int) -> int:
        """The end of the stream; another hub may have shown what this one has not heard of yet."""
        for _ in range(_LAGGING_READS_MAX if self._is_shared else 0):
            if sequence <= (end := await self._end_of(channel)):
                return end
            await asyncio.sleep(_LAGGING_PAUSE_S)
        return await self._end_of(channel)

    async def _end_of(self, channel: ChannelName) -> int:
        bounds = await self._bounds(channel)
        return 0 if bounds is None else bounds.last

    def _reader(self, channel: ChannelName, name: str, record: _Record, end: int) -> StreamReader:
        return StreamReader(
            channel=channel,
            name=name,
            position=record.position,
            lag=max(0, end - record.position),
            created_at_ms=record.created_at_ms,
            updated_at_ms=record.updated_at_ms,
        )


def parse_reader_name(text: str, *, field: str = "reader") -> str:
    """Check the name of a reader. Raises: InvalidRequest naming `field`."""
    if not _NAME.fullmatch(text):
        raise wrong_field(field, "use A-Z a-z 0-9 _ -, at most 255 characters")
    return text


def _prefix(channel: ChannelName) -> str:
    # The stream as one token: the readers of `a` are none of `a.b`.
    return f"{_PREFIX}.{subject_token(channel)}"


def _key(channel: ChannelName, name: str) -> str:
    return f"{_prefix(channel)}.{name}"


def _decode(entry: KvEntry) -> _Record:
    try:
        return _decode_record(entry.value)
    except msgspec.DecodeError as error:
        text = f"The stored record {entry.key!r} cannot be read ({error}); a newer Meshway wrote it, or it is damaged."
        raise StoreCorrupt(text) from error


def _missing(channel: ChannelName, name: str) -> ReaderNotFound:
    return ReaderNotFound(
        f"Stream {channel!r} has no reader {name!r}; PUT /v1/streams/{channel}/readers/{name} makes it."
    )
