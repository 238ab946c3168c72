"""Read streams: in pages, or replay and then live."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from meshway.engine.ports import LogTail
from meshway.gateway.channel_places import ChannelPlaces
from meshway.kernel.principal import Principal
from meshway.messaging.stream_items import StreamItem, StreamPage

__all__ = ["ReadStream", "StreamTail"]


class StreamTail:
    """One reader's place in a stream, or in all streams of a pattern."""

    def __init__(self, tail: LogTail) -> None:
        self._tail = tail

    async def take(self, count_max: int) -> Sequence[StreamItem]:
        """Wait for at least one message, then all that are at hand, at most `count_max`; cancelled, none is lost.

        Raises: EngineUnavailable when the store ends the tail; go on with the cursor of the last message.
        """
        return []


class ReadStream:
    """A stream that nobody used yet is empty, and waits for its first message."""

    def __init__(self, places: ChannelPlaces) -> None:
        self._places = places

    async def page(
        self,
        principal: Principal,
        channel: str,
        *,
        start: str | None,
        reader: str | None = None,
        limit: int,
        wait_ms: int = 0,
    ) -> StreamPage:
        """At most `limit` (1 to 500) messages. An empty page waits up to `wait_ms` for the first one.

        Raises: Forbidden, InvalidRequest naming `channel`, `from`, `reader`, `limit` or `wait_ms`, ReaderNotFound,
        EngineUnavailable.
        """
        self._places.admission.admit_channel(principal)
        return StreamPage(items=[], next_start="1")

    def tail(
        self,
        principal: Principal,
        pattern: str,
        *,
        start: str | None = None,
        cursor: str | None = None,
        reader: str | None = None,
    ) -> AbstractAsyncContextManager[StreamTail]:
        """Replay, then live, without gap or repetition; active when entered. `cursor` wins over `reader` and `start`.

        Raises, at once: Forbidden, InvalidRequest naming `channel`, `from`, `cursor` or `reader`. On entering:
        ReaderNotFound, EngineUnavailable.
        """
        self._places.admission.admit_channel(principal)
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[StreamTail]:
        async with self._places.log.tail("st.x", None) as tail:  # type: ignore[arg-type]
            yield StreamTail(tail)
