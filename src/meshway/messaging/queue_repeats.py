"""Repeating what the engine could not decide: the same items again, until it says, or patience ends."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

__all__ = ["repeat_undecided"]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

# A leader change of a replicated engine is over in less, mostly; a caller should not wait longer for an excuse.
_WAITS_S = (0.05, 0.1, 0.2)


async def repeat_undecided(
    call: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]],
    items: Sequence[Item],
    outcomes: Sequence[Outcome],
    *,
    is_undecided: Callable[[Outcome], bool],
) -> Sequence[Outcome]:
    """`outcomes` of the first call with the undecided ones asked for again; some may stay undecided."""
    if not any(map(is_undecided, outcomes)):
        return outcomes
    final = list(outcomes)
    for wait_s in _WAITS_S:
        left = [index for index, outcome in enumerate(final) if is_undecided(outcome)]
        if not left:
            break
        await asyncio.sleep(wait_s)
        for index, outcome in zip(left, await call([items[index] for index in left]), strict=True):
            final[index] = outcome
    return final
