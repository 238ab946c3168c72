"""What the writer is asked to do with queues, one class per kind of call."""

from collections.abc import Sequence

from meshway.engine.embedded.writer import WriteCall
from meshway.engine.ports import Lease, QueueAppend, QueueOutcome, QueueSettings, Settlement, SettleOutcome

__all__ = [
    "AppendCall",
    "ConfigureCall",
    "DueCall",
    "LeaseCall",
    "PurgeCall",
    "QueueSweep",
    "RedriveCall",
    "ReleaseCall",
    "RemoveCall",
    "RenewCall",
    "SettleCall",
]


class AppendCall(WriteCall):
    __slots__ = ("messages", "outcomes")

    messages: Sequence[QueueAppend]
    outcomes: Sequence[QueueOutcome]


class LeaseCall(WriteCall):
    """Hand out what is due. Not awaited itself: see `leasing.Leasing`. `more`: it got nothing, and others are due."""

    __slots__ = ("count", "leases", "more", "queue")

    queue: str
    count: int
    leases: Sequence[Lease]
    more: bool


class ReleaseCall(WriteCall):
    """Undo hand-outs whose caller has gone."""

    __slots__ = ("delivery_ids",)

    delivery_ids: Sequence[str]


class SettleCall(WriteCall):
    __slots__ = ("outcomes", "settlements")

    settlements: Sequence[Settlement]
    outcomes: Sequence[SettleOutcome]


class DueCall(WriteCall):
    """Only look at the clock: messages whose time has come become due."""

    __slots__ = ()


class QueueSweep(WriteCall):
    """Drop a part of what has expired; `more` when there may be further ones."""

    __slots__ = ("more",)

    more: bool


class RenewCall(WriteCall):
    """Give every lease one full lease time from now; `renewed` of them."""

    __slots__ = ("renewed",)

    renewed: int


class ConfigureCall(WriteCall):
    __slots__ = ("queue", "settings")

    queue: str
    settings: QueueSettings


class PurgeCall(WriteCall):
    """Drop a part of the messages up to the row `up_to` (None: up to the newest, which it then becomes)."""

    __slots__ = ("dropped", "more", "queue", "up_to")

    queue: str
    up_to: int | None
    dropped: int
    more: bool


class RedriveCall(WriteCall):
    __slots__ = ("message_ids", "outcomes", "queue")

    queue: str
    message_ids: Sequence[str]
    outcomes: Sequence[bool]


class RemoveCall(WriteCall):
    """Forget a purged queue and a part of its dead letters; `more` when some are left and the queue still stands."""

    __slots__ = ("more", "queue")

    queue: str
    more: bool
