"""How long one caller waits: fixed once at the edge, passed down, never restarted by a retry."""

import msgspec

__all__ = ["Deadline"]


class Deadline(msgspec.Struct, frozen=True):
    """A moment on the monotonic clock, in milliseconds; `timeout_ms` is kept for the message the caller reads."""

    at_ms: float
    timeout_ms: int

    @classmethod
    def after(cls, timeout_ms: int, monotonic_ms: float) -> "Deadline":
        return cls(monotonic_ms + timeout_ms, timeout_ms)

    def remaining_ms(self, monotonic_ms: float) -> float:
        """Milliseconds left, 0 when over."""
        return max(0.0, self.at_ms - monotonic_ms)
