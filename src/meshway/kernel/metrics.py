"""The metrics port. Rooms count through it; observability puts a Prometheus registry behind it.

Bind labels once and keep the child: `calls = metrics.counter(...)`, then `calls.labels(agent, outcome).inc()`.
Names begin `meshway_`, units come last, label values are bounded (agent ids, outcomes; never task ids).
"""

from collections.abc import Callable, Sequence
from typing import Protocol

__all__ = ["Counter", "Gauge", "Histogram", "Metrics", "NullMetrics"]


class Counter(Protocol):
    def labels(self, *values: str) -> "Counter": ...

    def inc(self, amount: float = 1) -> None: ...


class Gauge(Protocol):
    def labels(self, *values: str) -> "Gauge": ...

    def set(self, value: float) -> None: ...

    def inc(self, amount: float = 1) -> None: ...

    def dec(self, amount: float = 1) -> None: ...


class Histogram(Protocol):
    def labels(self, *values: str) -> "Histogram": ...

    def observe(self, value: float) -> None: ...


class Metrics(Protocol):
    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter: ...

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge: ...

    def gauge_read_from(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A gauge without labels whose value is asked for when somebody scrapes."""

    def histogram(
        self, name: str, help_text: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = ()
    ) -> Histogram:
        """Buckets are upper bounds in the unit of the name; empty means the registry's default for seconds."""


class _Nothing:
    """Counter, gauge and histogram that keep nothing."""

    def labels(self, *values: str) -> "_Nothing":
        return self

    def inc(self, amount: float = 1) -> None:
        pass

    def dec(self, amount: float = 1) -> None:
        pass

    def set(self, value: float) -> None:
        pass

    def observe(self, value: float) -> None:
        pass


class NullMetrics:
    """For tests and tools that nobody scrapes."""

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        return _Nothing()

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
        return _Nothing()

    def gauge_read_from(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        pass

    def histogram(
        self, name: str, help_text: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = ()
    ) -> Histogram:
        return _Nothing()
