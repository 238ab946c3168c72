"""Leaves an instance alone that refuses connections, and lets one call try it now and then. Pure.

closed --(failures in a row)--> open --(pause is over)--> trial --ok--> closed
                                 ^--------------(failed, longer pause)----'
"""

import enum
import random

from meshway.routing.settings import RoutingSettings

__all__ = ["Breaker", "BreakerState"]

# Pauses double at most so often; the setting's maximum ends them long before.
_DOUBLINGS_MAX = 16


class BreakerState(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    # One call is trying; the others stay away.
    TRIAL = "trial"


class Breaker:
    """Of one instance. Times are on the monotonic clock, in milliseconds."""

    __slots__ = ("_failures", "_pauses", "_until_ms", "state")

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._pauses = 0
        # Open: end of the pause. Trial: when it is taken for lost.
        self._until_ms = 0.0

    @property
    def is_clean(self) -> bool:
        """Closed, and nothing to remember."""
        return self.state is BreakerState.CLOSED and not self._failures

    def trial_due(self, monotonic_ms: float) -> bool:
        """May a call try an instance that is not known to be well? For a closed breaker always."""
        return self.state is BreakerState.CLOSED or monotonic_ms >= self._until_ms

    def due_in_ms(self, monotonic_ms: float) -> int:
        """How long until `trial_due`."""
        return 0 if self.state is BreakerState.CLOSED else max(0, round(self._until_ms - monotonic_ms))

    def begin_trial(self, monotonic_ms: float, settings: RoutingSettings) -> None:
        """One call goes; the next may when this one failed, or was lost."""
        self.state = BreakerState.TRIAL
        self._until_ms = monotonic_ms + settings.trial_ms

    def open_until(self, monotonic_ms: float) -> None:
        """Another hub was refused; the next trial is due with its own."""
        self.state = BreakerState.OPEN
        self._failures = max(self._failures, 1)
        self._until_ms = monotonic_ms

    def succeeded(self) -> None:
        self.state = BreakerState.CLOSED
        self._failures = self._pauses = 0

    def failed(self, monotonic_ms: float, settings: RoutingSettings, chance: random.Random) -> None:
        """Failures of calls that were under way when it opened count no further: they say nothing new."""
        if self.state is BreakerState.OPEN:
            return
        self._failures += 1
        if self.state is BreakerState.TRIAL or self._failures >= settings.breaker_failures:
            pause_ms = settings.breaker_open_ms * 2 ** min(self._pauses, _DOUBLINGS_MAX)
            self._pauses += 1
            self.state = BreakerState.OPEN
            self._until_ms = monotonic_ms + min(pause_ms, settings.breaker_open_max_ms) * chance.uniform(0.75, 1.0)
