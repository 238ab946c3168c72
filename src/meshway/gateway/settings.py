"""Limits of calls through the gateway."""

from typing import Annotated

import msgspec

__all__ = ["GatewaySettings"]


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for every call unless the caller or the agent says otherwise."""

    # Wait of a unary caller who names none; the usual patience of HTTP clients and load balancers.
    timeout_ms: Annotated[int, msgspec.Meta(ge=1)] = 60_000
    # The longest wait a caller may ask for: a day covers the slowest agents.
    timeout_max_ms: Annotated[int, msgspec.Meta(ge=1)] = 86_400_000
    # Instances tried before giving up; only refused connections are tried elsewhere.
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=16)] = 3
    # Calls and open streams at once; each holds two sockets, and the usual limit of descriptors is 65,536.
    calls_in_flight_max: Annotated[int, msgspec.Meta(ge=1)] = 20_000
