"""Dead letters as people see them."""

import msgspec

__all__ = ["AttemptView", "DeadLetterView"]


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One hand-out to a worker. `outcome`: retry, expired (its lease ran out) or dead_letter; times are RFC 3339."""

    attempt: int
    leased_at: str
    ended_at: str
    outcome: str
    reason: str


class DeadLetterView(msgspec.Struct, frozen=True, kw_only=True):
    """`attempts`: the last 16, oldest first. `message` is the document; `id` is what redrive takes."""

    id: str
    reason: str
    dead_at: str
    attempts: list[AttemptView]
    message: msgspec.Raw
