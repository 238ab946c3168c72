"""What a mesh holds, as records of a copy: to be compared with what was copied, while no hub runs on it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from meshway.engine.nats.blobs import NatsBlobs
from meshway.engine.nats.copy_mark import read_mark
from meshway.engine.nats.copy_records import CopyRecords
from meshway.engine.nats.copy_streams import opened_streams
from meshway.engine.nats.failures import ApiError, Unanswered
from meshway.engine.nats.jetstream import JetStream, Stored
from meshway.engine.nats.key_value import NatsKeyValue
from meshway.engine.nats.queue_books import BOOKS_PREFIX, decode_book
from meshway.engine.nats.retries import Retries, read_patiently
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import BlobRef
from meshway.engine.ports.copying import Copied, CopiedMessage, CopiedQueue, CopyKind, CopyPage
from meshway.kernel.clock import Clock
from meshway.kernel.errors import BlobNotFound, Conflict

__all__ = ["NatsCopyReader", "open_copy_reader"]

_PAGE = 500
# Replicas may be behind what the leader answered.
_LAGGING_PAUSE_S = 0.05


@asynccontextmanager
async def open_copy_reader(settings: NatsSettings, *, clock: Clock) -> AsyncIterator["NatsCopyReader"]:
    """Raises: Conflict where nothing was copied to, EngineUnavailable."""
    async with opened_streams(settings, clock) as (jetstream, layout):
        if await read_mark(NatsKeyValue(jetstream, layout.for_own_keys(), settings)) is None:
            raise Conflict("No data directory was copied into this mesh; is the `prefix` under [nats] the right one?")
        yield NatsCopyReader(jetstream, layout, settings)


class NatsCopyReader:
    """See `engine.ports.copying.CopyReader`."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings) -> None:
        self._jetstream = jetstream
        self._layout = layout
        self._timeout_ms = settings.start_timeout_ms
        self._records = CopyRecords(layout, settings)
        self._own_keys = NatsKeyValue(jetstream, layout.for_own_keys(), settings)
        self._blobs = NatsBlobs(jetstream, layout, settings)

    async def pages(self, kind: CopyKind) -> AsyncIterator[CopyPage]:
        if kind is CopyKind.QUEUES:
            pages = self._queues()
        elif kind is CopyKind.MESSAGES:
            pages = self._messages()
        else:
            pages = self._of_kind(kind)
        async for page in pages:
            yield page

    async def content(self, blob: BlobRef) -> AsyncIterator[bytes]:
        async with self._blobs.get(blob.sha256) as chunks:
            if chunks is None:
                raise BlobNotFound(f"Blob {blob.sha256} is not there.")
            async for chunk in chunks:
                yield chunk

    async def _of_kind(self, kind: CopyKind) -> AsyncIterator[CopyPage]:
        stream, pattern = self._records.patterns(kind)
        async for stored in self._scan(stream, pattern):
            yield self._page(kind, stored)

    def _page(self, kind: CopyKind, messages: Sequence[Stored]) -> CopyPage:
        records = ((str(stored.seq), self._records.record(kind, stored)) for stored in messages)
        return [Copied(at, record) for at, record in records if record is not None]

    async def _queues(self) -> AsyncIterator[CopyPage]:
        after: str | None = None
        while True:
            page = await self._own_keys.page(BOOKS_PREFIX, after=after)
            books = [decode_book(entry) for entry in page.entries]
            yield [
                Copied(book.name, CopiedQueue(name=book.name, settings=book.settings))
                for book in books
                if book.settings is not None
            ]
            after = page.next_after
            if after is None:
                return

    async def _messages(self) -> AsyncIterator[CopyPage]:
        """Schedules come due meanwhile: what is read as one and then as a message is one record."""
        stream, waiting = self._records.patterns(CopyKind.MESSAGES)
        delayed = f"{self._layout.queue}s.>"
        seq = 0
        async for messages in self._scan(stream, waiting):
            seq = messages[-1].seq
            yield self._page(CopyKind.MESSAGES, messages)
        seen: Counter[tuple[str, str, int]] = Counter()
        async for messages in self._scan(stream, delayed):
            page = self._page(CopyKind.MESSAGES, messages)
            seen.update(_identity(copied) for copied in page)
            yield page
        async for messages in self._scan(stream, waiting, after=seq):
            fresh: list[Copied] = []
            for copied in self._page(CopyKind.MESSAGES, messages):
                if seen[_identity(copied)]:
                    seen[_identity(copied)] -= 1
                else:
                    fresh.append(copied)
            yield fresh

    async def _scan(self, stream: str, pattern: str, *, after: int = 0) -> AsyncIterator[Sequence[Stored]]:
        """All messages under a pattern, up to the last one that the leader has at the beginning, or later ones."""
        last = await self._leader(stream, {"last_by_subj": pattern})
        while True:
            body = {"next_by_subj": pattern, "seq": after + 1, "batch": _PAGE}
            page = await read_patiently(self._jetstream, stream, body, within_ms=self._timeout_ms)
            if page.messages:
                after = page.messages[-1].seq
                yield page.messages
            if page.more:
                continue
            if last is None or after >= last.seq:
                return
            # Gone since, or not yet where we read.
            if await self._leader(stream, {"next_by_subj": pattern, "seq": after + 1}) is None:
                return
            await asyncio.sleep(_LAGGING_PAUSE_S)

    async def _leader(self, stream: str, wanted: dict[str, object]) -> Stored | None:
        retries = Retries(self._timeout_ms)
        while True:
            (found,) = await self._jetstream.get_each(stream, [wanted])
            if not isinstance(found, ApiError | Unanswered):
                return found
            await retries.pause_or_raise(found)


def _identity(copied: Copied) -> tuple[str, str, int]:
    assert isinstance(copied.record, CopiedMessage)
    message = copied.record.message
    return message.queue, message.message_id, message.enqueued_at_ms
