"""What becomes of a hand-out that failed. Pure: no I/O, no clock, no dice; the only place that decides it.

Queues and tasks both obey it. A hand-out fails in two ways: its holder says so (`decide_after_failure`), or its lease
ran out and the message is due again (`is_exhausted`, asked before the next hand-out).
"""

from dataclasses import dataclass

__all__ = [
    "LEASE_RAN_OUT",
    "GiveUp",
    "RetryAt",
    "RetryPolicy",
    "decide_after_failure",
    "is_exhausted",
    "is_used_up_reason",
]

# Why an attempt ended of which nobody said anything.
LEASE_RAN_OUT = "the lease ran out"

# Doubling more often than this only overflows; the maximum has been reached long before.
_DOUBLINGS_MAX = 40


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts_max` counts hand-outs, the first included."""

    attempts_max: int
    backoff_initial_ms: int
    backoff_max_ms: int

    def backoff_ms(self, attempt: int, chance: float) -> int:
        """The wait after `attempt` (from 1) failed: doubled each time, at most the maximum, the upper half by chance.

        `chance` is in [0, 1): the same for all would send everybody back at once ("equal jitter", AWS Architecture
        Blog, Exponential Backoff and Jitter).
        """
        doublings = min(max(attempt - 1, 0), _DOUBLINGS_MAX)
        full = min(self.backoff_initial_ms << doublings, self.backoff_max_ms)
        return full // 2 + int((full - full // 2) * chance)


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Due again at this time."""

    visible_at_ms: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """To the dead letters, or dropped where there are none; `reason` is for people."""

    reason: str


def decide_after_failure(
    policy: RetryPolicy, attempt: int, *, reason: str, now_ms: int, chance: float, delay_ms: int | None = None
) -> RetryAt | GiveUp:
    """Choose between another attempt and giving up; the attempt that just failed counts.

    `delay_ms` is the wish of the holder; it stands for the back-off, never for the maximum.
    """
    if attempt >= policy.attempts_max:
        return GiveUp(f"attempt {attempt} of {policy.attempts_max} failed: {reason or 'no reason given'}")
    wait_ms = policy.backoff_ms(attempt, chance) if delay_ms is None else delay_ms
    return RetryAt(now_ms + wait_ms)


def is_exhausted(attempts_max: int, attempt: int) -> GiveUp | None:
    """Whether a message that is due as `attempt` has had all its attempts already: the last one's lease ran out."""
    if attempt <= attempts_max:
        return None
    return GiveUp(_used_up_reason(attempt, attempts_max))


def is_used_up_reason(reason: str, attempt: int) -> bool:
    """Whether `is_exhausted` gave this reason, asked about `attempt`: no worker had the message then."""
    return reason == _used_up_reason(attempt, _attempts_max_in(reason))


def _used_up_reason(attempt: int, attempts_max: int | str) -> str:
    return f"attempt {attempt - 1} of {attempts_max} was not settled: its lease ran out"


def _attempts_max_in(reason: str) -> str:
    return reason.partition(" of ")[2].partition(" ")[0]
