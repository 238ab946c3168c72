"""Durable readers of a stream: make, move, show, list, remove them, and acknowledge what they have done."""

from collections.abc import Sequence

from meshway.gateway.channel_places import ChannelPlaces
from meshway.kernel.principal import Principal
from meshway.messaging.readers import StreamReader

__all__ = ["ManageReaders"]


class ManageReaders:
    """Names of readers are one token of A-Z a-z 0-9 _ -, at most 255 characters."""

    def __init__(self, places: ChannelPlaces) -> None:
        self._places = places

    async def put(
        self, principal: Principal, channel: str, name: str, *, start: str | None
    ) -> tuple[StreamReader, bool]:
        """Make the reader at `start`, or move it there, back too; True: it is new."""
        raise AssertionError

    async def show(self, principal: Principal, channel: str, name: str) -> StreamReader:
        """Raises: Forbidden, InvalidRequest, ReaderNotFound, EngineUnavailable."""
        raise AssertionError

    async def list(self, principal: Principal, channel: str) -> Sequence[StreamReader]:
        """All readers of a stream, by name."""
        raise AssertionError

    async def remove(self, principal: Principal, channel: str, name: str) -> None:
        """Raises: Forbidden, InvalidRequest, ReaderNotFound, StorageFull, EngineUnavailable."""
        raise AssertionError

    async def ack(self, principal: Principal, channel: str, name: str, sequence: int) -> int:
        """Everything up to `sequence` is done; the position now, never behind what was acknowledged before."""
        raise AssertionError
