"""KeyValue: small values under names, with compare-and-set and time to live."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from meshway.engine.ports.outcomes import Durability, Undecided

__all__ = [
    "KeyValue",
    "KvCaughtUp",
    "KvConflict",
    "KvCreate",
    "KvDelete",
    "KvDeleted",
    "KvEntry",
    "KvEvent",
    "KvOutcome",
    "KvPage",
    "KvPut",
    "KvUpdate",
    "KvWrite",
    "KvWritten",
]


class KvPut(msgspec.Struct, frozen=True, kw_only=True):
    """Write whatever is there. `ttl_ms` counts from this write; None keeps the key until it is deleted."""

    key: str
    value: bytes
    ttl_ms: int | None = None
    durability: Durability = Durability.SYNCED


class KvCreate(msgspec.Struct, frozen=True, kw_only=True):
    """Write only if the key is absent, deleted or expired."""

    key: str
    value: bytes
    ttl_ms: int | None = None
    durability: Durability = Durability.SYNCED


class KvUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Write only if the key's revision is still `revision`."""

    key: str
    value: bytes
    revision: int
    ttl_ms: int | None = None
    durability: Durability = Durability.SYNCED


class KvDelete(msgspec.Struct, frozen=True, kw_only=True):
    """Delete; only at `revision` where one is given. Deleting what is not there is `KvWritten`."""

    key: str
    revision: int | None = None
    durability: Durability = Durability.SYNCED


KvWrite = KvPut | KvCreate | KvUpdate | KvDelete


class KvEntry(msgspec.Struct, frozen=True, kw_only=True):
    """`revision` is opaque, rises with every write to the key and never repeats, not even after a delete."""

    key: str
    value: bytes
    revision: int


class KvWritten(msgspec.Struct, frozen=True, kw_only=True):
    revision: int


class KvConflict(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing was written; `current` is what is there, None when nothing is."""

    current: KvEntry | None


KvOutcome = KvWritten | KvConflict | Undecided


class KvPage(msgspec.Struct, frozen=True, kw_only=True):
    entries: Sequence[KvEntry]
    next_after: str | None


class KvDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """A key is gone. `expired` tells time to live from deletion, where the watch was there to see it."""

    key: str
    revision: int
    expired: bool


class KvCaughtUp(msgspec.Struct, frozen=True, kw_only=True):
    """All values that were there when the watch began have been sent; from here on everything is live."""


KvEvent = KvEntry | KvDeleted | KvCaughtUp


class KeyValue(Protocol):
    """Small values under names, with compare-and-set and time to live. Reads see the caller's own answered writes."""

    async def get(self, keys: Sequence[str]) -> Sequence[KvEntry | None]:
        """Present values; None for keys that are absent, deleted or expired."""

    async def write(self, writes: Sequence[KvWrite]) -> Sequence[KvOutcome]:
        """Do each write; writes to one key in one call happen in order. Raises: StorageFull, EngineUnavailable."""

    async def page(self, prefix: str, *, after: str | None = None, limit: int = 500) -> KvPage:
        """Live entries under `prefix`, ordered by key, after the key `after`; at most `limit` (1 to 1,024).

        Keys that other hubs make during a walk may be missing from it.
        """

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[KvEvent]]:
        """Present values, one `KvCaughtUp`, then each change, in order per key.

        Nothing that happens after `__aenter__` is missed; quick successive writes to one key may be seen as the last
        one only, and a value or a deletion may come twice (after a reconnect), a deletion also of a key that was never
        shown. Expiry is seen within 2 s of its time.
        """
