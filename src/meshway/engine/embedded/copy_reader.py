"""What a data directory holds, for the copy to another engine: it is locked, read, and left as it is."""

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from meshway.engine.embedded.data_dir import hold_data_dir
from meshway.engine.embedded.database import open_to_read, translate
from meshway.engine.embedded.engine import DATABASE_NAME
from meshway.engine.embedded.log_search import decode_headers
from meshway.engine.embedded.queries import load_queries
from meshway.engine.embedded.queue_books import decode_settings
from meshway.engine.embedded.queue_life import MessageState
from meshway.engine.embedded.queue_rows import MessageColumns, decode_history, queued_message
from meshway.engine.ports import AttemptRecord, BlobRef, DeadLetter, LogEntry
from meshway.engine.ports.copying import (
    Copied,
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
    CopyStart,
)
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable, StoreCorrupt
from meshway.kernel.retry import LEASE_RAN_OUT

__all__ = ["EmbeddedCopyReader", "open_copy_reader"]

# Of one page: what an atomic batch of the target takes, and what memory it may cost.
_PAGE_RECORDS_MAX = 800
_PAGE_BYTES_MAX = 4 * 1024 * 1024
_CHUNK_BYTES = 512 * 1024
# The port promises so many.
_ATTEMPTS_KEPT = 16
# Of the reason of one attempt: all of them travel in a header, where a character may take six bytes of 60,000.
_REASON_CHARACTERS_MAX = 400

Found = TypeVar("Found")


class _EntryRow(NamedTuple):
    subject: str
    sequence: int
    position: int
    message_id: str
    data: bytes
    headers: bytes | None
    at_ms: int


class _MessageRow(NamedTuple):
    number: int
    queue: str
    columns: MessageColumns
    state: int
    visible_at_ms: int | None
    expires_at_ms: int | None
    history: bytes | None
    attempt: int
    leased_at_ms: int | None
    settings: bytes | None


class _LetterRow(NamedTuple):
    number: int
    queue: str
    columns: MessageColumns
    reason: str
    history: bytes | None
    dead_at_ms: int


@asynccontextmanager
async def open_copy_reader(data_dir: Path, *, clock: Clock) -> AsyncIterator["EmbeddedCopyReader"]:
    """Nobody else uses the directory inside the block.

    Raises: DataDirLocked, SchemaTooNew, StoreCorrupt, EngineUnavailable.
    """
    path = data_dir / DATABASE_NAME
    if not path.is_file():
        raise EngineUnavailable(f"{data_dir} is no data directory of a hub: there is no {DATABASE_NAME} in it")
    with hold_data_dir(data_dir, clock=clock):
        connection = open_to_read(path)
        try:
            yield EmbeddedCopyReader(connection, data_dir / "blobs", clock)
        finally:
            connection.close()


class EmbeddedCopyReader:
    """See `engine.ports.copying.CopySource`. One call at a time."""

    def __init__(self, connection: sqlite3.Connection, blobs: Path, clock: Clock) -> None:
        self._connection = connection
        self._blobs = blobs
        self._clock = clock
        self._queries = load_queries("copy.sql")

    async def start(self) -> CopyStart:
        """What a copy of this directory begins with. Raises: EngineUnavailable, StoreCorrupt."""
        return await self._run(self._start)

    async def pages(self, kind: CopyKind, *, after: str = "") -> AsyncIterator[CopyPage]:
        while page := await self._run(lambda place=after: self._page(kind, place)):  # type: ignore[misc]  # mypy infers no default of a lambda
            yield page
            after = page[-1].at

    async def content(self, blob: BlobRef) -> AsyncIterator[bytes]:
        path = self._blobs / blob.sha256[:2] / blob.sha256
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except OSError as error:
            raise StoreCorrupt(f"Blob {blob.sha256} cannot be read: {error.strerror}.") from error
        with file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                yield chunk

    async def expiries(self, kind: CopyKind, names: Sequence[str]) -> Mapping[str, int | None]:
        query = self._queries.text("key_expiries" if kind is CopyKind.KEYS else "blob_expiries")
        return await self._run(lambda: dict(self._connection.execute(query, (json.dumps(list(names)),))))

    async def _run(self, read: Callable[[], Found]) -> Found:
        try:
            return await asyncio.to_thread(read)
        except sqlite3.Error as error:
            raise translate(error) from error

    def _start(self) -> CopyStart:
        def one(query: str) -> Sequence[int | str]:
            found: Sequence[int | str] = self._connection.execute(self._queries.text(query)).fetchone()
            return found

        revision_max, position_max = one("highest")
        return CopyStart(
            fingerprint=hashlib.sha256(json.dumps(one("traces"), default=bytes.hex).encode()).hexdigest(),
            revision_max=int(revision_max),
            position_max=int(position_max),
            record_bytes_max=int(one("largest")[0]),
            counts={kind: int(count) for kind, count in zip(CopyKind, one("counts"), strict=True)},
        )

    def _page(self, kind: CopyKind, after: str) -> CopyPage:
        query, decode = _SHAPES[kind]
        page: list[Copied] = []
        size = 0
        for row in self._connection.execute(self._queries.text(query), _values(kind, after, self._clock.now_ms())):
            page.append(decode(*row))
            size += sum([len(value) for value in row if isinstance(value, bytes)])
            if len(page) == _PAGE_RECORDS_MAX or size > _PAGE_BYTES_MAX:
                break
        return page


def _values(kind: CopyKind, after: str, now_ms: int) -> tuple[int | str, ...]:
    """What its query is asked with; what has expired by now is left out."""
    match kind:
        case CopyKind.KEYS | CopyKind.BLOBS:
            return after, now_ms
        case CopyKind.ENDS | CopyKind.QUEUES:
            return (after,)
        case CopyKind.ENTRIES | CopyKind.DEAD_LETTERS:
            return (int(after or 0),)
        case CopyKind.MESSAGES:
            return int(after or 0), now_ms
        case CopyKind.DEDUPE_IDS:
            queue_id, _, dedupe_id = after.partition(":")
            return int(queue_id or 0), dedupe_id, now_ms


def _key(key: str, expires_at_ms: int | None, value: bytes) -> Copied:
    return Copied(key, CopiedKey(key=key, value=value, expires_at_ms=expires_at_ms))


def _entry(row: _EntryRow) -> Copied:
    entry = LogEntry(
        subject=row.subject,
        sequence=row.sequence,
        position=row.position,
        message_id=row.message_id,
        data=row.data,
        headers=decode_headers(row.headers),
        timestamp_ms=row.at_ms,
    )
    return Copied(str(row.position), CopiedEntry(entry=entry))


def _end(subject: str, last: int, message_id: str) -> Copied:
    return Copied(subject, CopiedEnd(subject=subject, last=last, last_message_id=message_id))


def _queue(name: str, settings: bytes) -> Copied:
    return Copied(name, CopiedQueue(name=name, settings=decode_settings(settings)))


def _message(row: _MessageRow) -> Copied:
    attempts = decode_history(row.history)
    if row.attempt > (attempts[-1].attempt if attempts else 0):
        # It is held, and whoever holds it has nothing to settle it with any more.
        begun_ms = row.leased_at_ms or row.visible_at_ms or 0
        ended_ms = max(begun_ms, row.visible_at_ms or 0)
        attempts.append(
            AttemptRecord(
                attempt=row.attempt,
                leased_at_ms=begun_ms,
                ended_at_ms=ended_ms,
                outcome="expired",
                reason=LEASE_RAN_OUT,
            )
        )
    is_ordered = row.settings is not None and decode_settings(row.settings).ordered
    message = queued_message(row.queue, row.columns)
    # Others with its key must not overtake it while it waits for a pause or a lease to end.
    is_due = is_ordered and message.ordering_key is not None and row.state != MessageState.DELAYED
    record = CopiedMessage(
        message=message,
        due_at_ms=None if is_due else row.visible_at_ms,
        expires_at_ms=row.expires_at_ms,
        attempts=tuple(
            msgspec.structs.replace(attempt, reason=attempt.reason[:_REASON_CHARACTERS_MAX])
            for attempt in attempts[-_ATTEMPTS_KEPT:]
        ),
    )
    return Copied(str(row.number), record)


def _letter(row: _LetterRow) -> Copied:
    letter = DeadLetter(
        position=str(row.number),
        message=queued_message(row.queue, row.columns),
        reason=row.reason,
        attempts=decode_history(row.history),
        dead_at_ms=row.dead_at_ms,
    )
    return Copied(str(row.number), CopiedDeadLetter(letter=letter))


def _dedupe_id(queue_id: int, queue: str, dedupe_id: str, until_ms: int) -> Copied:
    record = CopiedDedupeId(queue=queue, dedupe_id=dedupe_id, expires_at_ms=until_ms)
    return Copied(f"{queue_id}:{dedupe_id}", record)


def _blob(sha256: str, size: int, expires_at_ms: int | None) -> Copied:
    return Copied(sha256, CopiedBlob(ref=BlobRef(sha256=sha256, size=size), expires_at_ms=expires_at_ms))


_SHAPES: Mapping[CopyKind, tuple[str, Callable[..., Copied]]] = {
    CopyKind.KEYS: ("keys", _key),
    CopyKind.ENTRIES: ("entries", lambda *row: _entry(_EntryRow(*row))),
    CopyKind.ENDS: ("ends", _end),
    CopyKind.QUEUES: ("queues", _queue),
    CopyKind.MESSAGES: ("messages", lambda *row: _message(_MessageRow._make((*row[:2], row[2:8], *row[8:])))),
    CopyKind.DEAD_LETTERS: ("dead_letters", lambda *row: _letter(_LetterRow._make((*row[:2], row[2:8], *row[8:])))),
    CopyKind.DEDUPE_IDS: ("dedupe_ids", _dedupe_id),
    CopyKind.BLOBS: ("blobs", _blob),
}
