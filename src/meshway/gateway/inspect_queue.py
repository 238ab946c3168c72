"""Look at what a queue holds without taking it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from meshway.engine.ports import DeadLetter, QueuedMessage
from meshway.gateway.queue_places import QueuePlaces, check_between
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.pages import LIMIT_MAX, Page, decode_cursor, encode_cursor
from meshway.kernel.principal import Principal
from meshway.messaging.queue_pages import bounded_page
from meshway.messaging.queue_views import DeadLetterView, view_of

__all__ = ["InspectQueue"]

Item = TypeVar("Item", DeadLetter, QueuedMessage)


class InspectQueue:
    """Pages hold at most `limit` items (1 to 500), fewer where they are large; `next_cursor` says if there are more."""

    def __init__(self, places: QueuePlaces) -> None:
        self._places = places

    async def peek(self, principal: Principal, queue: str, *, cursor: str | None, limit: int) -> Page[bytes]:
        """Documents of messages not yet done, held and delayed ones included, in the order of hand-out.

        Raises: Forbidden, InvalidRequest naming `channel`, `cursor` or `limit`, ChannelNotFound, EngineUnavailable.
        """
        name = self._places.known(principal, queue).name
        messages, more = await _page(
            lambda after, count: self._places.queue.peek(name, after=after, limit=count),
            cursor=cursor,
            limit=limit,
            position_of=lambda message: message.position,
            bytes_of=lambda message: len(message.data),
        )
        return Page([message.data for message in messages], more)

    async def dead_letters(
        self, principal: Principal, queue: str, *, cursor: str | None, limit: int
    ) -> Page[DeadLetterView]:
        """Oldest first. Raises: as `peek`."""
        name = self._places.known(principal, queue).name
        dead, more = await _page(
            lambda after, count: self._places.queue_admin.dead_letters(name, after=after, limit=count),
            cursor=cursor,
            limit=limit,
            position_of=lambda letter: letter.position,
            bytes_of=lambda letter: len(letter.message.data),
        )
        return Page([view_of(letter) for letter in dead], more)


async def _page(
    read: Callable[[str | None, int], Awaitable[Sequence[Item]]],
    *,
    cursor: str | None,
    limit: int,
    position_of: Callable[[Item], str],
    bytes_of: Callable[[Item], int],
) -> tuple[Sequence[Item], str | None]:
    check_between("limit", limit, 1, LIMIT_MAX)
    after = None if cursor is None else decode_cursor(cursor)
    try:
        items, last = await bounded_page(read, after=after, limit=limit, position_of=position_of, bytes_of=bytes_of)
    except InvalidRequest as error:
        # The engine's word for it is `after`.
        text = "use the next_cursor of the page before, unchanged"
        raise InvalidRequest(f"cursor: {text}", fields=[FieldError("cursor", text)]) from error
    return items, None if last is None else encode_cursor(last)
