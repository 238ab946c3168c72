"""W3C trace context (https://www.w3.org/TR/trace-context/): read what a caller sent, make what is sent on. Pure.

The hub records no spans of its own yet; it keeps the chain whole, so that an agent's spans hang below its caller's.
"""

import re
from random import Random
from typing import NamedTuple

__all__ = ["TraceContext", "Tracer"]

# Versions above 00 may append fields after another hyphen (section 4.3); what is known is read, the rest dropped.
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_NO_TRACE_ID = b"0" * 32
_NO_SPAN_ID = b"0" * 16
# Section 3.3.1.1 asks to carry at least this much; more is somebody else's data at our cost.
_TRACESTATE_BYTES_MAX = 512


class TraceContext(NamedTuple):
    """What goes on to the next hop. `traceparent` is a complete header value; `tracestate` None when there is none."""

    traceparent: bytes
    tracestate: bytes | None

    @property
    def trace_id(self) -> str:
        """32 hex digits: the same on every hop, for logs."""
        return self.traceparent[3:35].decode()


class Tracer:
    """Makes the hub's own ids from the given generator: ids must be unlikely to meet, not hard to guess."""

    def __init__(self, random: Random) -> None:
        self._bits = random.getrandbits

    def child(self, traceparent: bytes | None, tracestate: bytes | None = None) -> TraceContext:
        """A hop below the caller's; a new trace where the header is absent, or no trace context (section 4.3)."""
        # An id of zeros is invalid, hence `or 1`.
        if traceparent is None:
            return TraceContext(b"00-%032x-%016x-01" % (self._bits(128) or 1, self._bits(64) or 1), None)
        span_id = b"%016x" % (self._bits(64) or 1)
        if traceparent:
            match = _TRACEPARENT.fullmatch(traceparent)
            if match is not None and _is_valid(match):
                # Only the flags that version 00 knows may be passed on: sampled, and random (level 2).
                flags = b"%02x" % (int(match[4], 16) & 0x03)
                return TraceContext(b"00-%b-%b-%b" % (match[2], span_id, flags), _checked_state(tracestate))
        # Sampled: an agent that follows its parent's choice would otherwise never record a call that starts here.
        return TraceContext(b"00-%032x-%b-01" % (self._bits(128) or 1, span_id), None)


def _is_valid(match: "re.Match[bytes]") -> bool:
    version = match[1]
    if version == b"ff" or (version == b"00" and match[5] is not None):
        return False
    return match[2] != _NO_TRACE_ID and match[3] != _NO_SPAN_ID


def _checked_state(tracestate: bytes | None) -> bytes | None:
    if not tracestate or len(tracestate) > _TRACESTATE_BYTES_MAX:
        return None
    # It goes into a request head as it is.
    return tracestate if all(0x20 <= byte < 0x7F or byte == 0x09 for byte in tracestate) else None
