"""What is copied into NATS is read back as it was, whatever names, headers and histories it has."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from meshway.engine.nats.copy_records import CopyRecords, StreamMessage
from meshway.engine.nats.jetstream import Stored
from meshway.engine.nats.queue_messages import decode_head
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import AttemptRecord, DeadLetter, LogEntry, Priority, QueuedMessage, QueueSettings
from meshway.engine.ports.copying import (
    CopiedDeadLetter,
    CopiedDedupeId,
    CopiedEnd,
    CopiedEntry,
    CopiedMessage,
    CopyKind,
)

_NOW_MS = 1_800_000_000_000
_SETTINGS = NatsSettings()
_RECORDS = CopyRecords(Layout(_SETTINGS), _SETTINGS)
# Lone surrogates are in no database.
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_NAMES = st.from_regex(r"[A-Za-z0-9_=/-]{1,8}(\.[A-Za-z0-9_=/-]{1,8}){0,2}", fullmatch=True)
_HEADERS: st.SearchStrategy[Mapping[str, str]] = st.dictionaries(_TEXTS, _TEXTS, max_size=3)
_TIMES = st.integers(0, 2 * _NOW_MS)
_ATTEMPTS = st.builds(
    lambda count, reason: tuple(
        AttemptRecord(attempt=number, leased_at_ms=1, ended_at_ms=2, outcome="retry", reason=reason)
        for number in range(1, count + 1)
    ),
    st.integers(0, 16),
    _TEXTS,
)
_MESSAGES = st.builds(
    QueuedMessage,
    queue=_NAMES,
    message_id=_TEXTS,
    data=st.binary(max_size=50),
    headers=_HEADERS,
    priority=st.sampled_from(Priority),
    enqueued_at_ms=_TIMES,
    ordering_key=st.none() | _TEXTS,
)


def _stored(message: StreamMessage, *, seq: int = 7) -> Stored:
    """As the server gives it back: without white space around values, on one line."""
    headers = {name: value.strip() for name, value in message.headers.items()}
    assert all(value.isascii() and "\n" not in value and "\r" not in value for value in headers.values())
    return Stored(message.subject, seq, _NOW_MS, headers, message.data)


@given(
    entry=st.builds(
        LogEntry,
        subject=_NAMES,
        sequence=st.integers(1, 1 << 40),
        position=st.integers(1, 1 << 50),
        message_id=_TEXTS,
        data=st.binary(max_size=50),
        headers=_HEADERS,
        timestamp_ms=_TIMES,
    ),
    total=st.integers(0, 1 << 40),
)
def test_an_entry_keeps_its_number_its_position_and_its_time(entry: LogEntry, total: int) -> None:
    message = _RECORDS.entry(entry, total, _NOW_MS)
    assert _RECORDS.record(CopyKind.ENTRIES, _stored(message)) == CopiedEntry(entry=entry)


@given(subject=_NAMES, last=st.integers(1, 1 << 40), message_id=_TEXTS)
def test_the_end_of_a_trimmed_log_is_kept(subject: str, last: int, message_id: str) -> None:
    end = CopiedEnd(subject=subject, last=last, last_message_id=message_id)
    assert _RECORDS.record(CopyKind.ENDS, _stored(_RECORDS.end(end))) == end


@given(
    message=_MESSAGES,
    due_at_ms=st.none() | _TIMES,
    expires_at_ms=st.none() | _TIMES,
    attempts=_ATTEMPTS,
    bytes_max=st.none() | st.just(1_000),
)
def test_a_message_keeps_what_it_is_and_the_number_of_its_next_attempt(
    message: QueuedMessage,
    due_at_ms: int | None,
    expires_at_ms: int | None,
    attempts: tuple[AttemptRecord, ...],
    bytes_max: int | None,
) -> None:
    record = CopiedMessage(message=message, due_at_ms=due_at_ms, expires_at_ms=expires_at_ms, attempts=attempts)
    stored = _stored(_RECORDS.queued("5", record, QueueSettings(bytes_max=bytes_max), _NOW_MS))
    assert _RECORDS.record(CopyKind.MESSAGES, stored) == replace(record, due_at_ms=None)
    is_later = due_at_ms is not None and due_at_ms > _NOW_MS
    assert ("Nats-Schedule" in stored.headers) == is_later
    head = decode_head(stored.headers)
    assert head is not None
    assert [head.history().attempt_of(delivered) for delivered in (1, 2)] == [len(attempts) + 1, len(attempts) + 2]


@given(message=_MESSAGES, reason=_TEXTS, attempts=_ATTEMPTS, dead_at_ms=_TIMES)
def test_a_dead_letter_keeps_its_story(
    message: QueuedMessage, reason: str, attempts: tuple[AttemptRecord, ...], dead_at_ms: int
) -> None:
    letter = DeadLetter(position="7", message=message, reason=reason, attempts=attempts, dead_at_ms=dead_at_ms)
    stored = _stored(_RECORDS.dead_letter("3", CopiedDeadLetter(letter=letter)))
    assert _RECORDS.record(CopyKind.DEAD_LETTERS, stored) == CopiedDeadLetter(letter=letter)


@given(queue=_NAMES, dedupe_id=_TEXTS, expires_at_ms=_TIMES)
def test_a_dedupe_id_keeps_its_end(queue: str, dedupe_id: str, expires_at_ms: int) -> None:
    record = CopiedDedupeId(queue=queue, dedupe_id=dedupe_id, expires_at_ms=expires_at_ms)
    assert _RECORDS.record(CopyKind.DEDUPE_IDS, _stored(_RECORDS.dedupe_id(record, _NOW_MS))) == record
