"""Filling an empty mesh from another engine, each record once, wherever the copy is interrupted.

    keys, queue settings, blobs      writing one twice is harmless; the mark says after which to go on
    the log, and all else of queues  in atomic batches; the last message of each says up to which record it goes, on the
                                     condition that the one before is still the last, so no batch is stored twice

Sequences of the streams of keys and of the log begin above all revisions and positions that the source gave out, so
that whoever remembers one finds it outdated, never equal to another one.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from meshway.engine.nats.blobs import NatsBlobs
from meshway.engine.nats.copy_mark import CopyMark, read_mark, write_mark
from meshway.engine.nats.copy_records import CopyRecords, StreamMessage
from meshway.engine.nats.copy_streams import opened_streams
from meshway.engine.nats.failures import FULL_CODES, ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import Ack, JetStream, Stored
from meshway.engine.nats.key_value import NatsKeyValue
from meshway.engine.nats.log_entries import EXPECTED_LAST, as_batch, size_of, total_of
from meshway.engine.nats.queue_books import book_put
from meshway.engine.nats.retries import Retries
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import BlobRef, KvPut, LogEntry, QueueSettings, Undecided
from meshway.engine.ports.copying import (
    CopiedBlob,
    CopiedDeadLetter,
    CopiedDedupeId,
    CopiedEnd,
    CopiedEntry,
    CopiedKey,
    CopiedMessage,
    CopiedQueue,
    CopyKind,
    CopyPage,
    CopyPlace,
    CopyReader,
    CopyStart,
)
from meshway.kernel.clock import Clock
from meshway.kernel.errors import Conflict, EngineUnavailable, MeshwayError, PayloadTooLarge, StoreCorrupt

__all__ = ["NatsCopyWriter", "open_copy_writer"]

# The rest is subjects, and names and numbers in headers.
_RECORD_OVERHEAD_BYTES = 4_096
# JetStream keeps the length of headers in two bytes.
_HEADER_BYTES_MAX = 60_000
_BLOBS_AT_ONCE = 4
_DUPLICATE_IN_BATCH = 10201
_MESSAGE_ID = "Nats-Msg-Id"

Found = TypeVar("Found")


@asynccontextmanager
async def open_copy_writer(settings: NatsSettings, *, clock: Clock) -> AsyncIterator["NatsCopyWriter"]:
    """Raises: EngineUnavailable with what to do."""
    async with opened_streams(settings, clock) as (jetstream, layout):
        yield NatsCopyWriter(jetstream, layout, settings, clock)


class NatsCopyWriter:
    """See `engine.ports.copying.CopyWriter`."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings, clock: Clock) -> None:
        self._jetstream = jetstream
        self._layout = layout
        self._settings = settings
        self._clock = clock
        self._records = CopyRecords(layout, settings)
        self._keys = NatsKeyValue(jetstream, layout, settings)
        self._own_keys = NatsKeyValue(jetstream, layout.for_own_keys(), settings)
        self._blobs = NatsBlobs(jetstream, layout, settings)
        self._mark = CopyMark(fingerprint="")
        self._queues: dict[str, QueueSettings] = {}
        # Bytes of the entries of a subject so far; of subjects that were written last.
        self._totals: OrderedDict[str, int] = OrderedDict()
        # Sequences of the last messages that say how far a kind is.
        self._ends: dict[CopyKind, int] = {}
        self._done: dict[CopyKind, int] = {}

    async def begin(self, start: CopyStart) -> bool:
        room = self._jetstream.link.max_payload - _RECORD_OVERHEAD_BYTES
        if start.record_bytes_max > room:
            text = f"The largest record has {start.record_bytes_max:,} bytes; these NATS servers take {room:,}"
            raise PayloadTooLarge(f"{text}: set max_payload higher on all of them, and run this again.")
        mark = await self._patiently(lambda: read_mark(self._own_keys))
        if mark is None:
            await self._check_empty()
            await self._begin_above(self._layout.kv_stream, start.revision_max // 2)
            await self._begin_above(self._layout.log_stream, start.position_max)
            mark = CopyMark(fingerprint=start.fingerprint)
            await self._keep(mark)
        elif mark.fingerprint != start.fingerprint:
            text = "This mesh holds the copy of another data directory, or of this one before a hub ran on it again"
            raise Conflict(f"{text}; {self._advice()}.")
        self._mark = mark
        return not mark.is_done

    async def place(self, kind: CopyKind) -> CopyPlace:
        place = self._mark.places.get(kind, CopyPlace())
        if kind in _BATCHED:
            last = await self._last_of(*self._end_of(kind))
            self._ends[kind] = 0 if last is None else last.seq
            place = CopyPlace() if last is None else msgspec.json.decode(last.data, type=CopyPlace)
        self._done[kind] = place.done
        return place

    async def write(self, kind: CopyKind, page: CopyPage, source: CopyReader) -> None:
        now_ms = self._clock.now_ms()
        self._done[kind] += len(page)
        place = CopyPlace(page[-1].at, self._done[kind])
        if kind in _BATCHED:
            await self._store(kind, await self._messages(page, now_ms), place)
            return
        match kind:
            case CopyKind.KEYS:
                records = [record for _, record in page if isinstance(record, CopiedKey)]
                await self._put(self._keys, [_put(record, now_ms) for record in records])
            case CopyKind.QUEUES:
                queues = [record for _, record in page if isinstance(record, CopiedQueue)]
                self._queues |= {queue.name: queue.settings for queue in queues}
                await self._put(self._own_keys, [book_put(queue.name, queue.settings) for queue in queues])
                # Read again by each run: what follows depends on them.
                return
            case _:
                await self._put_blobs([record for _, record in page if isinstance(record, CopiedBlob)], source)
        await self._keep(replace(self._mark, places={**self._mark.places, kind: place}))

    async def finish(self) -> None:
        await self._keep(replace(self._mark, is_done=True))

    # Beginning

    async def _check_empty(self) -> None:
        """Raises: Conflict."""
        for name in self._layout.streams:
            said = await self._patiently(partial(self._asked, f"STREAM.INFO.{name}", None))
            if said:
                raise Conflict(f"The stream {name} holds data of a mesh already; {self._advice()}.")

    async def _begin_above(self, stream: str, number: int) -> None:
        if number:
            await self._patiently(lambda: self._asked(f"STREAM.PURGE.{stream}", {"seq": number + 1}))

    async def _asked(self, verb: str, body: object) -> int:
        """How many messages the stream has, where it is told. Raises: EngineUnavailable."""
        try:
            return (await self._jetstream.api(verb, body)).state.messages
        except (ApiError, Unanswered) as failure:
            raise error_of(failure) from failure

    def _advice(self) -> str:
        names = ", ".join(self._layout.streams)
        return (
            "copy into an empty one: choose another `prefix` in the settings under [nats], or delete its streams "
            f"({names}), for example with `nats stream rm`"
        )

    # What may be written twice

    async def _keep(self, mark: CopyMark) -> None:
        retries = self._retries()
        while not await self._patiently(lambda: write_mark(self._own_keys, mark)):
            if not await retries.pause():
                raise EngineUnavailable("NATS does not say whether the mark of the copy was kept; run this again")
        self._mark = mark

    async def _put(self, keys: NatsKeyValue, puts: Sequence[KvPut]) -> None:
        retries = self._retries()
        left = puts
        while left:
            outcomes = await self._patiently(partial(keys.write, left))
            left = [put for put, outcome in zip(left, outcomes, strict=True) if isinstance(outcome, Undecided)]
            if left and not await retries.pause():
                raise EngineUnavailable("NATS does not say whether keys were stored; run this again")

    async def _put_blobs(self, blobs: Sequence[CopiedBlob], source: CopyReader) -> None:
        for begin in range(0, len(blobs), _BLOBS_AT_ONCE):
            failure: BaseException | None = None
            try:
                async with asyncio.TaskGroup() as group:
                    for blob in blobs[begin : begin + _BLOBS_AT_ONCE]:
                        group.create_task(self._put_blob(blob, source))
            except* MeshwayError as failures:
                failure = failures.exceptions[0]
            if failure is not None:
                raise failure

    async def _put_blob(self, blob: CopiedBlob, source: CopyReader) -> None:
        left_ms = None if blob.expires_at_ms is None else max(1, blob.expires_at_ms - self._clock.now_ms())
        await self._patiently(lambda: self._blobs.put(_whole(source.content(blob.ref), blob.ref), ttl_ms=left_ms))

    # What must be written once

    async def _messages(self, page: CopyPage, now_ms: int) -> list[StreamMessage]:
        await self._know_totals([record.entry for _, record in page if isinstance(record, CopiedEntry)])
        messages: list[StreamMessage] = []
        for at, record in page:
            match record:
                case CopiedEntry(entry=entry):
                    total = self._totals[entry.subject] = self._totals[entry.subject] + size_of(entry)
                    messages.append(self._records.entry(entry, total, now_ms))
                case CopiedEnd():
                    messages.append(self._records.end(record))
                case CopiedMessage():
                    settings = self._queues.get(record.message.queue, QueueSettings())
                    messages.append(self._records.queued(at, record, settings, now_ms))
                case CopiedDeadLetter():
                    messages.append(self._records.dead_letter(at, record))
                case CopiedDedupeId():
                    messages.append(self._records.dedupe_id(record, now_ms))
                case _:
                    raise ValueError(f"{record} is stored in another way")
        return messages

    async def _know_totals(self, entries: Sequence[LogEntry]) -> None:
        unknown: dict[str, None] = {}
        for entry in entries:
            if entry.subject in self._totals:
                self._totals.move_to_end(entry.subject)
            elif entry.sequence == 1:
                self._totals[entry.subject] = 0
            else:
                unknown[entry.subject] = None
        names = list(unknown)
        for name, last in zip(names, await self._last_of_each(names), strict=True):
            self._totals[name] = 0 if last is None else total_of(last)
        while len(self._totals) > max(self._settings.subjects_cached_max, len(entries)):
            self._totals.popitem(last=False)

    async def _last_of_each(self, subjects: Sequence[str]) -> Sequence[Stored | None]:
        """Of the log."""
        retries = self._retries()
        while True:
            names = [self._layout.log + subject for subject in subjects]
            found = await self._jetstream.last_of_each(self._layout.log_stream, names)
            failure = next((each for each in found if isinstance(each, ApiError | Unanswered)), None)
            if failure is None:
                return [each for each in found if not isinstance(each, ApiError | Unanswered)]
            await retries.pause_or_raise(failure)

    async def _store(self, kind: CopyKind, messages: Sequence[StreamMessage], place: CopyPlace) -> None:
        """All of them and that they are, or nothing. Raises: StorageFull, PayloadTooLarge, EngineUnavailable."""
        self._check_sizes(messages)
        stream, subject = self._end_of(kind)
        retries = self._retries()
        while True:
            end = StreamMessage(subject, {EXPECTED_LAST: str(self._ends[kind])}, msgspec.json.encode(place))
            answer = await self._send([*messages, end])
            if isinstance(answer, Ack):
                self._ends[kind] = answer.seq
                return
            last = await self._last_of(stream, subject)
            self._ends[kind] = 0 if last is None else last.seq
            if last is not None and last.data == end.data:
                return
            if isinstance(answer, ApiError) and answer.code in FULL_CODES:
                raise error_of(answer)
            if isinstance(answer, ApiError) and answer.code == _DUPLICATE_IN_BATCH:
                # Two messages have had one id within the window, as after a redrive; nobody repeats those appends.
                messages = [message._replace(headers=_without_id(message)) for message in messages]
            if not await retries.pause():
                raise error_of(answer)

    async def _send(self, messages: Sequence[StreamMessage]) -> Ack | ApiError | Unanswered:
        *members, commit = as_batch(messages)
        try:
            for member in members:
                await self._jetstream.link.publish(member.subject, member.data, headers=member.headers)
        except EngineUnavailable as error:
            return Unanswered(error.detail, nothing_happened=True)
        (answer,) = await self._jetstream.publish([commit])
        return answer

    def _check_sizes(self, messages: Sequence[StreamMessage]) -> None:
        room = self._jetstream.link.max_payload
        for message in messages:
            headers = sum(len(name) + len(value) for name, value in message.headers.items())
            if headers > _HEADER_BYTES_MAX:
                text = f"{message.subject} has {headers:,} bytes of headers; NATS takes {_HEADER_BYTES_MAX:,}"
                raise PayloadTooLarge(f"{text}. Have a hub on the source remove it, and copy into an empty mesh.")
            if headers + len(message.data) + _RECORD_OVERHEAD_BYTES // 4 > room:
                text = f"{message.subject} has {len(message.data):,} bytes, more than these NATS servers take"
                raise PayloadTooLarge(f"{text}: set max_payload higher on all of them, and run this again.")

    def _end_of(self, kind: CopyKind) -> tuple[str, str]:
        """Stream and subject of what says how far a kind is: no subject of the log and no queue has such a name."""
        layout, name = self._layout, kind.name.lower()
        if kind in (CopyKind.ENTRIES, CopyKind.ENDS):
            return layout.log_stream, f"{layout.log_end}~copy.{name}"
        return layout.queue_stream, f"{layout.queue}~copy.{name}"

    # Below

    async def _last_of(self, stream: str, subject: str) -> Stored | None:
        retries = self._retries()
        while True:
            try:
                return await self._jetstream.last_of(stream, subject)
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)

    async def _patiently(self, work: Callable[[], Awaitable[Found]]) -> Found:
        """Again while NATS is away, for as long as a start waits for it. Raises: EngineUnavailable."""
        retries = self._retries()
        while True:
            try:
                return await work()
            except EngineUnavailable:
                if not await retries.pause():
                    raise

    def _retries(self) -> Retries:
        return Retries(self._settings.start_timeout_ms)


_BATCHED = frozenset({CopyKind.ENTRIES, CopyKind.ENDS, CopyKind.MESSAGES, CopyKind.DEAD_LETTERS, CopyKind.DEDUPE_IDS})


def _put(record: CopiedKey, now_ms: int) -> KvPut:
    left_ms = None if record.expires_at_ms is None else max(1, record.expires_at_ms - now_ms)
    return KvPut(key=record.key, value=record.value, ttl_ms=left_ms)


def _without_id(message: StreamMessage) -> dict[str, str]:
    return {name: value for name, value in message.headers.items() if name != _MESSAGE_ID}


async def _whole(chunks: AsyncIterator[bytes], blob: BlobRef) -> AsyncIterator[bytes]:
    """Raises: StoreCorrupt at the end, where it is not what its name says."""
    digest = hashlib.sha256()
    async for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != blob.sha256:
        raise StoreCorrupt(
            f"Blob {blob.sha256} of the source is damaged; restore its file from a backup, or remove it."
        )
