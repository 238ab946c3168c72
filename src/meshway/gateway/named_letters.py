"""Dead letters by the ids a caller names, however far behind they are."""

from collections.abc import Awaitable, Callable, Sequence

from meshway.engine.ports import DeadLetter
from meshway.kernel.errors import NotFound

__all__ = ["named_letters"]


async def named_letters(
    message_ids: Sequence[str], page: Callable[[str | None], Awaitable[Sequence[DeadLetter]]], *, of: str
) -> dict[str, DeadLetter]:
    """Oldest first, each once; of several with one id the oldest. `page` gives those after a position.

    Raises: NotFound for an id that none has (`of` says of what), and what `page` raises.
    """
    wanted = set(message_ids)
    found: dict[str, DeadLetter] = {}
    after: str | None = None
    while len(found) < len(wanted):
        letters = await page(after)
        if not letters:
            unknown = next(each for each in message_ids if each not in found)
            raise NotFound(f"There is no dead letter {unknown!r} of {of}; nothing was redriven.")
        for letter in letters:
            if letter.message.message_id in wanted:
                found.setdefault(letter.message.message_id, letter)
        after = letters[-1].position
    return found
