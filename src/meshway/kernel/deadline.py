"""How long one caller waits: fixed once at the edge, passed down, never restarted by a retry."""

import msgspec

__all__ = ["Deadline"]


class Deadline(msgspec.Struct, frozen=True):
    """A moment on the monotonic clock, in milliseconds; `timeout_ms` is kept for the message the caller reads."""

    at_ms: float
    timeout_ms: int
