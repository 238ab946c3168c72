"""How long an agent that is away is looked for, and how often."""

import asyncio

from meshway.kernel.clock import Clock

__all__ = ["Patience"]

# Between two looks for an agent that is away, doubled each time; and between two questions to one that only answers.
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.1, 5.0


class Patience:
    """With an agent whose stream broke: waits that double, until nothing was heard for too long."""

    def __init__(self, clock: Clock, most_ms: int) -> None:
        self._clock = clock
        self._most_ms = most_ms
        self._wait_s = 0.0
        self._ends_ms = clock.monotonic_ms() + most_ms

    @property
    def is_over(self) -> bool:
        return self._clock.monotonic_ms() >= self._ends_ms

    def renew(self) -> None:
        """Something was heard. The first try after that is made at once, the others wait."""
        self._ends_ms = self._clock.monotonic_ms() + self._most_ms
        self._wait_s = min(self._wait_s, _BACKOFF_FIRST_S)

    async def wait(self) -> None:
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(max(self._wait_s * 2, _BACKOFF_FIRST_S), _BACKOFF_MAX_S)
