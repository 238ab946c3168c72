"""What a worker says about a delivery, as it says it."""

from typing import Literal

import msgspec

__all__ = ["DELAY_MAX_MS", "REASON_CHARACTERS_MAX", "SettlementItem"]

# 365 days, the promise of delays and schedules.
DELAY_MAX_MS = 31_536_000_000
# A reason is for people; a stack trace belongs to the worker's log.
REASON_CHARACTERS_MAX = 1_024


class SettlementItem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`delay_ms` is for `retry` only, and stands for the back-off; `reason` is kept in the message's history."""

    delivery_id: str
    action: Literal["ack", "retry", "dead_letter", "extend"]
    delay_ms: int | None = None
    reason: str | None = None
