"""Server-sent events of channels: batches as they come, no faster than the client reads, to its end or the hub's."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from meshway.edges.http.exchange import Exchange
from meshway.edges.http.problems import render_problem
from meshway.kernel.errors import MeshwayError
from meshway.protocols.sse import frame

__all__ = ["relay_feed"]

Item = TypeVar("Item")

_HEADERS = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
_SUBSCRIBED = b": subscribed\n\n"
_FAREWELL = b": the hub is shutting down\n\n"
# Taken at once: enough to spread the cost of a write, few enough that one reader does not hold up the others.
_ITEMS_MAX = 256
# Written at once: a slow client holds this much of its feed in the hub, and no more.
_WRITE_BYTES_MAX = 262_144


async def relay_feed(
    exchange: Exchange,
    take: Callable[[int], Awaitable[Sequence[Item]]],
    frame_of: Callable[[Item], bytes],
    *,
    still_welcome: Callable[[], None],
) -> None:
    """Answer with a stream of what `take` gives; the subscription behind it is active already.

    `still_welcome` raises where the reader may not see what was taken, because its key was revoked meanwhile.
    An error after the head becomes an `error` event with its problem document, and ends the stream.
    """
    exchange.start_stream(200, b"text/event-stream", _HEADERS)
    exchange.send(_SUBSCRIBED)
    try:
        with exchange.until_drain() as wait:
            while True:
                items = await take(_ITEMS_MAX)
                still_welcome()
                await _write(exchange, [frame_of(item) for item in items])
        if wait.ended:
            exchange.send(_FAREWELL)
    except MeshwayError as error:
        exchange.send(frame(render_problem(error).body, event=b"error"))
    exchange.end()


async def _write(exchange: Exchange, frames: list[bytes]) -> None:
    for piece in _pieces(frames):
        exchange.send(piece)
        if exchange.must_drain:
            await exchange.drain()


def _pieces(frames: list[bytes]) -> Iterator[bytes]:
    """The frames joined to pieces of bounded size; a frame is never cut."""
    whole = b"".join(frames)
    if len(whole) <= _WRITE_BYTES_MAX:
        yield whole
        return
    del whole
    start, size = 0, 0
    for index, each in enumerate(frames):
        if size and size + len(each) > _WRITE_BYTES_MAX:
            yield b"".join(frames[start:index])
            start, size = index, 0
        size += len(each)
    yield b"".join(frames[start:])
