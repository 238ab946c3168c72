"""The metrics port on prometheus_client: our own series, exported by a collector in a registry of our own.

The library's counters take a lock for each count, a cost the relay would pay several times a call; its exposition is
used as it is. It is imported with the first scrape, which the start of the hub need not wait for.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from meshway.observability.light_structlog import structlog
from meshway.observability.series import SECONDS_BUCKETS, CounterSeries, Family, GaugeSeries, HistogramSeries

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

__all__ = ["PrometheusMetrics"]

_NAME = re.compile(r"meshway_[a-z0-9_]+")
_LABEL = re.compile(r"[a-z][a-z0-9_]*")

_Kind = TypeVar("_Kind", CounterSeries, GaugeSeries, HistogramSeries)


class PrometheusMetrics:
    """Implements the port Metrics. Asking twice for one metric gives the same; with another shape it is an error."""

    def __init__(self) -> None:
        self._counters: dict[str, Family[CounterSeries]] = {}
        self._gauges: dict[str, Family[GaugeSeries]] = {}
        self._histograms: dict[str, Family[HistogramSeries]] = {}
        self._read: dict[str, tuple[str, Callable[[], float]]] = {}
        self._registry: CollectorRegistry | None = None

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> CounterSeries:
        """Shown with the suffix `_total`, whether the name has it or not. Raises: ValueError."""
        return self._family(self._counters, CounterSeries, name, help_text=help_text, labels=labels)

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> GaugeSeries:
        """Raises: ValueError."""
        return self._family(self._gauges, GaugeSeries, name, help_text=help_text, labels=labels)

    def gauge_read_from(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """`read` runs in the thread that scrapes. Raises: ValueError."""
        self._check_new(name, ())
        self._read[name] = (help_text, read)

    def histogram(
        self, name: str, help_text: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = ()
    ) -> HistogramSeries:
        """`buckets`: upper bounds, rising, without infinity; the default suits seconds. Raises: ValueError."""
        bounds = tuple(buckets) or SECONDS_BUCKETS
        if any(low >= high for low, high in pairwise(bounds)):
            raise ValueError(f"buckets of {name} must rise")
        return self._family(self._histograms, HistogramSeries, name, help_text=help_text, labels=labels, bounds=bounds)

    def render(self) -> tuple[bytes, str]:
        """The body and content type of `/metrics`, in the Prometheus text format 0.0.4.

        The first call imports the library (50 ms of CPU, 4 MB); assembly may make it once after the hub is ready.
        """
        from prometheus_client.exposition import (  # noqa: PLC0415 - spares the start of the hub its 50 ms
            CONTENT_TYPE_PLAIN_0_0_4,
            generate_latest,
        )

        if self._registry is None:
            self._registry = self._make_registry()
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> "Iterator[Metric]":
        """Part of prometheus_client's collector protocol: everything as it is now."""
        from prometheus_client.core import (  # noqa: PLC0415 - as in render
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        for counters in list(self._counters.values()):
            counted = CounterMetricFamily(counters.name, counters.help_text, labels=counters.label_names)
            for values, counter in counters.all_series():
                counted.add_metric(values, counter.value)
            yield counted
        for gauges in list(self._gauges.values()):
            shown = GaugeMetricFamily(gauges.name, gauges.help_text, labels=gauges.label_names)
            for values, gauge in gauges.all_series():
                shown.add_metric(values, gauge.value)
            yield shown
        for spreads in list(self._histograms.values()):
            spread = HistogramMetricFamily(spreads.name, spreads.help_text, labels=spreads.label_names)
            bounds = [*map(str, spreads.bounds), "+Inf"]
            for values, observed in spreads.all_series():
                spread.add_metric(values, list(zip(bounds, observed.cumulative(), strict=True)), observed.total)
            yield spread
        for name, (help_text, read) in list(self._read.items()):
            yield GaugeMetricFamily(name, help_text, value=_read_safely(name, read))

    def _family(
        self,
        families: dict[str, Family[_Kind]],
        kind: type[_Kind],
        name: str,
        *,
        help_text: str,
        labels: Sequence[str],
        bounds: Sequence[float] = (),
    ) -> _Kind:
        known = families.get(name)
        if known is None:
            self._check_new(name, labels)
            known = families[name] = Family(kind, name, help_text=help_text, labels=labels, bounds=bounds)
        elif known.label_names != tuple(labels) or known.bounds != tuple(bounds):
            raise ValueError(f"metric {name} is there already, with other labels or buckets")
        return known.root

    def _check_new(self, name: str, labels: Sequence[str]) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no metric name of ours: meshway_ and a-z, 0-9, _")
        for label in labels:
            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label!r} is no label name")
        if any(name in known for known in (self._counters, self._gauges, self._histograms, self._read)):
            raise ValueError(f"metric {name} is there already, of another kind")

    def _make_registry(self) -> "CollectorRegistry":
        from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415 - as in render

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        # CPU, memory, file descriptors and start time, from /proc.
        ProcessCollector(namespace="meshway", registry=registry)
        return registry


def _read_safely(name: str, read: Callable[[], float]) -> float:
    try:
        return float(read())
    except Exception:  # noqa: BLE001 - boundary of a scrape: one figure that fails must not hide all the others
        structlog.get_logger().exception("gauge_read_failed", metric=name)
        return float("nan")
