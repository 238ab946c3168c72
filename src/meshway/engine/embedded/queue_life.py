"""The life of a queued message: its states and the only moves between them. Pure; nobody else decides a state.

Drawn in docs/internals/embedded-engine.md.
"""

import enum

from meshway.engine.ports import QueueSettings

__all__ = ["MOVES", "MessageEnd", "MessageState", "check_move", "first_state", "is_timed", "rank_of"]


class MessageState(enum.IntEnum):
    """Where a message stands. The numbers are stored: never change one."""

    # Due: the next lease may take it.
    WAITING = 0
    # Its first delivery time has not come.
    DELAYED = 1
    # Held by somebody until `visible_at_ms`.
    LEASED = 2
    # Given back, due again at `visible_at_ms`.
    RETRYING = 3
    # Behind an older message with the same ordering key.
    BLOCKED = 4


class MessageEnd(enum.Enum):
    """How a message leaves the queue."""

    DONE = "done"
    DEAD = "dead"
    EXPIRED = "expired"
    PURGED = "purged"


# From each state: where a message may go, and how it may end. A dead letter that is redriven is a new message.
MOVES: dict[MessageState, frozenset[MessageState | MessageEnd]] = {
    MessageState.WAITING: frozenset({MessageState.LEASED, MessageState.BLOCKED, MessageEnd.EXPIRED, MessageEnd.PURGED}),
    MessageState.DELAYED: frozenset(
        {MessageState.WAITING, MessageState.BLOCKED, MessageEnd.EXPIRED, MessageEnd.PURGED}
    ),
    # WAITING: the lease ran out, or was never answered, or is retried at once. A held message does not expire.
    MessageState.LEASED: frozenset(
        {
            MessageState.LEASED,
            MessageState.WAITING,
            MessageState.RETRYING,
            MessageEnd.DONE,
            MessageEnd.DEAD,
            MessageEnd.PURGED,
        }
    ),
    MessageState.RETRYING: frozenset(
        {MessageState.WAITING, MessageState.BLOCKED, MessageEnd.EXPIRED, MessageEnd.PURGED}
    ),
    MessageState.BLOCKED: frozenset(
        {MessageState.WAITING, MessageState.DELAYED, MessageEnd.EXPIRED, MessageEnd.PURGED}
    ),
}


# Plain numbers hash faster, and every settlement asks.
_MOVES_BY_NUMBER = [MOVES[state] for state in MessageState]


def check_move(before: int, after: MessageState | MessageEnd) -> None:
    """From a stored state. Raises: ValueError for a move that is not in the table: a defect, no caller's mistake."""
    if after not in _MOVES_BY_NUMBER[before]:
        raise ValueError(f"a {MessageState(before).name} message cannot become {after.name}")


def first_state(deliver_at_ms: int | None, now_ms: int, *, is_behind: bool) -> MessageState:
    """Where a message begins, or goes on when what blocked it has left."""
    if is_behind:
        return MessageState.BLOCKED
    if deliver_at_ms is not None and deliver_at_ms > now_ms:
        return MessageState.DELAYED
    return MessageState.WAITING


def is_timed(state: MessageState) -> bool:
    """Whether `visible_at_ms` will move it on."""
    return state in (MessageState.DELAYED, MessageState.LEASED, MessageState.RETRYING)


def rank_of(priority: int, settings: QueueSettings) -> int:
    """What hand-out is ordered by, lowest first; an ordered queue knows only the order of arrival."""
    return 0 if settings.ordered else -priority
