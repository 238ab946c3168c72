"""How many messages a stream still takes that refuses more than its `max_messages`.

Exact for the posts of one hub, however many are under way at once: each holds its places before it waits for the
store. Posts at another hub of the mesh are seen when this one reads the stream's bounds, which it does before it
refuses any; so several hubs may exceed the limit together by what they have under way.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from meshway.engine.ports import FromLast, Log
from meshway.messaging.names import ChannelKind, ChannelName, subject_of

__all__ = ["Places", "StreamRoom"]

# Streams remembered; the least recently used are looked up again.
_STREAMS_MAX = 10_000
# The newest ids of a full stream, among which a repeated post is recognised: one batch is repeated, not a history.
_RECENT_MAX = 256


class _Stream:
    """What is known of one stream. Both numbers only rise, so the later knowledge is the higher one."""

    __slots__ = ("first", "held", "idle", "is_known", "last", "recent", "recent_at", "users")

    def __init__(self) -> None:
        self.is_known = False
        self.first = 1
        self.last = 0
        # Posts that look at this stream, and the places of those that were let in.
        self.users = 0
        self.held = 0
        self.idle = asyncio.Event()
        self.recent: Mapping[str, int] = {}
        self.recent_at = -1

    def free(self, most: int) -> int:
        return most - (self.last - self.first + 1) - self.held


class Places:
    """Places that one post holds: `count` of them, perhaps fewer than it asked for."""

    __slots__ = ("_stream", "count")

    def __init__(self, stream: _Stream, count: int) -> None:
        self._stream = stream
        self.count = count

    @property
    def stream(self) -> _Stream:
        return self._stream

    def give_back(self, *, last: int | None) -> None:
        """The post is done, once; `last` is the highest sequence it got, 0 for none, None when nobody knows."""
        stream = self._stream
        stream.held -= self.count
        stream.users -= 1
        if last is None:
            stream.is_known = False
        else:
            stream.last = max(stream.last, last)
        if not stream.held:
            stream.idle.set()


class StreamRoom:
    """Places in streams that refuse. One per hub; used from the event loop only."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._streams: OrderedDict[ChannelName, _Stream] = OrderedDict()

    async def hold(self, channel: ChannelName, count: int, *, most: int) -> Places:
        """Hold `count` places, or as many as are free, perhaps none. Raises: EngineUnavailable."""
        stream = self._streams.get(channel)
        if stream is None:
            self._forget_some()
            stream = self._streams[channel] = _Stream()
        self._streams.move_to_end(channel)
        stream.users += 1
        try:
            return Places(stream, await self._hold(channel, stream, count, most))
        except BaseException:
            stream.users -= 1
            raise

    async def recent(self, channel: ChannelName, places: Places) -> Mapping[str, int]:
        """Sequences of the newest messages by identity: a post repeated at a full stream is not refused."""
        stream = places.stream
        if stream.recent_at != stream.last:
            last = stream.last
            subject = subject_of(ChannelKind.STREAMS, channel)
            entries = await self._log.read(subject, FromLast(_RECENT_MAX), limit=_RECENT_MAX)
            stream.recent = {entry.message_id: entry.sequence for entry in entries}
            stream.recent_at = last
        return stream.recent

    async def _hold(self, channel: ChannelName, stream: _Stream, count: int, most: int) -> int:
        while True:
            if not stream.is_known or stream.free(most) < count:
                await self._look(channel, stream)
            free = stream.free(most)
            if free >= count or not stream.held:
                held = max(0, min(free, count))
                stream.held += held
                return held
            # What is under way may be counted twice just now, in the bounds and as held: wait until it is done.
            stream.idle.clear()
            await stream.idle.wait()

    async def _look(self, channel: ChannelName, stream: _Stream) -> None:
        (bounds,) = await self._log.bounds([subject_of(ChannelKind.STREAMS, channel)])
        if bounds is not None:
            stream.first = max(stream.first, bounds.first)
            stream.last = max(stream.last, bounds.last)
        stream.is_known = True

    def _forget_some(self) -> None:
        """Make room, the least recently used first; those in use stay."""
        if len(self._streams) >= _STREAMS_MAX:
            idle = [channel for channel, stream in self._streams.items() if not stream.users]
            for channel in idle[: _STREAMS_MAX // 10]:
                del self._streams[channel]
