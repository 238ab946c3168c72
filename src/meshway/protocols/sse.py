"""Server-sent events as the WHATWG HTML standard defines them (section 9.2): an incremental parser and a writer.

The parser keeps the bytes of each event as they came, so that an event can be passed on untouched.
"""

import re
from typing import NamedTuple

__all__ = ["EVENT_BYTES_MAX", "KEEP_ALIVE", "SseEvent", "SseOverflow", "SseParser", "frame"]

# A comment: keeps idle connections and impatient clients alive, invisible to event handlers.
KEEP_ALIVE = b": keep-alive\n\n"
# Events carry whole artifacts (images in base64 among them), but one event must not fill the memory of the hub.
EVENT_BYTES_MAX = 16 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
# A line end (CR, LF, CRLF) followed by another holds one of these; a CRLF by itself holds none.
_BLANK_LINES = (b"\n\n", b"\n\r", b"\r\r")
_CR, _LF = b"\r\n"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class SseEvent(NamedTuple):
    """One event. `raw` is what came, blank line included; `event` is empty for the default type."""

    raw: bytes
    event: bytes
    data: bytes
    id: bytes | None


class SseOverflow(Exception):
    """One event is longer than the parser may hold; the stream cannot be read any further."""


class SseParser:
    """Feed it what arrives, in any pieces; it gives whole events. Comments and events without data are dropped."""

    __slots__ = ("_buffer", "_limit", "_searched", "_started", "_swallow_lf")

    def __init__(self, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._limit = event_bytes_max
        # How much of the buffer is known to hold no whole event.
        self._searched = 0
        self._started = False
        # The last event ended in a CR at the end of a piece: an LF that follows belongs to it.
        self._swallow_lf = False

    def feed(self, data: bytes) -> list[SseEvent]:
        """Events completed by these bytes, in order. Raises: SseOverflow."""
        if not data:
            return []
        if not self._started:
            data = self._first_bytes(data)
        if self._swallow_lf and data:
            self._swallow_lf = False
            if data.startswith(b"\n"):
                data = data[1:]
        kept = self._buffer
        if kept:
            kept += data
        elif (event := _one_whole_event(data)) is not None and len(data) <= self._limit:
            return [event]
        buffer = kept or data
        events: list[SseEvent] = []
        start = 0
        # One byte back: the first half of a blank line may have been the last byte of the piece before.
        search_from = max(0, self._searched - 1)
        present = [blank for blank in _BLANK_LINES if buffer.find(blank, search_from) >= 0]
        while (end := _blank_line_end(buffer, search_from, present)) > 0:
            self._take(bytes(buffer[start:end]), events)
            start = search_from = end
        self._swallow_lf = start == len(buffer) and buffer.endswith(b"\r")
        if kept:
            del kept[:start]
        elif start < len(data):
            kept += data[start:]
        self._searched = len(kept)
        if len(kept) > self._limit:
            raise SseOverflow(f"one event is longer than {self._limit} bytes")
        return events

    def finish(self) -> SseEvent | None:
        """What is left at the end of the stream. The standard drops it; the caller decides by what it holds."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        if not rest:
            return None
        events: list[SseEvent] = []
        self._take(rest + b"\n\n", events)
        return events[0] if events else None

    def _first_bytes(self, data: bytes) -> bytes:
        """Drop a byte order mark, which may come in pieces."""
        head = bytes(self._buffer) + data
        self._buffer.clear()
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._buffer += head
            return b""
        self._started = True
        return head.removeprefix(_BOM)

    def _take(self, raw: bytes, events: list[SseEvent]) -> None:
        if len(raw) > self._limit:
            raise SseOverflow(f"one event is longer than {self._limit} bytes")
        event = _one_data_line(raw) or _parse_lines(raw)
        if event is not None:
            events.append(event)


def _blank_line_end(buffer: bytes | bytearray, start: int, present: list[bytes]) -> int:
    """Where the first blank line after `start` ends, 0 when there is none; `present` are the forms to look for."""
    found = [position for blank in present if (position := buffer.find(blank, start)) >= 0]
    if not found:
        return 0
    end = min(found) + 2
    return end + 1 if buffer[end - 1] == _CR and end < len(buffer) and buffer[end] == _LF else end


def _one_whole_event(data: bytes) -> SseEvent | None:
    """The usual case, quickly: this piece is one event of one data line. Anything else: None."""
    if data.endswith(b"\r\n\r\n"):
        payload = data[6:-4]
    elif data.endswith(b"\n\n"):
        payload = data[6:-2]
    else:
        return None
    if not data.startswith(b"data: ") or b"\n" in payload or b"\r" in payload:
        return None
    return SseEvent(data, b"", payload, None)


def _one_data_line(raw: bytes) -> SseEvent | None:
    """The form nearly every event has: `data: ...` and a blank line. Anything else: None."""
    if not raw.startswith(b"data: "):
        return None
    data = raw[6:].rstrip(b"\r\n")
    if b"\n" in data or b"\r" in data:
        return None
    if raw.endswith(b"\r") and raw[-2:-1] != b"\r":
        raw += b"\n"
    return SseEvent(raw, b"", data, None)


def _parse_lines(raw: bytes) -> SseEvent | None:
    event = b""
    event_id: bytes | None = None
    data: list[bytes] = []
    for line in _LINE_END.split(raw):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value
        elif name == b"id" and b"\0" not in value:
            event_id = value
    if not data:
        return None
    if raw.endswith(b"\n\r"):
        # The LF of a CRLF had not arrived yet; what is passed on shall end in a whole one.
        raw += b"\n"
    return SseEvent(raw.lstrip(b"\r\n"), event, b"\n".join(data), event_id)


def frame(
    data: bytes,
    id: bytes | None = None,  # noqa: A002 - the field's own name
    event: bytes | None = None,
) -> bytes:
    """One event, blank line included. Line ends inside `data` become several data lines; `id` and `event` hold none."""
    head = b""
    if id is not None:
        head = b"id: " + id + b"\n"
    if event is not None:
        head += b"event: " + event + b"\n"
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(_LINE_END.split(data))
    return head + b"data: " + data + b"\n\n"
