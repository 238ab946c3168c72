"""The two times a hub needs, as one port, so that tests can own them."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

__all__ = ["Clock", "SystemClock", "parse_rfc3339_ms", "rfc3339_ms"]


class Clock(Protocol):
    """Ask once per operation and pass the number down."""

    def now_ms(self) -> int:
        """Epoch milliseconds UTC: for what is stored or shown."""

    def monotonic_ms(self) -> float:
        """Milliseconds that never go back: for durations and deadlines."""


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> float:
        return time.monotonic() * 1000.0


def rfc3339_ms(epoch_ms: int) -> str:
    """RFC 3339 UTC with milliseconds, as every API of the hub shows times: `2026-11-22T07:00:00.123Z`."""
    seconds, milliseconds = divmod(epoch_ms, 1000)
    return f"{_to_the_second(seconds)}.{milliseconds:03d}Z"


# Thousands of messages share a second, and the calendar costs as much as the rest of a short document.
@lru_cache(maxsize=16)
def _to_the_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_rfc3339_ms(text: str) -> int:
    """Epoch milliseconds of an RFC 3339 time. Raises: ValueError when it is none, or carries no zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write it as 2026-11-22T07:00:00.000Z")
    return round(moment.timestamp() * 1000)
