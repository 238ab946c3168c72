"""Counters, gauges and histograms as plain numbers: what the hot path touches, and nothing that only a scrape needs.

No locks. In CPython threads change places only at calls and backward jumps, so `+=` on an attribute is whole; a build
without the global lock could lose a count now and then, never more.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

__all__ = ["LABELS_OVERFLOW", "SECONDS_BUCKETS", "CounterSeries", "Family", "GaugeSeries", "HistogramSeries"]

# From well below a relayed call to the longest unary wait.
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Label values past this many combinations of one metric are counted together, so that no caller can fill the memory.
_SERIES_MAX = 20_000
LABELS_OVERFLOW = "_other"

Series = TypeVar("Series", "CounterSeries", "GaugeSeries", "HistogramSeries")


class Family(Generic[Series]):
    """One metric: its series by label values. Without labels it has the one series `()`."""

    def __init__(
        self, kind: type[Series], name: str, *, help_text: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self.kind: type[Series] = kind
        self.name = name
        self.help_text = help_text
        self.label_names = tuple(labels)
        self.bounds = tuple(bounds)
        self._series: dict[tuple[str, ...], Series] = {}
        self.root: Series = kind(self.child, self.bounds)
        if not self.label_names:
            self._series[()] = self.root

    def child(self, values: tuple[str, ...]) -> Series:
        """The series of these label values, made when it is new. Raises: ValueError for a wrong number of values."""
        found = self._series.get(values)
        if found is not None:
            return found
        if len(values) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}, got {len(values)} values")
        if len(self._series) >= _SERIES_MAX:
            values = (LABELS_OVERFLOW,) * len(self.label_names)
        return self._series.setdefault(values, self.kind(self.root.labels_of, self.bounds))

    def all_series(self) -> Iterator[tuple[tuple[str, ...], Series]]:
        """A copy: a scrape in another thread may meet a series being made."""
        yield from list(self._series.items())


class CounterSeries:
    __slots__ = ("labels_of", "value")

    def __init__(self, labels_of: "Callable[[tuple[str, ...]], CounterSeries]", bounds: Sequence[float]) -> None:
        self.labels_of = labels_of
        self.value = 0.0

    def labels(self, *values: str) -> "CounterSeries":
        return self.labels_of(values)

    def inc(self, amount: float = 1) -> None:
        self.value += amount


class GaugeSeries:
    __slots__ = ("labels_of", "value")

    def __init__(self, labels_of: "Callable[[tuple[str, ...]], GaugeSeries]", bounds: Sequence[float]) -> None:
        self.labels_of = labels_of
        self.value = 0.0

    def labels(self, *values: str) -> "GaugeSeries":
        return self.labels_of(values)

    def set(self, value: float) -> None:
        self.value = value

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        self.value -= amount


class HistogramSeries:
    """`counts` has one more place than there are bounds: for what is above the last."""

    __slots__ = ("_bounds", "counts", "labels_of", "total")

    def __init__(self, labels_of: "Callable[[tuple[str, ...]], HistogramSeries]", bounds: Sequence[float]) -> None:
        self.labels_of = labels_of
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def labels(self, *values: str) -> "HistogramSeries":
        return self.labels_of(values)

    def observe(self, value: float) -> None:
        # A bound counts what is equal to it (Prometheus: `le`).
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[int]:
        """Counts at or below each bound; the last is that of all."""
        sums: list[int] = []
        running = 0
        for count in self.counts:
            running += count
            sums.append(running)
        return sums
