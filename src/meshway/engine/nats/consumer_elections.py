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

__all__ = ["Elections", "doubted_s"]

Value = TypeVar("Value")

# What a new leader does not know to be handed out, somebody may hold for as long as a lease lasts. Not shorter, for
# leases are extended; not longer, for every question has its price.
_DOUBTED_MIN_S = 10.0
_DOUBTED_MAX_S = 600.0
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


def doubted_s(lease_ms: int) -> float:
    """How long what a consumer with such leases hands out is asked about, when it may have another leader."""
    return min(max(_DOUBTED_MIN_S, lease_ms / 1000), _DOUBTED_MAX_S)


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

    def latest(self, consumer: str) -> float | None:
        """When (loop time) another server took it over last, as far as is known; None: never."""
        election, made_at = self._latest.get(consumer), self._made_at.get(consumer)
        if election is None:
            return None
        if election.at is not None and made_at is not None:
            is_first = (election.at - made_at).total_seconds() <= _FIRST_WITHIN_S
            return None if is_first else election.heard_s
        return election.heard_s


def _put(known: OrderedDict[str, Value], consumer: str, value: Value) -> None:
    known[consumer] = value
    known.move_to_end(consumer)
    if len(known) > _REMEMBERED_MAX:
        known.popitem(last=False)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
