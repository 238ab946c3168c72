"""The limits of the HTTP/1.1 client. Every limit has a reason; none of them is per call."""

from typing import Annotated

import msgspec

__all__ = ["Http1Settings"]


class Http1Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the hub connects to agents and how much of an answer it takes."""

    # Every stream holds one connection; 5,000 idle streams of one agent must fit, with room for its other calls.
    connections_per_origin_max: Annotated[int, msgspec.Meta(ge=1, le=60_000)] = 8_192
    # Kept after a burst so that the next one need not connect again; they are gone after keep_alive_ms anyway.
    idle_per_origin_max: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 1_024
    # More handshakes at once overflow the accept queue of a stock agent; the kernel then retries after a whole second.
    dials_per_origin_max: Annotated[int, msgspec.Meta(ge=1, le=4_096)] = 64
    # Shorter than the 5 s after which a stock uvicorn closes an idle connection: ours must be the side that closes.
    keep_alive_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = 4_000
    # Name lookup, TCP and TLS together; long enough for one lost SYN (the kernel repeats it after 1 s).
    connect_timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=120_000)] = 3_000
    # Until the head of the answer is complete, for a call that has no deadline of its own.
    first_byte_timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] = 60_000
    # Between two pieces of a body. Agents think for minutes without a word; this only finds the dead ones.
    idle_timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000)] = 300_000
    # The defaults of nginx, Envoy and Node lie between 8 and 64 KiB. Bounds chunk extensions and trailers too.
    header_bytes_max: Annotated[int, msgspec.Meta(ge=256, le=1_048_576)] = 64 * 1024
    # More is an attack or a bug.
    headers_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200
    # What `read()` keeps in memory; A2A answers carry files inline. `chunks()` has no such bound.
    body_bytes_max: Annotated[int, msgspec.Meta(ge=0, le=1_073_741_824)] = 32 * 1024 * 1024
    # Unread body kept for a slow reader before the agent is made to wait; one socket read more can be on top.
    unread_bytes_max: Annotated[int, msgspec.Meta(ge=1, le=67_108_864)] = 64 * 1024
    # Spares a lookup per connection in a burst, yet follows a name that moves within seconds. 0 asks each time.
    address_cache_ms: Annotated[int, msgspec.Meta(ge=0, le=300_000)] = 5_000
