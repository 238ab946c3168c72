"""How entries of the log stand in their stream: what our headers say, and what is left of a subject trimmed empty.

    Mw-N: 5                number in the subject
    Mw-B: 1234             bytes of the subject's entries from the first one to this, trimmed ones included
    Mw-Id: "m5"            message id, a JSON string in ASCII
    Mw-H: {"a": "b"}       the entry's headers, JSON in ASCII; left out where there are none
    Mw-P: 99               only in a marker: the stream sequence that the last entry had
    Mw-T: 1767225600000    only of an entry that was copied from another engine: the time it had there ...
    Mw-O: 7                ... and its position, which is lower than any sequence of this stream

A marker repeats the last entry's number, bytes and id. A trim that leaves nothing puts one under the subject itself for
a while, so that writers who still know the old end fail, and one under `Layout.log_end` for ever.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import uuid4

import msgspec

from meshway.engine.nats.jetstream import Stored
from meshway.engine.nats.link import Ask
from meshway.engine.ports import LogAppend, LogEntry
from meshway.kernel.errors import EngineUnavailable

__all__ = [
    "EXPECTED_LAST",
    "End",
    "as_batch",
    "copied_headers",
    "end_of",
    "entry_of",
    "has_message_id",
    "headers_of",
    "is_entry",
    "is_ours",
    "marker_headers",
    "number_of",
    "position_of",
    "size_of",
    "time_of",
    "total_of",
    "wire_bytes",
]

EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
_NUMBER, _TOTAL, _ID, _HEADERS, _POSITION = "Mw-N", "Mw-B", "Mw-Id", "Mw-H", "Mw-P"
_TIME, _ORIGIN = "Mw-T", "Mw-O"
_MESSAGE_ID = "Nats-Msg-Id"
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode
# Names and numbers of our headers and JetStream's.
_HEADER_BYTES = 400


class End(NamedTuple):
    """Where a subject ends: its last entry, which may be trimmed, and its last message in the stream."""

    last: int
    message_id: str | None
    # Bytes of all entries there ever were.
    total: int
    # Stream sequences: of the last entry, and of the last message, 0 for none.
    position: int
    seq: int


def headers_of(entry: LogAppend, number: int, total: int) -> dict[str, str]:
    """What an entry is stored with. The servers filter repeated ids only where nothing else tells a repetition."""
    headers = {_NUMBER: str(number), _TOTAL: str(total), _ID: json.dumps(entry.message_id)}
    if entry.headers:
        headers[_HEADERS] = json.dumps(dict(entry.headers))
    if entry.is_repeatable and entry.expected_last is None:
        # Ids are compared within the whole stream.
        headers[_MESSAGE_ID] = f"{entry.subject}:{headers[_ID]}"
    return headers


def copied_headers(entry: LogEntry, total: int, *, is_recent: bool) -> dict[str, str]:
    """What an entry of another engine is stored with; `is_recent`: somebody may still repeat its append."""
    append = LogAppend(
        subject=entry.subject,
        message_id=entry.message_id,
        data=entry.data,
        headers=entry.headers,
        is_repeatable=is_recent,
    )
    headers = headers_of(append, entry.sequence, total)
    return {**headers, _TIME: str(entry.timestamp_ms), _ORIGIN: str(entry.position)}


def marker_headers(end: End) -> dict[str, str]:
    """What a marker says."""
    return {
        _NUMBER: str(end.last),
        _TOTAL: str(end.total),
        _ID: json.dumps(end.message_id),
        _POSITION: str(end.position),
        "Nats-Rollup": "sub",
    }


def size_of(entry: LogAppend | LogEntry) -> int:
    """Bytes that an entry counts for."""
    headers = len(msgspec.json.encode(entry.headers)) if entry.headers else 0
    return len(entry.data) + len(entry.message_id) + headers


def wire_bytes(entry: LogAppend) -> tuple[int, int]:
    """Of its headers and of the whole message, about; never too few."""
    headers = _HEADER_BYTES + len(entry.subject) + 2 * len(json.dumps(entry.message_id))
    if entry.headers:
        headers += len(json.dumps(dict(entry.headers)))
    return headers, headers + len(entry.data)


def is_ours(stored: Stored) -> bool:
    """An entry or a marker, not something that others put into our stream."""
    return _NUMBER in stored.headers


def is_entry(stored: Stored) -> bool:
    """Not a marker, nor what others put there."""
    return _POSITION not in stored.headers and _NUMBER in stored.headers


def has_message_id(stored: Stored) -> bool:
    """Whether the servers filter repetitions of it."""
    return _MESSAGE_ID in stored.headers


def number_of(stored: Stored) -> int:
    """The number of an entry; of a marker, the last one that was trimmed. Raises: EngineUnavailable."""
    number = stored.headers.get(_NUMBER)
    if number is None:
        text = f"NATS subject {stored.subject} holds a message that Meshway did not write (sequence {stored.seq})"
        raise EngineUnavailable(text)
    return int(number)


def total_of(stored: Stored) -> int:
    """Bytes of the subject's entries up to this one."""
    return int(stored.headers[_TOTAL])


def time_of(stored: Stored) -> int:
    """When an entry was appended; times never fall along the log."""
    time_ms = stored.headers.get(_TIME)
    return stored.time_ms if time_ms is None else int(time_ms)


def position_of(stored: Stored) -> int:
    """What readers were told; rises along the log like sequences, of which it is one where nothing was copied."""
    origin = stored.headers.get(_ORIGIN)
    return stored.seq if origin is None else int(origin)


def end_of(stored: Stored) -> End:
    """The end of a subject whose last message this is. Raises: EngineUnavailable."""
    number = number_of(stored)
    position = int(stored.headers.get(_POSITION, stored.seq))
    return End(number, _id_of(stored.headers[_ID]), total_of(stored), position, stored.seq)


def entry_of(stored: Stored, prefix: str) -> LogEntry:
    """Raises: KeyError for what is no entry."""
    headers = stored.headers
    kept = headers.get(_HEADERS)
    return LogEntry(
        subject=stored.subject[len(prefix) :],
        sequence=int(headers[_NUMBER]),
        position=position_of(stored),
        message_id=_id_of(headers[_ID]),
        data=stored.data,
        headers=_decode_headers(kept) if kept else {},
        timestamp_ms=time_of(stored),
    )


def as_batch(messages: Sequence[tuple[str, Mapping[str, str], bytes]]) -> Sequence[Ask]:
    """Subjects, headers and data as one atomic batch; only the last one is answered, for all."""
    batch_id = uuid4().hex
    asks = [
        Ask(subject, data, {**headers, "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(place)})
        for place, (subject, headers, data) in enumerate(messages, 1)
    ]
    last = asks[-1]
    asks[-1] = last._replace(headers={**(last.headers or {}), "Nats-Batch-Commit": "1"})
    return asks


def _id_of(text: str) -> str:
    return text[1:-1] if "\\" not in text else str(json.loads(text))
