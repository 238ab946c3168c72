"""The five primitives that everything durable in the hub is built from, and the bundle an adapter offers.

Not here: domain words. Rooms keep typed stores on top (`registry/agent_store.py` over KeyValue).

Rules that hold for every port
- Batch first: a Sequence in, a Sequence of outcomes out, same length and order. Each item stands alone: one that
  fails does not undo its neighbours. No transaction spans two items, two calls or two ports.
- Expected outcomes are values (`KvConflict`, `WrongLast`, `STALE`); exceptions mean the call as a whole failed.
- `Undecided` is a declared outcome: the write may or may not have happened. Repeat the same call, with the same id,
  until the answer is another one; ids and revisions make the repetition harmless.
- Times are epoch milliseconds UTC. The engine's own clock decides what is due, leased or expired (the embedded
  adapter's is the hub's, NATS has its own), so no call takes `now_ms`. Due means: not before; usually within 0.5 s.
- Time to live and expiry are rounded up to whole seconds, at least 1 s.
- Names (keys, subjects, queues) are dot-separated tokens of `[A-Za-z0-9_=/-]+`; `subject_token` encodes any other
  text as one token. Patterns use `*` for one token and `>` for the rest. Prefixes are whole tokens: `a.b` finds
  `a.b` and `a.b.c`, never `a.bc`.
- Values up to `Engine.inline_bytes_max` travel inside; larger ones the adapter moves to Blobs, unseen.
- Every call may raise EngineUnavailable (not reachable, or writes refused until a restart) and every write
  StorageFull (nothing of the failing items was kept; reading goes on). Both are safe to repeat.

Durable means the engine's configured durability: embedded, fsync before the answer; NATS, a majority of replicas,
and on their disks only where the servers run `sync_interval: always`. `Engine.durability` says which in words.
"""

import enum
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

__all__ = [
    "Ack",
    "Appended",
    "AttemptRecord",
    "BlobRef",
    "Blobs",
    "Bus",
    "BusGap",
    "BusMessage",
    "BusSubscription",
    "DeadLetter",
    "Durability",
    "Engine",
    "EngineHealth",
    "Enqueued",
    "Extend",
    "FromLast",
    "FromNew",
    "FromPosition",
    "FromSequence",
    "FromTime",
    "KeyValue",
    "KvCaughtUp",
    "KvConflict",
    "KvCreate",
    "KvDelete",
    "KvDeleted",
    "KvEntry",
    "KvEvent",
    "KvOutcome",
    "KvPage",
    "KvPut",
    "KvUpdate",
    "KvWrite",
    "KvWritten",
    "Lease",
    "Log",
    "LogAppend",
    "LogBounds",
    "LogEntry",
    "LogOutcome",
    "LogStart",
    "LogTrim",
    "NoResponder",
    "Priority",
    "Queue",
    "QueueAdmin",
    "QueueAppend",
    "QueueDepth",
    "QueueFull",
    "QueueOutcome",
    "QueueSettings",
    "QueuedMessage",
    "ReplyTimedOut",
    "SettleOutcome",
    "Settlement",
    "SubscriptionLost",
    "ToDeadLetters",
    "ToRetry",
    "Undecided",
    "WrongLast",
    "subject_token",
]


class Durability(enum.Enum):
    """What has happened when a write is answered."""

    # Survives power loss of one machine, as far as the engine is configured for it.
    SYNCED = "synced"
    # Survives kill -9 of the hub at once, power loss after the adapter's stated bound (embedded: 1 s).
    LAZY = "lazy"


class Undecided(msgspec.Struct, frozen=True, kw_only=True):
    """Unknown outcome: repeat the same call."""

    reason: str


# --- KeyValue -------------------------------------------------------------------------------------------------------


class KvPut(msgspec.Struct, frozen=True, kw_only=True):
    """Write whatever is there. `ttl_ms` counts from this write; None keeps the key until it is deleted."""

    key: str
    value: bytes
    ttl_ms: int | None = None
    durability: Durability = Durability.SYNCED


class KvCreate(msgspec.Struct, frozen=True, kw_only=True):
    """Write only if the key is absent, deleted or expired."""

    key: str
    value: bytes
    ttl_ms: int | None = None
    durability: Durability = Durability.SYNCED


class KvUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Write only if the key's revision is still `revision`."""

    key: str
    value: bytes
    revision: int
    ttl_ms: int | None = None
    durability: Durability = Durability.SYNCED


class KvDelete(msgspec.Struct, frozen=True, kw_only=True):
    """Delete; only at `revision` where one is given. Deleting what is not there is `KvWritten`."""

    key: str
    revision: int | None = None
    durability: Durability = Durability.SYNCED


KvWrite = KvPut | KvCreate | KvUpdate | KvDelete


class KvEntry(msgspec.Struct, frozen=True, kw_only=True):
    """`revision` is opaque, rises with every write to the key and never repeats, not even after a delete."""

    key: str
    value: bytes
    revision: int


class KvWritten(msgspec.Struct, frozen=True, kw_only=True):
    revision: int


class KvConflict(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing was written; `current` is what is there, None when nothing is."""

    current: KvEntry | None


KvOutcome = KvWritten | KvConflict | Undecided


class KvPage(msgspec.Struct, frozen=True, kw_only=True):
    entries: Sequence[KvEntry]
    next_after: str | None


class KvDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """A key is gone. `expired` tells time to live from deletion."""

    key: str
    revision: int
    expired: bool


class KvCaughtUp(msgspec.Struct, frozen=True, kw_only=True):
    """All values that were there when the watch began have been sent; from here on everything is live."""


KvEvent = KvEntry | KvDeleted | KvCaughtUp


class KeyValue(Protocol):
    """Small values under names, with compare-and-set and time to live. Reads see the caller's own answered writes."""

    async def get(self, keys: Sequence[str]) -> Sequence[KvEntry | None]:
        """Present values; None for keys that are absent, deleted or expired."""

    async def write(self, writes: Sequence[KvWrite]) -> Sequence[KvOutcome]:
        """Do each write; writes to one key in one call happen in order. Raises: StorageFull, EngineUnavailable."""

    async def page(self, prefix: str, *, after: str | None = None, limit: int = 500) -> KvPage:
        """Live entries under `prefix`, ordered by key, after the key `after`; at most `limit` (1 to 1,024)."""

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[KvEvent]]:
        """Present values, one `KvCaughtUp`, then each change, in order per key.

        Nothing that happens after `__aenter__` is missed; quick successive writes to one key may be seen as the last
        one only, and a value may come twice (after a reconnect). Expiry is seen within 2 s of its time.
        """


# --- Log ------------------------------------------------------------------------------------------------------------


class LogAppend(msgspec.Struct, frozen=True, kw_only=True):
    """One entry for one subject.

    `message_id` makes a repetition harmless: without `expected_last` for the adapter's window (2 minutes), with it for
    ever. `expected_last` is the subject's last sequence as the writer knows it, 0 for an empty subject.
    """

    subject: str
    message_id: str
    data: bytes
    headers: Mapping[str, str] = {}
    expected_last: int | None = None
    durability: Durability = Durability.SYNCED


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

    def tail(self, pattern: str, start: LogStart) -> AbstractAsyncContextManager[AsyncIterator[LogEntry]]:
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


# --- Queue ----------------------------------------------------------------------------------------------------------


class Priority(enum.IntEnum):
    LOW = 0
    NORMAL = 1
    HIGH = 2
    URGENT = 3


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one queue; changes hold for leases and appends made afterwards."""

    # How long one hand-out lasts: long enough for a slow call of a model, short enough to notice a dead worker.
    lease_ms: int = 30_000
    # At most one message per ordering key held at a time, in order of append; priorities are ignored.
    ordered: bool = False
    # How long a dedupe id is remembered.
    dedupe_window_ms: int = 120_000
    # Appends beyond these are refused with CapacityReached; None is no limit of its own.
    messages_max: int | None = None
    bytes_max: int | None = None
    # Waiting messages older than this are dropped; None keeps them.
    retention_ms: int | None = None


class QueueAppend(msgspec.Struct, frozen=True, kw_only=True):
    """One message. `message_id` filters repeated calls for 2 minutes; `dedupe_id` for the queue's window, durably.

    `deliver_at_ms` and `expires_at_ms` are absolute. An expired message vanishes; a caller that wants it among the dead
    letters looks at the deadline itself when it leases.
    """

    queue: str
    message_id: str
    data: bytes
    headers: Mapping[str, str] = {}
    priority: Priority = Priority.NORMAL
    deliver_at_ms: int | None = None
    expires_at_ms: int | None = None
    dedupe_id: str | None = None
    ordering_key: str | None = None


class Enqueued(msgspec.Struct, frozen=True, kw_only=True):
    """Kept. `duplicate`: a message with this id or dedupe id had been accepted before; nothing was added."""

    duplicate: bool


class QueueFull(msgspec.Struct, frozen=True, kw_only=True):
    """Not kept: the named setting of the queue is reached."""

    limit: str


QueueOutcome = Enqueued | QueueFull | Undecided


class QueuedMessage(msgspec.Struct, frozen=True, kw_only=True):
    queue: str
    message_id: str
    data: bytes
    headers: Mapping[str, str]
    priority: Priority
    enqueued_at_ms: int
    ordering_key: str | None


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One hand-out. `delivery_id` is opaque; any hub of the mesh can settle with it. `attempt` counts from 1."""

    delivery_id: str
    attempt: int
    lease_until_ms: int
    message: QueuedMessage


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """The work is done: forget the message."""

    delivery_id: str


class ToRetry(msgspec.Struct, frozen=True, kw_only=True):
    """Due again at `visible_at_ms`; the attempt counts."""

    delivery_id: str
    visible_at_ms: int
    reason: str = ""


class ToDeadLetters(msgspec.Struct, frozen=True, kw_only=True):
    """Off the queue, kept for inspection and redrive."""

    delivery_id: str
    reason: str


class Extend(msgspec.Struct, frozen=True, kw_only=True):
    """The lease ends one full lease time from now; no other length."""

    delivery_id: str


Settlement = Ack | ToRetry | ToDeadLetters | Extend


class SettleOutcome(enum.Enum):
    """Of all final settlements of one hand-out at most one is DONE; one sent after the lease's end is STALE.

    After STALE assume that somebody else has, or had, the message. UNDECIDED: repeat the same settlement.
    """

    DONE = "done"
    STALE = "stale"
    UNDECIDED = "undecided"


class Queue(Protocol):
    """Work handed to one holder at a time.

    A message is held by at most one live lease while the engine node that tracks it keeps its state; after the crash
    of a single unreplicated NATS server it may be handed out again before its lease ends. A lease that ends without a
    settlement makes the message due again at once.
    """

    async def append(self, messages: Sequence[QueueAppend]) -> Sequence[QueueOutcome]:
        """Keep each, durably, before it is answered. Raises: StorageFull, EngineUnavailable."""

    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        """Up to `count` (1 to 1,000) due messages: highest priority first, then oldest.

        Returns as soon as at least one is due, with all that are due up to `count`; empty after `wait_ms`. A cancelled
        call leases nothing that it does not return (such messages are due again at once).
        """

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        """End or extend leases; unknown and foreign delivery ids are STALE. Raises: EngineUnavailable."""

    async def peek(self, queue: str, *, after: str | None = None, limit: int = 50) -> Sequence[QueuedMessage]:
        """Messages not yet done, held ones included, in hand-out order; `after` is a message id of the page before."""

    async def depth(self, queues: Sequence[str]) -> Sequence["QueueDepth"]:
        """Figures per queue; they may lag by a second."""


class QueueDepth(msgspec.Struct, frozen=True, kw_only=True):
    """`held` is leased or waiting to be retried; `delayed` waits for its first delivery time."""

    waiting: int
    held: int
    delayed: int
    dead: int


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One hand-out in the history of a dead letter; adapters keep the last 16."""

    attempt: int
    leased_at_ms: int
    ended_at_ms: int
    # retry, expired (the lease ran out) or dead_letter
    outcome: str
    reason: str


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    message: QueuedMessage
    reason: str
    attempts: Sequence[AttemptRecord]
    dead_at_ms: int


class QueueAdmin(Protocol):
    """Administration of queues, apart from the work itself."""

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        """Make the queue or change its settings."""

    async def settings(self, queue: str) -> QueueSettings:
        """Settings in force; the defaults for a queue never configured."""

    async def queues(self, *, after: str | None = None, limit: int = 500) -> Sequence[str]:
        """Names that were configured or hold messages, ordered."""

    async def purge(self, queue: str) -> int:
        """Drop all messages, held and delayed ones too (their leases become STALE); how many. Dead letters stay."""

    async def dead_letters(self, queue: str, *, after: str | None = None, limit: int = 50) -> Sequence[DeadLetter]:
        """Oldest first, after the message id `after`."""

    async def redrive(self, queue: str, message_ids: Sequence[str]) -> Sequence[bool]:
        """Back to the end of the queue, attempts starting again at 1; exactly once each, False for unknown ids."""

    async def remove(self, queue: str) -> None:
        """Forget the queue with its messages, dead letters and settings."""


# --- Bus ------------------------------------------------------------------------------------------------------------


class BusMessage(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    data: bytes
    headers: Mapping[str, str] = {}
    reply_to: str | None = None


class BusGap(msgspec.Struct, frozen=True, kw_only=True):
    """Messages were lost before this point: how many, or None when only that some may have been."""

    missed: int | None


class SubscriptionLost(Exception):
    """The subscription was closed while somebody iterated over it."""


class BusSubscription(Protocol):
    def __aiter__(self) -> AsyncIterator[BusMessage | BusGap]:
        """Messages in order per publisher; a BusGap where this subscriber was too slow."""


class NoResponder(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody listens on the subject; known at once."""


class ReplyTimedOut(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody listens but did not answer in time; they may have acted."""


class Bus(Protocol):
    """Fan-out and request/reply in memory: at most once, nothing is kept."""

    async def publish(self, messages: Sequence[BusMessage]) -> None:
        """Hand to whoever listens now; never waits for a slow subscriber. Raises: EngineUnavailable."""

    def subscribe(
        self, pattern: str, *, group: str | None = None, buffer_max: int = 1_000
    ) -> AbstractAsyncContextManager[BusSubscription]:
        """Active when `__aenter__` returns. Of each group exactly one member gets a message.

        At most `buffer_max` messages wait for the reader; further ones are dropped and counted in a BusGap.
        """

    async def request(self, message: BusMessage, *, timeout_ms: int) -> BusMessage | NoResponder | ReplyTimedOut:
        """Publish with a fresh `reply_to` and take the first answer."""


# --- Blobs ----------------------------------------------------------------------------------------------------------


class BlobRef(msgspec.Struct, frozen=True, kw_only=True):
    """`sha256` in lower-case hex names the content; `size` in bytes."""

    sha256: str
    size: int


class Blobs(Protocol):
    """Large payloads by content. Storing the same bytes twice keeps them once, with the longer time to live."""

    async def put(self, chunks: AsyncIterator[bytes], *, ttl_ms: int | None = None) -> BlobRef:
        """Store durably; nothing is visible before the whole was written. Raises: StorageFull."""

    def get(self, sha256: str) -> AbstractAsyncContextManager[AsyncIterator[bytes] | None]:
        """The content in chunks of at most 512 KiB; None when there is no such blob."""

    async def stat(self, sha256: Sequence[str]) -> Sequence[BlobRef | None]:
        """Which exist."""

    async def delete(self, sha256: Sequence[str]) -> None:
        """Forget; what is not there is no error."""


# --- The bundle -----------------------------------------------------------------------------------------------------


class EngineHealth(msgspec.Struct, frozen=True, kw_only=True):
    """`writable` False with the reason a person can act on; `/readyz` shows it."""

    writable: bool
    reason: str | None = None


class Engine(Protocol):
    """One adapter. All attributes are usable from `open` to `close`."""

    @property
    def name(self) -> str:
        """`embedded` or `nats`."""

    @property
    def durability(self) -> str:
        """One sentence for `doctor` and `/readyz`: what an acknowledged write survives."""

    @property
    def inline_bytes_max(self) -> int: ...

    @property
    def key_value(self) -> KeyValue: ...

    @property
    def log(self) -> Log: ...

    @property
    def queue(self) -> Queue: ...

    @property
    def queue_admin(self) -> QueueAdmin: ...

    @property
    def bus(self) -> Bus: ...

    @property
    def blobs(self) -> Blobs: ...

    async def health(self) -> EngineHealth: ...

    async def close(self) -> None:
        """Finish what was accepted, sync it, let go of files and locks. Idempotent."""


_PLAIN_TOKEN = re.compile(r"[A-Za-z0-9_/-]+")


def subject_token(text: str) -> str:
    """Any text as one token of a name, reversible and equal on every engine: other characters become `=XX` per byte."""
    if _PLAIN_TOKEN.fullmatch(text):
        return text
    encoded = "".join(
        chr(byte) if _PLAIN_TOKEN.fullmatch(chr(byte)) and byte < 128 else f"={byte:02X}" for byte in text.encode()
    )
    return encoded or "="
