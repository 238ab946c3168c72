"""The servers that keep this mesh's streams: who leads which, and who lags behind."""

from collections.abc import Mapping

from meshway.engine.nats.failures import ApiError, Unanswered
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import EngineNode

__all__ = ["read_nodes"]


class _Node:
    def __init__(self) -> None:
        self.leads: list[str] = []
        self.lag = 0
        self.is_current = True
        self.is_offline = False


async def read_nodes(jetstream: JetStream, layout: Layout) -> list[EngineNode]:
    """By name; empty where nobody answers, and for a single server, which has no cluster to speak of."""
    streams = [layout.kv_stream, layout.log_stream, layout.queue_stream, layout.blob_stream]
    nodes: dict[str, _Node] = {}
    answers = await jetstream.api_all([(f"STREAM.INFO.{stream}", None) for stream in streams])
    for stream, answer in zip(streams, answers, strict=True):
        if isinstance(answer, ApiError | Unanswered):
            continue
        cluster = answer.cluster
        if cluster.leader:
            nodes.setdefault(cluster.leader, _Node()).leads.append(stream)
        for replica in cluster.replicas:
            node = nodes.setdefault(replica.name, _Node())
            node.lag += replica.lag
            node.is_current &= replica.current
            node.is_offline |= replica.offline
    return [_shown(name, nodes) for name in sorted(nodes)]


def _shown(name: str, nodes: Mapping[str, _Node]) -> EngineNode:
    node = nodes[name]
    leads = tuple(node.leads)
    return EngineNode(name=name, leads=leads, lag=node.lag, is_current=node.is_current, is_offline=node.is_offline)
