"""What the adapter counts. Nothing here is on the way of a call that is answered."""

from meshway.kernel.metrics import Metrics

__all__ = ["Measures"]


class Measures:
    """Bound once."""

    def __init__(self, metrics: Metrics) -> None:
        self.reconnects = metrics.counter(
            "meshway_engine_nats_reconnects_total", "Times the connection to NATS was made again after it broke"
        )
        self.servers_left = metrics.counter(
            "meshway_engine_nats_servers_left_total",
            "Times the hub left a server that answered nothing, for another one of the cluster that did",
        )
        self.unanswered = metrics.counter(
            "meshway_engine_nats_unanswered_total",
            "Requests to JetStream that nobody answered: no leader, no connection, or not in time",
        )
        self.errors = metrics.counter("meshway_engine_nats_errors_total", "What the client library reported", ["kind"])
        self.streams_remade = metrics.counter(
            "meshway_engine_nats_streams_remade_total",
            "Streams that were gone while the hub ran, with all they held, and were made again",
            ["stream"],
        )
