"""Queue and QueueAdmin: work handed to one holder at a time, and its administration."""

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from meshway.engine.ports.outcomes import Undecided

__all__ = [
    "Ack",
    "AttemptRecord",
    "DeadLetter",
    "Enqueued",
    "Extend",
    "Lease",
    "Priority",
    "Queue",
    "QueueAdmin",
    "QueueAppend",
    "QueueDepth",
    "QueueFull",
    "QueueOutcome",
    "QueueSettings",
    "QueuedMessage",
    "SettleOutcome",
    "Settlement",
    "ToDeadLetters",
    "ToRetry",
]


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
    # Appends beyond these are refused with QueueFull; None is no limit of its own. Of many hubs together they may be
    # passed by what is on its way, and an adapter may round sizes up by an eighth.
    messages_max: int | None = None
    bytes_max: int | None = None
    # Waiting messages older than this are dropped; None keeps them.
    retention_ms: int | None = None
    # A message whose lease runs out in this attempt becomes a dead letter, at the latest when somebody next leases from
    # the queue; an adapter may leave that to the caller, who looks at `Lease.attempt` anyway. None is no maximum.
    attempts_max: int | None = None
    # False drops such a message instead.
    dead_letters: bool = True


class QueueAppend(msgspec.Struct, frozen=True, kw_only=True):
    """One message. `message_id` filters repeated calls for 2 minutes; `dedupe_id` for the queue's window, durably.

    `deliver_at_ms` and `expires_at_ms` are absolute. An expired message vanishes, with some adapters also while it is
    held: its settlement is then STALE. A caller that wants it among the dead letters looks at the deadline itself when
    it leases.
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
    # False: the id was made for this call and nobody knows it yet. Then an adapter that never answers Undecided
    # need not remember it, which is most of what a waiting message costs in memory.
    is_repeatable: bool = True


class Enqueued(msgspec.Struct, frozen=True, kw_only=True):
    """Kept. `duplicate`: a message with this id or dedupe id had been accepted before; nothing was added."""

    duplicate: bool


class QueueFull(msgspec.Struct, frozen=True, kw_only=True):
    """Not kept: the named setting of the queue is reached."""

    limit: str


QueueOutcome = Enqueued | QueueFull | Undecided


class QueuedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """`position` is opaque and set where a page may go on from it: by `peek`."""

    queue: str
    message_id: str
    data: bytes
    headers: Mapping[str, str]
    priority: Priority
    enqueued_at_ms: int
    ordering_key: str | None
    position: str = ""


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

    After STALE assume that somebody else has, or had, the message. UNDECIDED: repeat the same settlement; the
    repetition may be STALE although the first one took effect. Through two hubs at once, a ToRetry and an Ack may both
    be DONE.
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
        """Keep each, durably, before it is answered.

        Once a full queue has refused one message of a call it refuses those that follow it in the call, whatever
        their size, so that repeating the refused ones keeps their order. Raises: PayloadTooLarge (the engine takes no
        message of this size; one up to its `inline_bytes_max` always), StorageFull, EngineUnavailable.
        """

    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        """Up to `count` (1 to 1,000) due messages: highest priority first, then oldest.

        Messages that were given back come before those of their priority that were never handed out, among themselves
        in an order of the adapter's. An engine with replicas may pass over a message that was appended within the last
        second, for one of lower priority: the replica that hands it out may not have it yet.

        Returns as soon as at least one is due, with all that are due up to `count`; empty after `wait_ms`. A cancelled
        call leases nothing that it does not return (such messages are due again at once).
        """

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        """End or extend leases; unknown and foreign delivery ids are STALE. Raises: EngineUnavailable."""

    async def peek(self, queue: str, *, after: str | None = None, limit: int = 50) -> Sequence[QueuedMessage]:
        """Messages not yet done, held ones included, in hand-out order.

        `after` is the `position` of a message of the page before, whether or not it is still there.
        """

    async def depth(self, queues: Sequence[str]) -> Sequence["QueueDepth"]:
        """Figures per queue; they may lag by a second."""


class QueueDepth(msgspec.Struct, frozen=True, kw_only=True):
    """`held` is leased or waiting to be retried; `delayed` waits for its first delivery time.

    Where a lease or a pause has ended, a message may count as held until it is handed out again.
    """

    waiting: int
    held: int
    delayed: int
    dead: int


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One hand-out in the history of a dead letter; adapters keep the last 16. Times nobody saw are estimates."""

    attempt: int
    leased_at_ms: int
    ended_at_ms: int
    # retry, expired (the lease ran out) or dead_letter
    outcome: str
    reason: str


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """`position` is opaque, and none is ever given twice at a time: ids may repeat after their window."""

    position: str
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
        """Oldest first, after the `position` of one that may be gone meanwhile."""

    async def redrive(self, queue: str, message_ids: Sequence[str]) -> Sequence[bool]:
        """Back to the end of the queue, attempts starting again at 1; exactly once each, False for unknown ids.

        An id stands for the oldest dead letter that has it.
        """

    async def remove(self, queue: str) -> None:
        """Forget the queue with its messages, their ids, dead letters and settings."""
