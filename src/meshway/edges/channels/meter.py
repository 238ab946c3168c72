"""Counting of data calls: by operation and status, with label children bound once."""

from meshway.kernel.metrics import Counter, Histogram, Metrics

__all__ = ["ChannelMeter"]


class ChannelMeter:
    """One per edge. Operations and statuses are few, so the label sets kept are."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter(
            "meshway_channel_requests_total", "Data calls of channels over HTTP.", ("operation", "status")
        )
        self._seconds = metrics.histogram(
            "meshway_channel_request_seconds", "Time until a data call that does not wait was answered.", ("operation",)
        )
        self._counters: dict[tuple[str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self.open_feeds = 0
        metrics.gauge_read_from(
            "meshway_channel_feeds", "Open server-sent event streams of channels.", lambda: float(self.open_feeds)
        )

    def count(self, operation: str, status: int, seconds: float | None) -> None:
        """`seconds` None: how long it took was the caller's choice (a long poll, a feed)."""
        counter = self._counters.get((operation, status))
        if counter is None:
            counter = self._counters[operation, status] = self._requests.labels(operation, str(status))
        counter.inc()
        if seconds is not None:
            histogram = self._histograms.get(operation)
            if histogram is None:
                histogram = self._histograms[operation] = self._seconds.labels(operation)
            histogram.observe(seconds)
