"""Counting of A2A calls: by agent, operation and outcome, with label children bound once."""

from meshway.kernel.metrics import Counter, Histogram, Metrics

__all__ = ["CallMeter"]

# Label sets kept; agents are bounded by the registry, outcomes by the error tree.
_BOUND_MAX = 20_000


class CallMeter:
    """`begin` and `done` around each call; `stream_opened` and `stream_closed` around each stream."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.counter(
            "meshway_requests_total", "A2A calls answered.", ("agent", "method", "outcome")
        )
        self._seconds = metrics.histogram(
            "meshway_request_seconds", "Time until a call was answered, or its stream began.", ("agent",)
        )
        self._bound: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self.in_flight = 0
        self.open_streams = 0
        metrics.gauge_read_from("meshway_in_flight", "A2A calls not answered yet.", lambda: float(self.in_flight))
        metrics.gauge_read_from("meshway_open_streams", "A2A streams open.", lambda: float(self.open_streams))

    def count(self, agent: str, method: str, outcome: str, seconds: float) -> None:
        """`outcome` is ok, or the code of the error."""
        key = (agent, method, outcome)
        bound = self._bound.get(key)
        if bound is None:
            if len(self._bound) >= _BOUND_MAX:
                self._bound.clear()
            bound = (self._requests.labels(agent, method, outcome), self._seconds.labels(agent))
            self._bound[key] = bound
        bound[0].inc()
        bound[1].observe(seconds)
