"""Bus: fan-out and request/reply in memory, at most once."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

__all__ = ["Bus", "BusGap", "BusMessage", "BusSubscription", "NoResponder", "ReplyTimedOut"]


class BusMessage(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    data: bytes
    headers: Mapping[str, str] = {}
    reply_to: str | None = None


class BusGap(msgspec.Struct, frozen=True, kw_only=True):
    """Messages were lost before this point: how many, or None when only that some may have been."""

    missed: int | None


class BusSubscription(Protocol):
    """Messages in order per publisher; a BusGap where this subscriber was too slow.

    One reader at a time; a cancelled call loses nothing.
    """

    def __aiter__(self) -> AsyncIterator[BusMessage | BusGap]:
        """Each by itself. Raises: SubscriptionLost."""

    async def take(self, count_max: int) -> Sequence[BusMessage | BusGap]:
        """Wait for at least one, then all that are there, at most `count_max` (1 to 1,000,000).

        What was there before the engine ended the subscription is still given. Raises: SubscriptionLost.
        """


class NoResponder(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody listens on the subject; known at once."""


class ReplyTimedOut(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody listens but did not answer in time; they may have acted."""


class Bus(Protocol):
    """Fan-out and request/reply in memory: at most once, nothing is kept."""

    async def publish(self, messages: Sequence[BusMessage]) -> None:
        """Hand to whoever listens now; never waits for a slow subscriber.

        Raises: PayloadTooLarge (beyond what the engine takes in one message), EngineUnavailable.
        """

    def subscribe(
        self, pattern: str, *, group: str | None = None, buffer_max: int = 1_000
    ) -> AbstractAsyncContextManager[BusSubscription]:
        """Active when `__aenter__` returns.

        A group is known by its name, whatever patterns its members listen to: of all members whose patterns match a
        message exactly one gets it. Among those at one hub it is in turn one that has room, where there is one; which
        hub is the engine's choice. Who names no group hears all.
        At most `buffer_max` messages wait for the reader; further ones are dropped and counted in a BusGap.
        """

    async def request(self, message: BusMessage, *, timeout_ms: int) -> BusMessage | NoResponder | ReplyTimedOut:
        """Publish with a fresh `reply_to` and take the first answer. Raises: as `publish`."""
