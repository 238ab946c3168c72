"""How many may listen at once: one count over all connections and kinds, so that nobody fills the hub's memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from meshway.kernel.errors import TooManyInFlight

__all__ = ["SubscriptionPlaces"]

# Somebody leaves all the time.
_RETRY_AFTER_MS = 1_000


class SubscriptionPlaces:
    """One per hub."""

    def __init__(self, *, subscriptions_max: int) -> None:
        self._subscriptions_max = subscriptions_max
        self._taken = 0

    @property
    def taken(self) -> int:
        """Subscriptions open now."""
        return self._taken

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold one place. Raises: TooManyInFlight naming the setting."""
        if self._taken >= self._subscriptions_max:
            raise TooManyInFlight(
                f"The hub has {self._taken} subscriptions, as many as it takes ([messaging] subscriptions_max).",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
