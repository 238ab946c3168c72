"""How calls are spread over instances."""

from typing import Annotated

import msgspec

__all__ = ["RoutingSettings"]


class RoutingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Breakers and waits; capacities and weights belong to the instances."""

    # Refused connections in a row before an instance is left alone: one may be a restart's last moment, three are not.
    breaker_failures: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 3
    # First pause of a breaker: about the time a process takes to start again.
    breaker_open_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] = 250
    # Longest pause: what a caller may have to wait after the agent is back, so it stays short.
    breaker_open_max_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] = 5_000
    # A trial that reported nothing by then is taken for lost, and another call may try.
    trial_ms: Annotated[int, msgspec.Meta(ge=100, le=600_000)] = 10_000
    # What a caller is told to wait when every instance is at its capacity.
    full_retry_after_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] = 1_000
