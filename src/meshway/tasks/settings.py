"""How long the hub remembers whose task is whose."""

from typing import Annotated

import msgspec

__all__ = ["TaskSettings"]


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Retention of owner records; each change of state starts it again."""

    # Of finished tasks: a week covers a long weekend and the look at what happened on Friday.
    finished_retention_ms: Annotated[int, msgspec.Meta(ge=1_000)] = 7 * 86_400_000
    # Of open ones: people answer a question of an agent within a month, or never.
    open_retention_ms: Annotated[int, msgspec.Meta(ge=1_000)] = 30 * 86_400_000
    # Owners kept in memory, about 1 KB each: follow-ups to tasks that are under way need no read.
    owners_cached: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
