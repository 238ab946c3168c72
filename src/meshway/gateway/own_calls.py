"""Calls that agents make outside every chain: how often, and how many at once, for each key.

An agent that drops the chain it was given cannot be told from a new caller. What can be told is that its key serves
agents, so a loop that passes through such calls is slow and narrow.
"""

from collections import OrderedDict
from collections.abc import Callable

from meshway.gateway.delegation_settings import DelegationSettings
from meshway.kernel.clock import Clock
from meshway.kernel.errors import OwnLimitReached
from meshway.kernel.ids import PrincipalId
from meshway.kernel.principal import Principal

__all__ = ["OwnCalls"]

# Keys that serve agents, in the largest mesh we know of, many times over; a key that is forgotten starts afresh.
_KEYS_MAX = 10_000
# Calls of other agents take seconds; nothing tells when the next of them ends.
_RUNNING_RETRY_AFTER_MS = 1_000
_MINUTE_MS = 60_000


class _Bucket:
    """Calls that may be made at once; filled up again over time (token bucket)."""

    __slots__ = ("filled_at_ms", "tokens")

    def __init__(self, tokens: float, filled_at_ms: float) -> None:
        self.tokens = tokens
        self.filled_at_ms = filled_at_ms


class OwnCalls:
    """One per hub; used from the event loop only."""

    def __init__(self, settings: DelegationSettings, clock: Clock) -> None:
        self._per_minute = settings.own_calls_per_minute
        self._running_max = settings.own_running_max
        self._clock = clock
        self._buckets: OrderedDict[PrincipalId, _Bucket] = OrderedDict()
        self._running: dict[PrincipalId, int] = {}

    @staticmethod
    def counts(principal: Principal) -> bool:
        """Whether calls of this principal outside a chain are an agent's own."""
        return not principal.is_admin and any(scope.name == "serve" for scope in principal.scopes)

    def begin(self, principal_id: PrincipalId) -> Callable[[], None]:
        """Take the place of one call; the answer gives it back, and does so once. Raises: OwnLimitReached."""
        running = self._running.get(principal_id, 0)
        if self._running_max is not None and running >= self._running_max:
            text = (
                f"Key {principal_id!r} serves agents and has {running} calls under way outside every chain of "
                "delegation, as many as it may. Calls in the course of a task belong to its chain: send Meshway-Chain."
            )
            raise OwnLimitReached(text, retry_after_ms=_RUNNING_RETRY_AFTER_MS, extensions={"limit": "own_running"})
        self._take_token(principal_id)
        self._running[principal_id] = running + 1
        return self._ender(principal_id)

    def _ender(self, principal_id: PrincipalId) -> Callable[[], None]:
        is_over = False

        def end() -> None:
            nonlocal is_over
            if is_over:
                return
            is_over = True
            self._running[principal_id] -= 1
            if not self._running[principal_id]:
                del self._running[principal_id]

        return end

    def _take_token(self, principal_id: PrincipalId) -> None:
        if self._per_minute is None:
            return
        now_ms = self._clock.monotonic_ms()
        bucket = self._bucket(principal_id, now_ms)
        gained = (now_ms - bucket.filled_at_ms) * self._per_minute / _MINUTE_MS
        bucket.tokens = min(float(self._per_minute), bucket.tokens + gained)
        bucket.filled_at_ms = now_ms
        if bucket.tokens < 1:
            text = (
                f"Key {principal_id!r} serves agents and made more than {self._per_minute} calls a minute outside "
                "every chain of delegation. Calls in the course of a task belong to its chain: send Meshway-Chain."
            )
            wait_ms = int((1 - bucket.tokens) * _MINUTE_MS / self._per_minute) + 1
            raise OwnLimitReached(text, retry_after_ms=wait_ms, extensions={"limit": "own_calls"})
        bucket.tokens -= 1

    def _bucket(self, principal_id: PrincipalId, now_ms: float) -> _Bucket:
        bucket = self._buckets.get(principal_id)
        if bucket is not None:
            self._buckets.move_to_end(principal_id)
            return bucket
        assert self._per_minute is not None
        if len(self._buckets) >= _KEYS_MAX:
            self._buckets.popitem(last=False)
        bucket = self._buckets[principal_id] = _Bucket(float(self._per_minute), now_ms)
        return bucket
