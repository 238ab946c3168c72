"""When the servers elected who leads a consumer: a new leader may not know the last hand-outs of the one before.

A server that leads a consumer hands a message out and tells the other replicas of it at the same time. Where it dies in
between, its successor hands the message out again, as if for the first time. NATS tells of every election, also of the
first one of a new consumer, before which there was nothing to forget.
"""

import asyncio
from collections import OrderedDict
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec

__all__ = ["Elections"]

Value = TypeVar("Value")

# Elections older than this are of no interest to who begins to use a consumer now.
_RECENT_S = 10.0
# One so soon after its consumer was made is the first.
_FIRST_WITHIN_S = 1.0
# Where a server that led thousands of consumers died, all of them elect at once.
_REMEMBERED_MAX = 20_000


class _Advisory(msgspec.Struct, frozen=True):
    """`io.nats.jetstream.advisory.v1.consumer_leader_elected`, as far as it is read here."""

    timestamp: datetime


class _Election(NamedTuple):
    """`at`: by the clock of the servers; None where it was not said. `heard_s`: loop time."""

    at: datetime | None
    heard_s: float


_decode = msgspec.json.Decoder(_Advisory).decode


class Elections:
    """Of the consumers of one stream."""

    def __init__(self, stream: str) -> None:
        self.subject = f"$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.{stream}.*"
        # By consumer, the oldest first.
        self._made_at: OrderedDict[str, datetime] = OrderedDict()
        self._latest: OrderedDict[str, _Election] = OrderedDict()

    def made(self, consumer: str, at: datetime | None) -> None:
        """It is there since then, by the clock of the servers; this is known before it is used."""
        if at is not None:
            _put(self._made_at, consumer, at)

    def elected(self, consumer: str, advisory: bytes) -> None:
        try:
            at = _decode(advisory).timestamp
        except msgspec.DecodeError:
            # Of a version that says it otherwise.
            at = None
        _put(self._latest, consumer, _Election(at, _now_s()))

    def is_recent(self, consumer: str) -> bool:
        """Whether another server led it until a moment ago, as far as is known."""
        election, made_at = self._latest.get(consumer), self._made_at.get(consumer)
        if election is None or _now_s() - election.heard_s > _RECENT_S:
            return False
        if election.at is None or made_at is None:
            return True
        return (election.at - made_at).total_seconds() > _FIRST_WITHIN_S


def _put(known: OrderedDict[str, Value], consumer: str, value: Value) -> None:
    known[consumer] = value
    known.move_to_end(consumer)
    if len(known) > _REMEMBERED_MAX:
        known.popitem(last=False)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
