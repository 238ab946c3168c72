"""A clock that tests own: it stands still until it is moved."""

__all__ = ["ManualClock"]


class ManualClock:
    """Implements `kernel.clock.Clock`. Both times move together, by `advance` only."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic_ms = 0.0

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_ms(self) -> float:
        return self._monotonic_ms

    def advance(self, milliseconds: int) -> None:
        """Let time pass. Raises: ValueError for a negative span; use `set_wall` for a clock that is put back."""
        if milliseconds < 0:
            raise ValueError("time does not run backwards; set_wall changes the wall clock alone")
        self._now_ms += milliseconds
        self._monotonic_ms += milliseconds

    def set_wall(self, now_ms: int) -> None:
        """Put the wall clock, as an operator or NTP does; the monotonic time is unmoved."""
        self._now_ms = now_ms
