"""Reading the log: pages in order, and where in the stream a number, a time or a size of a subject stands.

Pages come by direct get, which any replica answers, so they may end before what this hub knows to be there; whatever
decides something is asked of the leader. Numbers, sizes and times rise along a subject, so halving finds them.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from meshway.engine.nats.failures import ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import JetStream, Page, Stored
from meshway.engine.nats.log_ends import LogEnds
from meshway.engine.nats.log_entries import End, entry_of, is_entry, number_of, position_of, time_of
from meshway.engine.nats.retries import Retries
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import (
    FromLast,
    FromNew,
    FromPosition,
    FromSequence,
    FromTime,
    LogBounds,
    LogEntry,
    LogStart,
)
from meshway.engine.ports.tails import Cursor

__all__ = ["LogReader", "Part"]

Found = TypeVar("Found")

_PAGE = 1_000
# So many entries are passed over rather than searched through.
_PASSED_MAX = 64
# Subjects whose bounds are asked for at once, with two or three requests each.
_BOUNDS_AT_ONCE = 256
_LAGGING_PAUSE_S = 0.02


class Part(NamedTuple):
    """A page, the cursor behind it, and whether it was the last, as far as the replica that gave it knows."""

    entries: Sequence[LogEntry]
    cursor: Cursor
    is_last: bool


class LogReader:
    """Subjects and patterns as the ports name them."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings, *, ends: LogEnds) -> None:
        self._jetstream = jetstream
        self._layout = layout
        self._stream = layout.log_stream
        self._timeout_ms = settings.request_timeout_ms
        self._ends = ends
        # Where the next page of a reader begins: subject and number -> stream sequence before it.
        self._resumed: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._resumed_max = settings.subjects_cached_max

    async def read(self, subject: str, start: LogStart, limit: int) -> Sequence[LogEntry]:
        """At most `limit` entries of one subject, ascending. Raises: EngineUnavailable."""
        if isinstance(start, FromNew):
            return []
        if isinstance(start, FromLast) and start.count == 1:
            last = await self.last_of(subject)
            return [self.entry(last)] if last is not None and is_entry(last) else []
        cursor = await self.cursor_of(subject, start)
        entries: list[LogEntry] = []
        while len(entries) < limit:
            part = await self.page(subject, cursor, min(_PAGE, limit - len(entries)))
            entries.extend(part.entries)
            cursor = part.cursor
            if part.is_last and await self.is_complete(subject, cursor.position):
                break
        if entries and len(entries) <= limit:
            self._resumed[subject, entries[-1].sequence + 1] = cursor.position
            while len(self._resumed) > self._resumed_max:
                self._resumed.popitem(last=False)
        return entries[:limit]

    async def page(self, pattern: str, cursor: Cursor, count: int) -> Part:
        """About `count` entries behind the cursor. Raises: EngineUnavailable."""
        name = self._layout.log + pattern
        while True:
            found = await self._read({"next_by_subj": name, "seq": cursor.position + 1, "batch": count + cursor.passed})
            entries = [
                self.entry(stored)
                for stored in found.messages
                if is_entry(stored) and number_of(stored) >= cursor.sequence
            ]
            if found.messages:
                cursor = Cursor(found.messages[-1].seq, cursor.sequence)
            if entries or not found.more:
                return Part(entries, cursor, not found.more)

    async def is_complete(self, subject: str, position: int) -> bool:
        """Whether a page that ended at `position` was the last: with False, after a moment, more is to be had."""
        known = self._ends.get(subject)
        if known is None or known.seq <= position:
            return True
        following = await self.next_of(subject, position + 1)
        if following is None:
            self._ends.drop(subject)
            return True
        await asyncio.sleep(_LAGGING_PAUSE_S)
        return False

    async def cursor_of(self, subject: str, start: LogStart) -> Cursor:
        """What a start means for one subject. Raises: EngineUnavailable."""
        match start:
            case FromSequence(sequence=sequence):
                return await self._cursor_at(subject, sequence, None)
            case FromLast(count=count):
                end = await self._end(subject)
                return await self._cursor_at(subject, end.last - count + 1, end)
            case FromTime(timestamp_ms=timestamp_ms):
                return Cursor(await self.position_before_time(subject, timestamp_ms), 0)
            case FromPosition(position=position):
                return Cursor(await self._seq_of_position(subject, position), 0)
            case FromNew():
                return Cursor(await self.last_position(), 0)

    async def position_before_time(self, pattern: str, timestamp_ms: int) -> int:
        """The entries behind it are those at or after a time, and what is appended from now on."""
        # Before what was asked last: what comes between must not be passed over.
        position = await self.last_position()
        name = self._layout.log + pattern
        text = datetime.fromtimestamp(min(max(timestamp_ms, 0), 1 << 47) / 1000, UTC).isoformat(timespec="milliseconds")
        while True:
            page = await self._read({"next_by_subj": name, "start_time": text, "batch": 1})
            if page.messages and time_of(page.messages[0]) >= timestamp_ms:
                return page.messages[0].seq - 1
            if page.messages:
                # Copied later than it was appended.
                last = await self.last_of(pattern)
                if last is None or time_of(last) < timestamp_ms:
                    return position
                found = await self.first_at_least(pattern, timestamp_ms, time_of, (time_of(last), last.seq))
                return position if found is None else found.seq - 1
            last = await self.last_of(pattern)
            if last is None or last.time_ms < timestamp_ms:
                return position
            await asyncio.sleep(_LAGGING_PAUSE_S)

    async def _seq_of_position(self, pattern: str, position: int) -> int:
        """The sequence to go on after. Positions of copied entries are lower than all sequences of the stream."""
        following = await self.next_of(pattern, position + 1)
        if following is None or position_of(following) > position:
            return position
        last = await self.last_of(pattern)
        if last is None or position_of(last) <= position:
            return position if last is None else last.seq
        found = await self.first_at_least(pattern, position + 1, position_of, (position_of(last), last.seq))
        return position if found is None else found.seq - 1

    async def last_position(self) -> int:
        """Of the whole log, as the leader has it."""
        return (await self._ask(lambda: self._jetstream.api(f"STREAM.INFO.{self._stream}"))).state.last_seq

    async def last_of(self, pattern: str) -> Stored | None:
        """The last message, which may be a marker, as the leader has it."""
        return await self._ask(lambda: self._jetstream.last_of(self._stream, self._layout.log + pattern))

    async def next_of(self, pattern: str, seq: int) -> Stored | None:
        """The first message at or after a stream sequence, which may be a marker, as the leader has it."""
        (found,) = await self._get_each([{"next_by_subj": self._layout.log + pattern, "seq": max(seq, 1)}])
        return found

    async def at_number(self, subject: str, number: int) -> LogEntry | None:
        """One entry, as the leader has it; None where it was trimmed or never was."""
        found = await self.first_numbered(subject, number)
        return self.entry(found) if found is not None and number_of(found) == number else None

    async def number_before(self, subject: str, seq: int) -> int:
        """The last number that was given up to a stream sequence whose entry was trimmed, as far as that is known."""
        following = await self.next_of(subject, seq)
        if following is None:
            return (await self._end(subject)).last
        return number_of(following) - is_entry(following)

    async def first_numbered(self, subject: str, number: int) -> Stored | None:
        """The first entry whose number is at least `number`, as the leader has it."""
        end = await self._end(subject)
        if number > end.last or end.seq != end.position:
            return None
        return await self.first_at_least(subject, number, number_of, (end.last, end.position))

    async def first_at_least(
        self, subject: str, target: int, value_of: Callable[[Stored], int], high: tuple[int, int]
    ) -> Stored | None:
        """The first entry whose value is no less; `high`: value, no less either, and sequence of one that is stored."""
        low = await self.next_of(subject, 1)
        if low is None or (is_entry(low) and value_of(low) >= target):
            return low
        found: Stored | None = None
        low_value, low_seq = value_of(low), low.seq
        high_value, high_seq = high
        halve = False
        while high_seq - low_seq > 1:
            share = (target - low_value) / max(high_value - low_value, 1)
            guess = low_seq + max(1, min(int(share * (high_seq - low_seq)), high_seq - low_seq - 1))
            middle = await self.next_of(subject, (low_seq + high_seq) // 2 if halve else guess)
            if middle is None:
                return found
            value = value_of(middle)
            if value >= target:
                found = middle
                # Nothing of the subject stands between what was asked for and what was found.
                high_value, high_seq = value, (low_seq + high_seq) // 2 if halve else guess
            else:
                low_value, low_seq = value, middle.seq
            halve = not halve
        return found if found is not None else await self.next_of(subject, high_seq)

    async def bounds(self, subjects: Sequence[str]) -> Sequence[LogBounds | None]:
        """Each, as the leader has it. Raises: EngineUnavailable."""
        found: list[LogBounds | None] = []
        for begin in range(0, len(subjects), _BOUNDS_AT_ONCE):
            part = subjects[begin : begin + _BOUNDS_AT_ONCE]
            firsts = await self._get_each([{"next_by_subj": self._layout.log + name, "seq": 1} for name in part])
            ends = await self._ends_of(part)
            for name, first, end in zip(part, firsts, ends, strict=True):
                # Written for the first time, or again, between the two questions.
                is_new = first is None and end.seq > 0
                found.append((await self.bounds([name]))[0] if is_new else _bounds(first, end))
        return found

    def entry(self, stored: Stored) -> LogEntry:
        return entry_of(stored, self._layout.log)

    async def _cursor_at(self, subject: str, sequence: int, end: End | None) -> Cursor:
        """Before the entry with a number."""
        if sequence <= 1:
            return Cursor(0, 0)
        position = self._resumed.get((subject, sequence))
        if position is not None:
            return Cursor(position, sequence)
        end = end or self._ends.get(subject)
        if end is not None and end.seq and sequence >= end.last:
            return Cursor(end.position - 1 if sequence == end.last else end.position, sequence)
        first = await self.next_of(subject, 1)
        if first is None:
            return Cursor(0, sequence)
        passed = sequence - number_of(first) - (not is_entry(first))
        if passed <= _PASSED_MAX:
            return Cursor(first.seq - 1, sequence, max(passed, 0))
        end = await self._end(subject)
        if sequence > end.last:
            return Cursor(end.position, sequence)
        found = await self.first_numbered(subject, sequence)
        return Cursor(end.position if found is None else found.seq - 1, sequence)

    async def _end(self, subject: str) -> End:
        (end,) = await self._ends_of([subject])
        return end

    async def _ends_of(self, subjects: Sequence[str]) -> Sequence[End]:
        async def ask() -> Sequence[End]:
            return [_given(end) for end in await self._ends.look_up(subjects)]

        return await self._ask(ask)

    async def _get_each(self, wanted: Sequence[dict[str, object]]) -> Sequence[Stored | None]:
        async def ask() -> Sequence[Stored | None]:
            return [_given(stored) for stored in await self._jetstream.get_each(self._stream, wanted)]

        return await self._ask(ask)

    async def _read(self, body: dict[str, object]) -> Page:
        return await self._ask(lambda: self._jetstream.read(self._stream, body))

    async def _ask(self, ask: Callable[[], Awaitable[Found]]) -> Found:
        """Again while nobody answers. Raises: EngineUnavailable."""
        retries = Retries(self._timeout_ms)
        while True:
            try:
                return await ask()
            except ApiError as failure:
                await retries.pause_or_raise(failure)
            except Unanswered as failure:
                # Reading twice does no harm.
                if not await retries.pause():
                    raise error_of(failure) from failure


def _given(found: Found | ApiError | Unanswered) -> Found:
    if isinstance(found, ApiError | Unanswered):
        raise found
    return found


def _bounds(first: Stored | None, end: End) -> LogBounds | None:
    if not end.last:
        return None
    count = 0
    if first is not None and end.seq == end.position:
        count = end.last - number_of(first) + is_entry(first)
    return LogBounds(first=end.last - count + 1, last=end.last, count=count, last_message_id=end.message_id)
