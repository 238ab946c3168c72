"""Reading the log: by number, time or position, of one subject or a pattern.

Entries up to the counter `log_indexed` are found through `log_index`, the few after it by looking through them.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from meshway.engine.embedded.queries import Queries
from meshway.engine.ports import (
    FromLast,
    FromNew,
    FromPosition,
    FromSequence,
    FromTime,
    LogBounds,
    LogEntry,
    LogStart,
    LogTrim,
)
from meshway.engine.ports.checks import pattern_matches, prefix_of
from meshway.engine.ports.tails import Cursor

__all__ = [
    "bounds_of",
    "decode_headers",
    "first_position_at",
    "list_subjects",
    "read_pattern",
    "read_subject",
    "start_cursor",
    "trim_target",
]

_headers = msgspec.json.Decoder(dict[str, str])


class _Subject(NamedTuple):
    subject_id: int
    trimmed_to: int
    trimmed_message_id: str | None
    indexed_to: int


def start_cursor(
    connection: sqlite3.Connection, queries: Queries, pattern: str, start: LogStart, visible: int
) -> Cursor:
    """The cursor that a start means; `visible` is the last position that readers may see."""
    match start:
        case FromSequence(sequence=sequence):
            return Cursor(0, sequence)
        case FromPosition(position=position):
            return Cursor(position, 0)
        case FromNew():
            return Cursor(visible, 0)
        case FromTime(timestamp_ms=timestamp_ms):
            return Cursor(first_position_at(connection, queries, timestamp_ms, visible) - 1, 0)
        case FromLast(count=count):
            bounds = bounds_of(connection, queries, pattern, visible)
            return Cursor(0, 1 if bounds is None else bounds.last - count + 1)


def first_position_at(connection: sqlite3.Connection, queries: Queries, since_ms: int, last: int) -> int:
    """The first position whose entry is no older than `since_ms`; `last + 1` when there is none.

    Times never fall along the log, so halving finds it.
    """

    def is_late(position: int) -> tuple[int, bool] | None:
        found = connection.execute(queries.text("next_position"), (position,)).fetchone()
        return None if found is None else (found[0], found[1] >= since_ms)

    return _first_late(1, last, is_late)


def read_subject(
    connection: sqlite3.Connection, queries: Queries, subject: str, cursor: Cursor, *, visible: int, limit: int
) -> Sequence[LogEntry]:
    """At most `limit` entries after the cursor, ascending."""
    known = _find_subject(connection, queries, subject)
    if known is None:
        return []
    sequence = max(cursor.sequence, known.trimmed_to + 1)
    if cursor.position > 0:
        sequence = max(sequence, _first_after(connection, queries, known, cursor.position))
    rows: list[tuple[int, int, str, bytes, bytes | None, int]] = connection.execute(
        queries.text("read_indexed"), (known.subject_id, sequence, cursor.position, visible, limit)
    ).fetchall()
    if len(rows) < limit and visible > known.indexed_to:
        after = max(known.indexed_to, cursor.position)
        values = (after, visible, known.subject_id, sequence, 0, limit - len(rows))
        rows.extend(connection.execute(queries.text("read_unindexed"), values))
    return [_entry(subject, row) for row in rows]


def read_pattern(
    connection: sqlite3.Connection, queries: Queries, pattern: str, cursor: Cursor, *, visible: int, limit: int
) -> tuple[Sequence[LogEntry], int]:
    """Entries after the cursor in order of position, and the position up to which all were looked at."""
    glob = pattern.replace(">", "*")
    rows = connection.execute(queries.text("read_pattern"), (cursor.position, visible, glob, limit)).fetchall()
    tokens = pattern.split(".")
    entries = [_entry(row[0], row[1:]) for row in rows if pattern_matches(tokens, row[0].split("."))]
    return entries, rows[-1][2] if len(rows) == limit else visible


def bounds_of(connection: sqlite3.Connection, queries: Queries, subject: str, visible: int) -> LogBounds | None:
    """What a subject holds; None for one never written."""
    known = _find_subject(connection, queries, subject)
    if known is None:
        return None
    end: tuple[int, str | None] | None = None
    if visible > known.indexed_to:
        values = (known.indexed_to, visible, known.subject_id)
        end = connection.execute(queries.text("last_unindexed"), values).fetchone()
    if end is None:
        end = connection.execute(queries.text("last_indexed_visible"), (known.subject_id, visible)).fetchone()
    last, last_message_id = end or (known.trimmed_to, known.trimmed_message_id)
    if last == 0:
        return None
    first = known.trimmed_to + 1
    return LogBounds(first=first, last=last, count=last - first + 1, last_message_id=last_message_id)


def list_subjects(
    connection: sqlite3.Connection, queries: Queries, pattern: str, after: str | None, limit: int
) -> Sequence[str]:
    """Names that match and hold entries, ordered, after `after`."""
    tokens = pattern.split(".")
    prefix = prefix_of(pattern)
    glob = pattern.replace(">", "*")
    # Below every name that begins with the prefix, and above: "~" is higher than any character of a name.
    low = max(after or "", prefix[:-1] if prefix else "")
    indexed_to = _indexed_to(connection, queries)
    found: list[str] = []
    while len(found) < limit:
        rows = connection.execute(
            queries.text("subjects_page"), (low, prefix + "~", glob, indexed_to, limit)
        ).fetchall()
        found.extend(name for (name,) in rows if pattern_matches(tokens, name.split(".")))
        if len(rows) < limit:
            break
        low = rows[-1][0]
    return found[:limit]


def trim_target(connection: sqlite3.Connection, queries: Queries, trim: LogTrim, visible: int) -> int:
    """The last sequence to drop; 0 for nothing. The index is complete: the caller saw to that."""
    known = _find_subject(connection, queries, trim.subject)
    bounds = bounds_of(connection, queries, trim.subject, visible)
    if known is None or bounds is None:
        return 0
    target = 0
    if trim.before_sequence is not None:
        target = trim.before_sequence - 1
    if trim.keep_count is not None:
        target = max(target, bounds.last - trim.keep_count)
    if trim.before_ms is not None:
        position = first_position_at(connection, queries, trim.before_ms, visible)
        target = max(target, _first_after(connection, queries, known, position - 1) - 1)
    if trim.keep_bytes is not None:
        target = max(target, _beyond_bytes(connection, queries, known.subject_id, trim.keep_bytes))
    return min(target, bounds.last)


def decode_headers(headers: bytes | None) -> dict[str, str]:
    return _headers.decode(headers) if headers else {}


def _find_subject(connection: sqlite3.Connection, queries: Queries, subject: str) -> _Subject | None:
    found = connection.execute(queries.text("find_subject"), (subject,)).fetchone()
    if found is None:
        return None
    subject_id, trimmed_to, trimmed_message_id = found
    return _Subject(subject_id, trimmed_to, trimmed_message_id, _indexed_to(connection, queries))


def _indexed_to(connection: sqlite3.Connection, queries: Queries) -> int:
    found = connection.execute(queries.text("indexed_to")).fetchone()
    return found[0] if found else 0


def _first_after(connection: sqlite3.Connection, queries: Queries, known: _Subject, position: int) -> int:
    """The first indexed sequence of a subject after a position; one past the last when there is none."""

    def is_late(sequence: int) -> tuple[int, bool] | None:
        found = connection.execute(queries.text("next_indexed"), (known.subject_id, sequence)).fetchone()
        return None if found is None else (found[0], found[2] > position)

    end = connection.execute(queries.text("last_indexed"), (known.subject_id,)).fetchone()
    return _first_late(known.trimmed_to + 1, end[0] if end else known.trimmed_to, is_late)


def _first_late(first: int, last: int, is_late: Callable[[int], tuple[int, bool] | None]) -> int:
    """The smallest number in first..last from which on all are late; `last + 1` when none is."""
    low, high = first, last + 1
    while low < high:
        middle = (low + high) // 2
        found = is_late(middle)
        if found is None or found[0] >= high or found[1]:
            high = middle
        else:
            low = found[0] + 1
    return low


def _beyond_bytes(connection: sqlite3.Connection, queries: Queries, subject_id: int, keep_bytes: int) -> int:
    total = 0
    for sequence, size in connection.execute(queries.text("sizes_newest_first"), (subject_id,)):
        total += size
        if total > keep_bytes:
            return int(sequence)
    return 0


def _entry(subject: str, columns: tuple[int, int, str, bytes, bytes | None, int]) -> LogEntry:
    sequence, position, message_id, data, headers, at_ms = columns
    return LogEntry(
        subject=subject,
        sequence=sequence,
        position=position,
        message_id=message_id,
        data=data,
        headers=decode_headers(headers),
        timestamp_ms=at_ms,
    )
