"""KeyValue in memory, with the promises of the port and nothing else: for tests of whatever stands on it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from meshway.engine.ports import (
    KvCaughtUp,
    KvConflict,
    KvCreate,
    KvDelete,
    KvDeleted,
    KvEntry,
    KvEvent,
    KvOutcome,
    KvPage,
    KvPut,
    KvUpdate,
    KvWrite,
    KvWritten,
    Undecided,
)
from meshway.kernel.clock import Clock, SystemClock
from meshway.kernel.errors import MeshwayError

__all__ = ["FakeKeyValue"]


class FakeKeyValue:
    """`writes` keeps every write in order. Faults: `fail_with`, `undecided` and `lose_watches`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.writes: list[KvWrite] = []
        # Raised by every call while it is set.
        self.fail_with: MeshwayError | None = None
        # So many of the next writes are done, but answered as Undecided.
        self.undecided = 0
        self._clock = clock or SystemClock()
        self._entries: dict[str, KvEntry] = {}
        self._expires: dict[str, int] = {}
        self._revision = 0
        self._watchers: dict[asyncio.Queue[KvEvent | None], str] = {}

    async def get(self, keys: Sequence[str]) -> Sequence[KvEntry | None]:
        await self._turn()
        return [self._entries.get(key) for key in keys]

    async def write(self, writes: Sequence[KvWrite]) -> Sequence[KvOutcome]:
        await self._turn()
        return [self._write(write) for write in writes]

    async def page(self, prefix: str, *, after: str | None = None, limit: int = 500) -> KvPage:
        await self._turn()
        keys = sorted(key for key in self._entries if _is_under(key, prefix) and (after is None or key > after))
        found = [self._entries[key] for key in keys[:limit]]
        return KvPage(entries=found, next_after=found[-1].key if len(keys) > limit else None)

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncGenerator[AsyncIterator[KvEvent], None]:
        await self._turn()
        events: asyncio.Queue[KvEvent | None] = asyncio.Queue()
        for key in sorted(self._entries):
            if _is_under(key, prefix):
                events.put_nowait(self._entries[key])
        events.put_nowait(KvCaughtUp())
        self._watchers[events] = prefix
        try:
            yield _until_none(events)
        finally:
            self._watchers.pop(events, None)

    def lose_watches(self) -> None:
        """End every watch, as an engine does that lost its connection."""
        for events in list(self._watchers):
            del self._watchers[events]
            events.put_nowait(None)

    def expire(self) -> None:
        """Drop what is past its time to live; every call does so first."""
        now_ms = self._clock.now_ms()
        for key in [key for key, at_ms in self._expires.items() if at_ms <= now_ms]:
            self._drop(key, expired=True)

    async def _turn(self) -> None:
        """Give way once, as every real engine does, so that tests meet the interleavings."""
        await asyncio.sleep(0)
        if self.fail_with is not None:
            raise self.fail_with
        self.expire()

    def _write(self, write: KvWrite) -> KvOutcome:
        self.writes.append(write)
        outcome = self._written(write)
        if self.undecided:
            self.undecided -= 1
            return Undecided(reason="asked for by the test")
        return outcome

    def _written(self, write: KvWrite) -> KvOutcome:
        current = self._entries.get(write.key)
        match write:
            case KvCreate() if current is not None:
                return KvConflict(current=current)
            case KvUpdate(revision=revision) if current is None or current.revision != revision:
                return KvConflict(current=current)
            case KvDelete(revision=revision) if current is not None and revision not in (None, current.revision):
                return KvConflict(current=current)
            case KvDelete():
                self._drop(write.key, expired=False)
            case KvPut() | KvCreate() | KvUpdate():
                self._keep(write.key, write.value, write.ttl_ms)
        return KvWritten(revision=self._revision)

    def _keep(self, key: str, value: bytes, ttl_ms: int | None) -> None:
        self._revision += 1
        entry = KvEntry(key=key, value=value, revision=self._revision)
        self._entries[key] = entry
        self._expires.pop(key, None)
        if ttl_ms is not None:
            # Rounded up to whole seconds, as the port says.
            self._expires[key] = self._clock.now_ms() + -(-ttl_ms // 1000) * 1000
        self._tell(key, entry)

    def _drop(self, key: str, *, expired: bool) -> None:
        self._expires.pop(key, None)
        if self._entries.pop(key, None) is not None:
            self._revision += 1
            self._tell(key, KvDeleted(key=key, revision=self._revision, expired=expired))

    def _tell(self, key: str, event: KvEvent) -> None:
        for events, prefix in self._watchers.items():
            if _is_under(key, prefix):
                events.put_nowait(event)


def _is_under(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(prefix + ".")


async def _until_none(events: asyncio.Queue[KvEvent | None]) -> AsyncGenerator[KvEvent, None]:
    while (event := await events.get()) is not None:
        yield event
