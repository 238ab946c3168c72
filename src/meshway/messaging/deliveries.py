"""Hand-outs of queued messages as workers see them, and the ids they settle them by.

A public delivery id is `<attempt>.<mark of the queue>.<delivery id of the engine>`: what is to become of a failed
attempt depends on its number, and a delivery settled under another queue's path must not be found. Neither is a secret:
the engine's part cannot be guessed, and its own count decides when attempts are used up.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from meshway.engine.ports import Lease

__all__ = ["DELIVERY_ID_CHARACTERS_MAX", "EngineDelivery", "HeldDelivery", "held_deliveries", "parse_delivery_id"]

# Several times what our engines make, and far below what would burden a log.
DELIVERY_ID_CHARACTERS_MAX = 512
# More hand-outs than any setting allows; a longer number is not ours.
_ATTEMPT_DIGITS_MAX = 9


class HeldDelivery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message in the hands of a worker until `lease_until_ms`; `attempt` counts from 1."""

    delivery_id: str
    attempt: int
    lease_until_ms: int
    document: bytes


@dataclass(frozen=True, slots=True)
class EngineDelivery:
    """What a public delivery id says."""

    attempt: int
    engine_id: str


def held_deliveries(queue: str, leases: Sequence[Lease]) -> list[HeldDelivery]:
    """The hand-outs of one queue, for its workers."""
    mark = _mark_of(queue)
    return [
        HeldDelivery(
            delivery_id=f"{lease.attempt}.{mark}.{lease.delivery_id}",
            attempt=lease.attempt,
            lease_until_ms=lease.lease_until_ms,
            document=lease.message.data,
        )
        for lease in leases
    ]


def parse_delivery_id(queue: str, delivery_id: str) -> EngineDelivery | None:
    """None for what was never a delivery of this queue; whether it is held the engine knows."""
    attempt, _, rest = delivery_id.partition(".")
    mark, _, engine_id = rest.partition(".")
    if not engine_id or mark != _mark_of(queue) or not (attempt.isascii() and attempt.isdecimal()):
        return None
    if len(attempt) > _ATTEMPT_DIGITS_MAX or attempt[0] == "0":
        return None
    return EngineDelivery(int(attempt), engine_id)


def _mark_of(queue: str) -> str:
    return f"{zlib.crc32(queue.encode()):08x}"
