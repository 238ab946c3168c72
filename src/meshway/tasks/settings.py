"""How tasks are kept, handed out and given up."""

from typing import Annotated

import msgspec

__all__ = ["TaskSettings"]

Positive = Annotated[int, msgspec.Meta(ge=1)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1_000)]


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for the tasks of all agents."""

    # Of finished tasks, record and events: a week covers a long weekend and the look at what happened on Friday.
    finished_retention_ms: Milliseconds = 7 * 86_400_000
    # Of open ones: people answer a question of an agent within a month, or never.
    open_retention_ms: Milliseconds = 30 * 86_400_000
    # How long one hand-out to an instance lasts unless it is extended, which the SDK does three times in it.
    lease_ms: Annotated[int, msgspec.Meta(ge=500)] = 30_000
    # Hand-outs before a task goes to the dead letters: a crash or two are bad luck, five are the task's own fault.
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 5
    # What a lost connection may cost: an instance that is back within it goes on with what it held.
    reconnect_grace_ms: Positive = 5_000
    # Work on one task, from its first attempt on; slow agents take minutes, stuck ones for ever.
    task_timeout_ms: Milliseconds = 3_600_000
    # Tasks that wait for one agent, about 2 KB each on disk.
    inbox_max: Positive = 100_000
    # How long a task waits for its agent: over a holiday.
    inbox_ttl_ms: Milliseconds = 7 * 86_400_000
    # How long the hub looks for an agent whose stream broke before those who follow it are told.
    reattach_for_ms: Milliseconds = 300_000
