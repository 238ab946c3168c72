"""Limits of push notifications. How often and how long is explained where it is decided, in deliver_notifications."""

from typing import Annotated

import msgspec

__all__ = ["PushSettings"]


class PushSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[push]`."""

    # Until a receiver has answered, connecting included; the specification suggests 10 to 30 s. Its upper bound keeps
    # an attempt shorter than its lease.
    timeout_ms: Annotated[int, msgspec.Meta(ge=100, le=30_000)] = 15_000
    # At least six hours of attempts, see `deliver_notifications`; then the notification is a dead letter.
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 82
