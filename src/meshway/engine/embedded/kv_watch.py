"""Watches of KeyValue: present values, then changes, at most the newest per key waiting."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog

from meshway.engine.embedded.kv_store import KvChange
from meshway.engine.ports import KvCaughtUp, KvDeleted, KvEntry, KvEvent, SubscriptionLost

__all__ = ["Watch", "Watches"]

_log = structlog.get_logger()


class Watch:
    """One reader. Changes collect from the moment it is opened, so nothing is missed while it lists."""

    def __init__(self, prefix: str, pending_max: int) -> None:
        self._prefix = prefix
        self._below = f"{prefix}." if prefix else ""
        self._pending_max = pending_max
        self._pending: dict[str, KvChange] = {}
        self._changed = asyncio.Event()
        self._lost: str | None = None

    def offer(self, change: KvChange) -> None:
        if self._lost is not None or not (change.key.startswith(self._below) or change.key == self._prefix):
            return
        if len(self._pending) >= self._pending_max and change.key not in self._pending:
            self.lose("the reader of this watch is too slow; watch again")
            _log.warning("engine_watch_lost", prefix=self._prefix, pending=self._pending_max)
            return
        # Taken out first, so that the newest change of a key also comes last.
        self._pending.pop(change.key, None)
        self._pending[change.key] = change
        self._changed.set()

    def lose(self, reason: str) -> None:
        self._lost = reason
        self._pending.clear()
        self._changed.set()

    async def events(self, present: AsyncIterator[KvEntry]) -> AsyncIterator[KvEvent]:
        """See `KeyValue.watch`. Raises: SubscriptionLost."""
        revisions: dict[str, int] = {}
        async for entry in present:
            revisions[entry.key] = entry.revision
            yield entry
        yield KvCaughtUp()
        while True:
            while not self._pending:
                if self._lost is not None:
                    raise SubscriptionLost(self._lost)
                # Whatever the listing overlapped with has been compared by now.
                revisions.clear()
                self._changed.clear()
                await self._changed.wait()
            key = next(iter(self._pending))
            change = self._pending.pop(key)
            # The listing may already have shown this state, or a later one.
            if change.revision > revisions.pop(key, 0):
                yield _event(change)


class Watches:
    """All watches of one store. The loop's thread only."""

    def __init__(self, pending_max: int) -> None:
        self._pending_max = pending_max
        self._watches: set[Watch] = set()

    def __bool__(self) -> bool:
        return bool(self._watches)

    def open(self, prefix: str) -> Watch:
        watch = Watch(prefix, self._pending_max)
        self._watches.add(watch)
        return watch

    def discard(self, watch: Watch) -> None:
        self._watches.discard(watch)

    def publish(self, changes: Sequence[KvChange]) -> None:
        for watch in self._watches:
            for change in changes:
                watch.offer(change)

    def close(self) -> None:
        for watch in self._watches:
            watch.lose("the store was closed")


def _event(change: KvChange) -> KvEvent:
    if change.value is None:
        return KvDeleted(key=change.key, revision=change.revision, expired=change.expired)
    return KvEntry(key=change.key, value=change.value, revision=change.revision)
