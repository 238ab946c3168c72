"""The life cycle of a task as one table; drawn in docs/internals/tasks.md. Nobody else decides what may follow what.

    SUBMITTED ──► WORKING ◄──► INPUT_REQUIRED, AUTH_REQUIRED
        ▲                          │
        └──── a further turn ──────┘
    any of them ──► COMPLETED, FAILED, CANCELED, REJECTED ──► nothing

Work that waits for another attempt stays WORKING: to the client it has begun.
"""

from collections.abc import Mapping

from meshway.tasks.values import TaskState

__all__ = ["MOVES", "may_move"]

_TERMINAL = frozenset(state for state in TaskState if state.is_terminal)
_INTERRUPTED = frozenset(state for state in TaskState if state.is_interrupted)
_NOTHING: frozenset[TaskState] = frozenset()

MOVES: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.SUBMITTED: frozenset({TaskState.WORKING}) | _INTERRUPTED | _TERMINAL,
    # To itself: progress, and the beginning of a further attempt.
    TaskState.WORKING: frozenset({TaskState.WORKING}) | _INTERRUPTED | _TERMINAL,
    # Back to SUBMITTED: the client has answered.
    TaskState.INPUT_REQUIRED: frozenset({TaskState.SUBMITTED, TaskState.WORKING, TaskState.AUTH_REQUIRED}) | _TERMINAL,
    TaskState.AUTH_REQUIRED: frozenset({TaskState.SUBMITTED, TaskState.WORKING, TaskState.INPUT_REQUIRED}) | _TERMINAL,
    TaskState.COMPLETED: _NOTHING,
    TaskState.FAILED: _NOTHING,
    TaskState.CANCELED: _NOTHING,
    TaskState.REJECTED: _NOTHING,
    # Of a task whose state no agent has told yet, or told in a word the hub does not know.
    TaskState.UNSPECIFIED: frozenset(TaskState),
}


def may_move(before: TaskState, after: TaskState) -> bool:
    """Whether a status with state `after` may follow one with state `before`."""
    return after in MOVES[before]
