"""Records of a copy as messages of the streams, and back: pure, by the encodings of the ports themselves.

Messages and dead letters keep what they are under subjects that no message of a hub has: a schedule ends with `-copy`
and its place in the source, a dead letter has `copy` and its place in place of a sequence.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from meshway.engine.nats.blob_manifests import current_of
from meshway.engine.nats.jetstream import Stored
from meshway.engine.nats.kv_records import is_marker
from meshway.engine.nats.log_entries import (
    End,
    copied_headers,
    end_of,
    entry_of,
    is_entry,
    is_ours,
    marker_headers,
)
from meshway.engine.nats.queue_append import expiry_header, schedule_headers, unique_id
from meshway.engine.nats.queue_messages import (
    HEADER,
    DeadRecord,
    decode_dead,
    decode_head,
    encode_head,
    encode_record,
    whole_seconds,
)
from meshway.engine.nats.queue_subjects import QueueSubjects, part_of, queue_of, size_of
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import BlobRef, LogEntry, QueueSettings
from meshway.engine.ports.copying import (
    CopiedBlob,
    CopiedDeadLetter,
    CopiedDedupeId,
    CopiedEnd,
    CopiedEntry,
    CopiedKey,
    CopiedMessage,
    CopyKind,
    CopyRecord,
)

__all__ = ["CopyRecords", "StreamMessage"]


class StreamMessage(NamedTuple):
    subject: str
    headers: Mapping[str, str]
    data: bytes


class _DedupeBody(msgspec.Struct, frozen=True, array_like=True):
    """Of a copied one; those of hubs have none."""

    dedupe_id: str
    expires_at_ms: int


_dedupe_body = msgspec.json.Decoder(_DedupeBody).decode


class CopyRecords:
    def __init__(self, layout: Layout, settings: NatsSettings) -> None:
        self._layout = layout
        self._queues = QueueSubjects(layout)
        self._window_ms = settings.message_id_window_ms

    # To messages

    def entry(self, entry: LogEntry, total: int, now_ms: int) -> StreamMessage:
        """`total`: bytes of its subject up to it."""
        is_recent = entry.timestamp_ms > now_ms - self._window_ms
        headers = copied_headers(entry, total, is_recent=is_recent)
        return StreamMessage(self._layout.log + entry.subject, headers, entry.data)

    def end(self, end: CopiedEnd) -> StreamMessage:
        headers = marker_headers(End(end.last, end.last_message_id, 0, 0, 0))
        return StreamMessage(self._layout.log_end + end.subject, headers, b"")

    def queued(self, at: str, record: CopiedMessage, settings: QueueSettings, now_ms: int) -> StreamMessage:
        message, subjects = record.message, self._queues
        queue, priority, part = message.queue, int(message.priority), part_of(message.ordering_key)
        size = size_of(len(message.data)) if settings.bytes_max is not None else size_of(0)
        subject = subjects.message(queue, priority, part, size)
        begin_ms = max(now_ms, record.due_at_ms or 0)
        head = encode_head(message, message.enqueued_at_ms, record.expires_at_ms, attempts=record.attempts)
        headers = {HEADER: head}
        if message.enqueued_at_ms > now_ms - self._window_ms:
            headers["Nats-Msg-Id"] = unique_id(queue, "", message.message_id)
        if begin_ms > now_ms:
            headers |= schedule_headers(begin_ms, subject)
            subject = subjects.schedule(queue, priority, part, f"{size}-copy{at}")
        if record.expires_at_ms is not None:
            headers |= expiry_header(record.expires_at_ms, begin_ms, now_ms)
        return StreamMessage(subject, headers, message.data)

    def dead_letter(self, at: str, record: CopiedDeadLetter) -> StreamMessage:
        letter, message = record.letter, record.letter.message
        dead = DeadRecord(
            head=encode_head(message, message.enqueued_at_ms, None),
            reason=letter.reason,
            attempts=tuple(letter.attempts),
            dead_at_ms=letter.dead_at_ms,
            attempt=letter.attempts[-1].attempt if letter.attempts else 1,
            data=message.data,
        )
        subject = self._queues.dead_letter(message.queue, f"copy{at}", message.message_id)
        return StreamMessage(subject, {}, encode_record(dead))

    def dedupe_id(self, record: CopiedDedupeId, now_ms: int) -> StreamMessage:
        body = msgspec.json.encode(_DedupeBody(record.dedupe_id, record.expires_at_ms))
        headers = {"Nats-TTL": whole_seconds(record.expires_at_ms - now_ms)}
        return StreamMessage(self._queues.dedupe(record.queue, record.dedupe_id), headers, body)

    # And back

    def patterns(self, kind: CopyKind) -> tuple[str, str]:
        """The stream that holds a kind, and the subjects in it."""
        layout = self._layout
        match kind:
            case CopyKind.KEYS:
                return layout.kv_stream, f"{layout.kv}>"
            case CopyKind.ENTRIES:
                return layout.log_stream, f"{layout.log}>"
            case CopyKind.ENDS:
                return layout.log_stream, f"{layout.log_end}>"
            case CopyKind.MESSAGES:
                return layout.queue_stream, f"{layout.queue}m.>"
            case CopyKind.DEAD_LETTERS:
                return layout.queue_stream, f"{layout.queue}d.>"
            case CopyKind.DEDUPE_IDS:
                return layout.queue_stream, f"{layout.queue}x.>"
            case CopyKind.BLOBS:
                return layout.blob_stream, f"{layout.blob}*.m"
            case CopyKind.QUEUES:
                raise ValueError("settings of queues are values under keys")

    def record(self, kind: CopyKind, stored: Stored) -> CopyRecord | None:
        """None for what is none, such as a marker."""
        match kind:
            case CopyKind.KEYS:
                return None if is_marker(stored) else self._key(stored)
            case CopyKind.ENTRIES:
                return CopiedEntry(entry=entry_of(stored, self._layout.log)) if is_entry(stored) else None
            case CopyKind.ENDS:
                return self._end(stored) if is_ours(stored) else None
            case CopyKind.MESSAGES:
                return self._message(stored)
            case CopyKind.DEAD_LETTERS:
                dead = decode_dead(stored)
                queue = queue_of(stored.subject)
                return None if dead is None else CopiedDeadLetter(letter=dead.letter(queue, str(stored.seq)))
            case CopyKind.DEDUPE_IDS:
                return self._dedupe_id(stored)
            case CopyKind.BLOBS:
                return self._blob(stored)
            case CopyKind.QUEUES:
                return None

    def _key(self, stored: Stored) -> CopiedKey:
        ttl = stored.headers.get("Nats-TTL")
        expires_at_ms = None if ttl is None else stored.time_ms + int(ttl.removesuffix("s")) * 1_000
        return CopiedKey(key=stored.subject[len(self._layout.kv) :], value=stored.data, expires_at_ms=expires_at_ms)

    def _end(self, stored: Stored) -> CopiedEnd:
        end = end_of(stored)
        subject = stored.subject[len(self._layout.log_end) :]
        return CopiedEnd(subject=subject, last=end.last, last_message_id=end.message_id or "")

    def _message(self, stored: Stored) -> CopiedMessage | None:
        head = decode_head(stored.headers)
        if head is None:
            return None
        return CopiedMessage(
            message=head.message(queue_of(stored.subject), stored.data),
            due_at_ms=None,
            expires_at_ms=head.expires_at_ms,
            attempts=head.attempts,
        )

    def _dedupe_id(self, stored: Stored) -> CopiedDedupeId | None:
        if not stored.data:
            return None
        body = _dedupe_body(stored.data)
        return CopiedDedupeId(
            queue=queue_of(stored.subject), dedupe_id=body.dedupe_id, expires_at_ms=body.expires_at_ms
        )

    def _blob(self, stored: Stored) -> CopiedBlob | None:
        manifest = current_of(stored).manifest
        if manifest is None:
            return None
        sha256 = stored.subject[len(self._layout.blob) :].partition(".")[0]
        return CopiedBlob(ref=BlobRef(sha256=sha256, size=manifest.size), expires_at_ms=manifest.until_ms)
