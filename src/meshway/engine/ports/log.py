"""Log: numbered, replayable entries per subject."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from meshway.engine.ports.outcomes import Durability, Undecided

__all__ = [
    "Appended",
    "FromLast",
    "FromNew",
    "FromPosition",
    "FromSequence",
    "FromTime",
    "Log",
    "LogAppend",
    "LogBounds",
    "LogEntry",
    "LogOutcome",
    "LogStart",
    "LogTail",
    "LogTrim",
    "WrongLast",
]


class LogAppend(msgspec.Struct, frozen=True, kw_only=True):
    """One entry for one subject.

    `message_id` makes a repetition harmless: without `expected_last` for the adapter's window (2 minutes), with it for
    as long as the entry is kept. `expected_last` is the subject's last sequence as the writer knows it, 0 for an empty
    subject.
    """

    subject: str
    message_id: str
    data: bytes
    headers: Mapping[str, str] = {}
    expected_last: int | None = None
    durability: Durability = Durability.SYNCED
    # False: the id was made for this call and nobody knows it yet; see QueueAppend.
    is_repeatable: bool = True
    # With `expected_last` 0: the name of the subject was made for this entry, so nobody can have written to it before.
    # An adapter need not look.
    is_new_subject: bool = False


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """Kept as `sequence`. `duplicate`: it was there before this call. Position: see LogEntry."""

    sequence: int
    position: int
    duplicate: bool


class WrongLast(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing was written: the subject's last sequence is `last`, made by the append with `last_message_id`."""

    last: int
    last_message_id: str | None


LogOutcome = Appended | WrongLast | Undecided


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """`sequence` numbers the subject from 1, no gap, no repeat. `position` is opaque and rises over the whole log."""

    subject: str
    sequence: int
    position: int
    message_id: str
    data: bytes
    headers: Mapping[str, str]
    timestamp_ms: int


class FromSequence(msgspec.Struct, frozen=True):
    """From this sequence on, inclusive; trimmed ones are left out."""

    sequence: int


class FromTime(msgspec.Struct, frozen=True):
    """From the first entry at or after this time."""

    timestamp_ms: int


class FromLast(msgspec.Struct, frozen=True):
    """The last `count` entries of the subject, then on."""

    count: int


class FromPosition(msgspec.Struct, frozen=True):
    """After this position, exclusive: how a reader of a pattern goes on where it stopped."""

    position: int


class FromNew(msgspec.Struct, frozen=True):
    """Only what is appended from now on."""


LogStart = FromSequence | FromTime | FromLast | FromPosition | FromNew


class LogBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a subject holds. `last` stays when everything was trimmed; `first` is then `last + 1`."""

    first: int
    last: int
    count: int
    last_message_id: str | None


class LogTail(Protocol):
    """What `Log.tail` gives: entries in order, for ever. One reader at a time; a cancelled call loses no entry."""

    def __aiter__(self) -> AsyncIterator[LogEntry]:
        """Each entry by itself. Raises: SubscriptionLost."""

    async def __anext__(self) -> LogEntry:
        """The next entry, as soon as there is one. Raises: SubscriptionLost."""

    async def take(self, count_max: int) -> Sequence[LogEntry]:
        """Wait for at least one entry, then all that are at hand, at most `count_max` (1 to 10,000).

        What a replay has to fetch comes in the adapter's pages, so a full replay takes several calls.
        Raises: SubscriptionLost.
        """


class LogTrim(msgspec.Struct, frozen=True, kw_only=True):
    """Drop the subject's oldest entries until every given bound holds."""

    subject: str
    before_sequence: int | None = None
    before_ms: int | None = None
    keep_count: int | None = None
    keep_bytes: int | None = None


class Log(Protocol):
    """Numbered, replayable entries per subject. The first token of a subject chooses the physical log."""

    async def append(self, entries: Sequence[LogAppend]) -> Sequence[LogOutcome]:
        """Append each; entries of one subject in one call keep their order. Raises: StorageFull, EngineUnavailable."""

    async def read(self, subject: str, start: LogStart, *, limit: int = 500) -> Sequence[LogEntry]:
        """At most `limit` (1 to 10,000) entries of one subject, ascending. Empty when there are none."""

    def tail(self, pattern: str, start: LogStart) -> AbstractAsyncContextManager[LogTail]:
        """Replay, then live: no gap and no duplicate, in order per subject, for ever until closed.

        The subscription is active when `__aenter__` returns. A pattern with wildcards starts with FromPosition,
        FromTime or FromNew. A reader that falls behind is served from the store, not from memory; it may pause for
        up to 10 s at a leader change.
        """

    async def bounds(self, subjects: Sequence[str]) -> Sequence[LogBounds | None]:
        """What each subject holds; None for one never written."""

    async def trim(self, trims: Sequence[LogTrim]) -> Sequence[int]:
        """Drop old entries; how many were dropped, each."""

    async def subjects(self, pattern: str, *, after: str | None = None, limit: int = 500) -> Sequence[str]:
        """Names that hold entries, ordered, after `after`."""
