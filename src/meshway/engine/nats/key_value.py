"""KeyValue on JetStream: one stream that keeps the last message of each key.

Not here: how keys lie in it (`kv_records.py`), and what writes, reads, walks and watches are made of.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.kv_names import KvNames
from meshway.engine.nats.kv_reads import KvReads
from meshway.engine.nats.kv_records import entry_of
from meshway.engine.nats.kv_watch import Watches
from meshway.engine.nats.kv_writes import KvWrites
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import (
    KvConflict,
    KvCreate,
    KvDelete,
    KvEntry,
    KvEvent,
    KvOutcome,
    KvPage,
    KvPut,
    KvUpdate,
    KvWrite,
    KvWritten,
)
from meshway.engine.ports.checks import check_between, check_name, check_prefix
from meshway.kernel.errors import PayloadTooLarge

__all__ = ["NatsKeyValue"]

_PAGE_MAX = 1_024
# Of a message beside its subject and its value.
_HEADER_BYTES_MAX = 256


class NatsKeyValue:
    """See `engine.ports.KeyValue`. Raises beside it: PayloadTooLarge for values that no message can carry."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings) -> None:
        self._link = jetstream.link
        self._writes = KvWrites(jetstream, layout, settings)
        self._reads = KvReads(jetstream, layout, settings)
        self._names = KvNames(jetstream, layout, settings)
        self._watches = Watches(jetstream, layout, settings)

    async def start(self) -> None:
        """Nothing goes on in the background."""

    async def close(self) -> None:
        """End all watches. Idempotent."""
        self._watches.close()

    async def get(self, keys: Sequence[str]) -> Sequence[KvEntry | None]:
        for key in keys:
            check_name(key, "key")
        found = await self._reads.read(keys)
        return [entry_of(key, found.get(key)) for key in keys]

    async def write(self, writes: Sequence[KvWrite]) -> Sequence[KvOutcome]:
        for write in writes:
            check_name(write.key, "key")
            if not isinstance(write, KvDelete):
                self._check_size(write)
        outcomes = await self._writes.write(writes)
        for write, outcome in zip(writes, outcomes, strict=True):
            self._remember(write, outcome)
        return outcomes

    async def page(self, prefix: str, *, after: str | None = None, limit: int = 500) -> KvPage:
        check_prefix(prefix)
        check_between("limit", limit, 1, _PAGE_MAX)
        entries: list[KvEntry] = []
        while True:
            # One more tells whether this page is the last.
            names = await self._names.after(prefix, after, limit - len(entries) + 1)
            is_last = len(names) <= limit - len(entries)
            names = names[: limit - len(entries)]
            found = await self._reads.read(names)
            entries += [entry for name in names if (entry := entry_of(name, found.get(name))) is not None]
            if is_last:
                return KvPage(entries=entries, next_after=None)
            after = names[-1]
            if len(entries) == limit:
                return KvPage(entries=entries, next_after=after)

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[KvEvent]]:
        check_prefix(prefix)
        return self._watches.open(prefix)

    def _check_size(self, write: KvPut | KvCreate | KvUpdate) -> None:
        room = self._link.max_payload - _HEADER_BYTES_MAX
        if len(write.value) > room:
            text = f"The value of {write.key[:80]} has {len(write.value):,} bytes; this NATS server takes {room:,}"
            raise PayloadTooLarge(f"{text} (max_payload).")

    def _remember(self, write: KvWrite, outcome: KvOutcome) -> None:
        match outcome:
            case KvWritten(revision=revision):
                self._reads.answered(write.key, revision // 2)
                if not isinstance(write, KvDelete):
                    self._names.wrote(write.key)
            case KvConflict(current=KvEntry(revision=revision)):
                self._reads.answered(write.key, revision // 2)
