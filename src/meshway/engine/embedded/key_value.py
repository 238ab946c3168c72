"""KeyValue on the embedded store: writes through the writer, reads from memory where hot, else from a reader."""

import json
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from meshway.engine.embedded.kv_store import KvCall, KvChange, KvStore, KvSweep
from meshway.engine.embedded.kv_watch import Watches
from meshway.engine.embedded.queries import load_queries
from meshway.engine.embedded.readers import Readers
from meshway.engine.embedded.writer import Writer
from meshway.engine.ports import Durability, KvEntry, KvEvent, KvOutcome, KvPage, KvWrite
from meshway.engine.ports.checks import check_between, check_name, check_prefix
from meshway.kernel.clock import Clock

__all__ = ["EmbeddedKeyValue"]

_PAGE_MAX = 1_024
# What an entry costs in memory besides its key and value.
_ENTRY_OVERHEAD_BYTES = 400


class EmbeddedKeyValue:
    """See `engine.ports.KeyValue`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        writer: Writer,
        readers: Readers,
        clock: Clock,
        cache_bytes: int,
        watch_pending_max: int,
    ) -> None:
        self._writer = writer
        self._readers = readers
        self._clock = clock
        self._queries = load_queries("kv.sql")
        self._cache = _Cache(cache_bytes)
        self._watches = Watches(watch_pending_max)
        self._store = KvStore(connection, self._publish)

    async def get(self, keys: Sequence[str]) -> Sequence[KvEntry | None]:
        now_ms = self._clock.now_ms()
        cached = {key: self._cache.get(key) for key in keys}
        missing = [key for key, change in cached.items() if change is None]
        if missing:
            for key in missing:
                check_name(key, "key")
            published = self._cache.published
            for change in await self._readers.run(lambda connection: self._read(connection, missing)):
                cached[change.key] = change
                self._cache.fill(change, published)
        return [_live_entry(cached[key], now_ms) for key in keys]

    async def write(self, writes: Sequence[KvWrite]) -> Sequence[KvOutcome]:
        if not writes:
            return []
        weight = 0
        lazy = True
        for write in writes:
            check_name(write.key, "key")
            weight += 512 if not hasattr(write, "value") else 512 + len(write.value)
            lazy = lazy and write.durability is Durability.LAZY
        call = KvCall(self._store, self._writer.new_finished(), lazy=lazy, weight=weight)
        call.writes = writes
        self._writer.submit(call)
        await call.finished
        return call.outcomes

    async def page(self, prefix: str, *, after: str | None = None, limit: int = 500) -> KvPage:
        check_prefix(prefix)
        check_between("limit", limit, 1, _PAGE_MAX)
        now_ms = self._clock.now_ms()
        entries = await self._readers.run(lambda connection: self._read_page(connection, prefix, after, limit, now_ms))
        return KvPage(entries=entries, next_after=entries[-1].key if len(entries) == limit else None)

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[KvEvent]]:
        check_prefix(prefix)
        return self._watch(prefix)

    async def sweep(self) -> None:
        """Remove expired keys and tell the watches. Writes only when there are some: an idle disk may sleep."""
        now_ms = self._clock.now_ms()
        query = self._queries.text("expired")
        more = await self._readers.run(lambda connection: connection.execute(query, (now_ms, 1)).fetchone() is not None)
        while more:
            call = KvSweep(self._store, self._writer.new_finished(), lazy=True)
            self._writer.submit(call)
            await call.finished
            more = call.more

    def close(self) -> None:
        """End all watches."""
        self._watches.close()

    @asynccontextmanager
    async def _watch(self, prefix: str) -> AsyncIterator[AsyncIterator[KvEvent]]:
        watch = self._watches.open(prefix)
        try:
            yield watch.events(self._present(prefix))
        finally:
            self._watches.discard(watch)

    async def _present(self, prefix: str) -> AsyncIterator[KvEntry]:
        after: str | None = None
        while True:
            page = await self.page(prefix, after=after, limit=_PAGE_MAX)
            for entry in page.entries:
                yield entry
            if page.next_after is None:
                return
            after = page.next_after

    def _publish(self, changes: Sequence[KvChange]) -> None:
        cache = self._cache
        cache.published += 1
        for change in changes:
            cache.put(change)
        if self._watches:
            self._watches.publish(changes)

    def _read(self, connection: sqlite3.Connection, keys: Sequence[str]) -> Sequence[KvChange]:
        rows = connection.execute(self._queries.text("get"), (json.dumps(keys),))
        return [KvChange(key, revision, value, expires_at_ms=expires) for key, revision, expires, value in rows]

    def _read_page(
        self, connection: sqlite3.Connection, prefix: str, after: str | None, limit: int, now_ms: int
    ) -> Sequence[KvEntry]:
        entries: list[KvEntry] = []
        # "/" is the character after ".", so these are exactly the keys that continue the prefix by a token.
        begin, end = (f"{prefix}.", f"{prefix}/") if prefix else ("", "\x7f")
        if prefix and (after is None or after < prefix):
            for row in connection.execute(self._queries.text("get_one"), (prefix,)):
                change = KvChange(row[0], row[1], row[3], expires_at_ms=row[2])
                if change.is_live(now_ms):
                    entries.append(KvEntry(key=change.key, revision=change.revision, value=row[3]))
        low = begin if after is None else max(begin, after)
        rows = connection.execute(self._queries.text("page"), (low, end, now_ms, limit - len(entries)))
        entries.extend(KvEntry(key=key, revision=revision, value=value) for key, revision, value in rows)
        return entries


class _Cache:
    """The most recently used states of keys, gone ones too, up to a number of bytes. The loop's thread only."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._changes: OrderedDict[str, KvChange] = OrderedDict()
        # Counts groups, so that a read can tell whether something was written while it ran.
        self.published = 0

    def get(self, key: str) -> KvChange | None:
        change = self._changes.get(key)
        if change is not None:
            self._changes.move_to_end(key)
        return change

    def put(self, change: KvChange) -> None:
        before = self._changes.pop(change.key, None)
        if before is not None:
            self._bytes -= _size(before)
        self._changes[change.key] = change
        self._bytes += _size(change)
        while self._bytes > self._bytes_max:
            _key, oldest = self._changes.popitem(last=False)
            self._bytes -= _size(oldest)

    def fill(self, change: KvChange, published: int) -> None:
        """Keep what a read found, unless a write was published meanwhile and it may be old."""
        if published == self.published:
            self.put(change)


def _size(change: KvChange) -> int:
    return _ENTRY_OVERHEAD_BYTES + len(change.key) + (len(change.value) if change.value is not None else 0)


def _live_entry(change: KvChange | None, now_ms: int) -> KvEntry | None:
    if change is None or change.value is None or not change.is_live(now_ms):
        return None
    return KvEntry(key=change.key, value=change.value, revision=change.revision)
