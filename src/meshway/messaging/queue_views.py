"""Dead letters as people see them: what workers did, and why it ended."""

from collections.abc import Sequence

import msgspec

from meshway.engine.ports import AttemptRecord, DeadLetter
from meshway.kernel.clock import rfc3339_ms
from meshway.kernel.retry import is_used_up_reason

__all__ = ["AttemptView", "DeadLetterView", "view_of"]


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One hand-out to a worker. `outcome`: retry, expired (its lease ran out) or dead_letter; times are RFC 3339."""

    attempt: int
    leased_at: str
    ended_at: str
    outcome: str
    reason: str


class DeadLetterView(msgspec.Struct, frozen=True, kw_only=True):
    """`attempts`: the last of them, oldest first. `message` is the document; `id` is what redrive takes."""

    id: str
    reason: str
    dead_at: str
    attempts: Sequence[AttemptView]
    message: msgspec.Raw


def view_of(dead: DeadLetter) -> DeadLetterView:
    """Without the hub's own take of a message whose last lease had run out: no worker saw that one."""
    attempts = list(dead.attempts)
    reason = dead.reason
    if attempts and is_used_up_reason(attempts[-1].reason, attempts[-1].attempt):
        attempts.pop()
        reason = _true_reason(reason, attempts)
    return DeadLetterView(
        id=dead.message.message_id,
        reason=reason,
        dead_at=rfc3339_ms(dead.dead_at_ms),
        attempts=[_attempt_view(record) for record in attempts],
        message=msgspec.Raw(dead.message.data),
    )


def _true_reason(reason: str, attempts: Sequence[AttemptRecord]) -> str:
    """The hub that took the message knew the number of its attempts only, not how the last one had ended."""
    if not attempts or attempts[-1].outcome == "expired":
        return reason
    last = attempts[-1]
    return f"attempt {last.attempt} failed: {last.reason or 'no reason given'}; then attempts_max was lowered"


def _attempt_view(record: AttemptRecord) -> AttemptView:
    return AttemptView(
        attempt=record.attempt,
        leased_at=rfc3339_ms(record.leased_at_ms),
        ended_at=rfc3339_ms(record.ended_at_ms),
        outcome=record.outcome,
        reason=record.reason,
    )
