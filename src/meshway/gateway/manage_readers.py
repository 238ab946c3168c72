"""Durable readers of a stream: make, move, show, list, remove them, and acknowledge what they have done."""

from collections.abc import Sequence

from meshway.gateway.channel_places import ChannelPlaces
from meshway.kernel.principal import Principal
from meshway.messaging.names import ChannelKind, ChannelName, parse_channel_name
from meshway.messaging.readers import StreamReader, parse_reader_name
from meshway.messaging.stream_start import parse_channel_start

__all__ = ["ManageReaders"]


class ManageReaders:
    """Names of readers are one token of A-Z a-z 0-9 _ -, at most 255 characters. Whoever may use channels may."""

    def __init__(self, places: ChannelPlaces) -> None:
        self._places = places

    async def put(
        self, principal: Principal, channel: str, name: str, *, start: str | None
    ) -> tuple[StreamReader, bool]:
        """Make the reader at `start`, or move it there, back too; True: it is new.

        None: a new reader begins at the end, one that exists stays where it is, so a service may put its reader each
        time it starts. A stream that nobody used yet is made.
        Raises: Forbidden, InvalidRequest naming `channel`, `reader` or `from`, CapacityReached, Conflict, StorageFull,
        EngineUnavailable.
        """
        stream, reader = self._admit(principal, channel, name)
        begin = None if start is None else parse_channel_start(start)
        await self._places.channels.use(ChannelKind.STREAMS, stream, principal.id)
        return await self._places.readers.put(stream, reader, begin)

    async def show(self, principal: Principal, channel: str, name: str) -> StreamReader:
        """Raises: Forbidden, InvalidRequest naming `channel` or `reader`, ReaderNotFound, EngineUnavailable."""
        return await self._places.readers.show(*self._admit(principal, channel, name))

    async def list(self, principal: Principal, channel: str) -> Sequence[StreamReader]:
        """All readers of a stream, by name. Raises: Forbidden, InvalidRequest, ChannelNotFound, EngineUnavailable."""
        self._places.admission.admit_channel(principal)
        stream = parse_channel_name(channel)
        self._places.present(ChannelKind.STREAMS, stream)
        return await self._places.readers.list_of(stream)

    async def remove(self, principal: Principal, channel: str, name: str) -> None:
        """Raises: Forbidden, InvalidRequest naming `channel` or `reader`, ReaderNotFound, StorageFull,
        EngineUnavailable."""
        await self._places.readers.remove(*self._admit(principal, channel, name))

    async def ack(self, principal: Principal, channel: str, name: str, sequence: int) -> int:
        """Everything up to `sequence` is done; the position now, durable, never behind what was acknowledged before.

        Raises: Forbidden, InvalidRequest naming `channel`, `reader` or `sequence` (beyond the end), ReaderNotFound,
        Conflict, StorageFull, EngineUnavailable.
        """
        stream, reader = self._admit(principal, channel, name)
        return await self._places.readers.ack(stream, reader, sequence)

    def _admit(self, principal: Principal, channel: str, name: str) -> tuple[ChannelName, str]:
        self._places.admission.admit_channel(principal)
        return parse_channel_name(channel), parse_reader_name(name)
