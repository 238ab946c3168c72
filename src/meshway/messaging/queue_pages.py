"""Pages of large things: as many as were asked for, or as many as fit into memory that a page may take.

A port's page is counted in items, and 500 of them may be 500 bytes or 4 GB. So the first look takes a few, and each
further one as many as should fit by what was seen.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

__all__ = ["bounded_page"]

Item = TypeVar("Item")

# What one page may take, and a little more: the item that passes it is still in.
_PAGE_BYTES_MAX = 16 * 1024 * 1024
_FIRST_LOOK = 8


async def bounded_page(
    read: Callable[[str | None, int], Awaitable[Sequence[Item]]],
    *,
    after: str | None,
    limit: int,
    position_of: Callable[[Item], str],
    bytes_of: Callable[[Item], int],
) -> tuple[list[Item], str | None]:
    """At least one item if there is one, at most `limit`; and the position to go on after, None at the end.

    `read(after, count)` gives fewer than `count` only at the end.
    """
    items: list[Item] = []
    taken = 0
    look = _FIRST_LOOK
    while True:
        # One more than wanted, at the end of the page, shows whether there is a next one.
        wanted = min(look, limit + 1 - len(items))
        found = await read(after, wanted)
        for item in found:
            if items and (len(items) == limit or taken >= _PAGE_BYTES_MAX):
                return items, position_of(items[-1])
            items.append(item)
            taken += bytes_of(item)
        if len(found) < wanted:
            return items, None
        after = position_of(items[-1])
        look = max(1, (_PAGE_BYTES_MAX - taken) * len(items) // max(taken, 1))
