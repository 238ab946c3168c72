"""Where reading a stream begins: what callers write, and what the log takes."""

from meshway.engine.ports import FromLast, FromNew, FromPosition, FromSequence, FromTime, LogStart
from meshway.kernel.clock import parse_rfc3339_ms
from meshway.kernel.errors import InvalidRequest, wrong_field
from meshway.kernel.pages import decode_cursor, encode_cursor

__all__ = [
    "channel_cursor",
    "cursor_before",
    "parse_channel_start",
    "parse_pattern_start",
    "pattern_cursor",
    "start_after_cursor",
]

# What fits the engines' numbers of 64 bits, whatever is added.
_DIGITS_MAX = 18
_LAST = "last:"
_TIME = "time:"
_POSITION_MARK = "p"


def parse_channel_start(text: str | None, *, field: str = "from") -> LogStart:
    """`first`, `new` (also for None), a sequence (inclusive), `last:N` or `time:RFC3339`.

    Raises: InvalidRequest naming `field`.
    """
    match text:
        case None | "new":
            return FromNew()
        case "first":
            return FromSequence(1)
    if text.startswith(_TIME):
        return _from_time(text, field)
    if text.startswith(_LAST):
        count = _number(text[len(_LAST) :])
        if count:
            return FromLast(count)
    sequence = _number(text)
    if sequence:
        return FromSequence(sequence)
    raise wrong_field(field, "use first, new, a sequence from 1, last:N with N from 1, or time: with an RFC 3339 time")


def parse_pattern_start(text: str | None, *, field: str = "from") -> LogStart:
    """`first`, `new` (also for None) or `time:RFC3339`: sequences belong to one channel. Raises: InvalidRequest."""
    match text:
        case None | "new":
            return FromNew()
        case "first":
            return FromPosition(0)
    if text.startswith(_TIME):
        return _from_time(text, field)
    raise wrong_field(field, "a pattern of channels begins with first, new, or time: with an RFC 3339 time")


def start_after_cursor(cursor: str, *, is_pattern: bool, field: str = "cursor") -> LogStart:
    """Where a reader goes on that stopped at this cursor. Raises: InvalidRequest naming `field` when it is none."""
    if not is_pattern:
        if cursor == "0":
            return FromSequence(1)
        sequence = _number(cursor)
        if not sequence:
            raise wrong_field(field, "the cursor (Last-Event-ID) of one stream is the sequence of its last message")
        return FromSequence(sequence + 1)
    try:
        text = decode_cursor(cursor)
    except InvalidRequest:
        text = ""
    position = _number(text[1:]) if text.startswith(_POSITION_MARK) else None
    if position is None:
        raise wrong_field(
            field, "give the cursor (Last-Event-ID) of the last message unchanged, or begin again with from="
        )
    return FromPosition(position)


def channel_cursor(sequence: int) -> str:
    return str(sequence)


def pattern_cursor(position: int) -> str:
    return encode_cursor(f"{_POSITION_MARK}{position}")


def cursor_before(start: LogStart) -> str | None:
    """The cursor that goes on with this start; None where none says it."""
    match start:
        case FromSequence(sequence=sequence):
            return channel_cursor(sequence - 1)
        case FromPosition(position=position):
            return pattern_cursor(position)
    return None


def _from_time(text: str, field: str) -> FromTime:
    try:
        return FromTime(parse_rfc3339_ms(text[len(_TIME) :]))
    except (ValueError, OverflowError):
        raise wrong_field(field, "write the time as time:2026-11-22T07:00:00.000Z, with its zone") from None


def _number(text: str) -> int | None:
    """Decimal digits only: int() would also take signs, spaces, underscores and other scripts."""
    if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS_MAX:
        return None
    return int(text)
