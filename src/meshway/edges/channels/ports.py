"""What the data calls of channels are given by assembly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.gateway.ports import Credentials
from meshway.kernel.clock import Clock
from meshway.kernel.metrics import Metrics
from meshway.kernel.principal import Principal

__all__ = ["ChannelEdgeServices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEdgeServices:
    """`credentials_of` and `authenticate` raise Unauthenticated; `trace_of` gives the trace headers of the next hop."""

    use_cases: ChannelUseCases
    credentials_of: Callable[[Mapping[bytes, bytes]], Credentials]
    authenticate: Callable[[Credentials], Principal]
    trace_of: Callable[[Mapping[bytes, bytes]], tuple[tuple[bytes, bytes], ...]]
    clock: Clock
    metrics: Metrics
