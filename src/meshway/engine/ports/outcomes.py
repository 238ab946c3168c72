"""What the primitives share: how durable a write is, and what may come of any call."""

import enum

import msgspec

__all__ = ["Durability", "SubscriptionLost", "Undecided"]


class Durability(enum.Enum):
    """What has happened when a write is answered."""

    # Survives power loss of one machine, as far as the engine is configured for it.
    SYNCED = "synced"
    # Survives kill -9 of the hub at once, power loss after the adapter's stated bound (embedded: 1 s).
    LAZY = "lazy"


class Undecided(msgspec.Struct, frozen=True, kw_only=True):
    """Unknown outcome: repeat the same call."""

    reason: str


class SubscriptionLost(Exception):
    """The engine ended a watch, tail or subscription (it closes, or could not read on). Begin another one."""
