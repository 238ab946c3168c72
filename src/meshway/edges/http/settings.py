"""Limits of the HTTP server."""

from typing import Annotated

import msgspec

__all__ = ["HttpSettings"]

Positive = Annotated[int, msgspec.Meta(ge=1)]


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client may take of the hub."""

    # Request line and headers together; nginx allows 4 x 8 KiB as well.
    header_bytes_max: Positive = 32_768
    # More header lines than any real client sends; each costs a parser callback.
    headers_max: Positive = 100
    # An A2A message with files inlined as base64; larger files belong behind a URL.
    body_bytes_max: Positive = 33_554_432
    # A client that has not finished its headers by then is slow on purpose or gone.
    header_timeout_ms: Positive = 10_000
    # A whole request body must have arrived by then: 32 MiB at 4 Mbit/s.
    body_timeout_ms: Positive = 60_000
    # How long a connection may idle between requests: longer than the 60 s of usual load balancers.
    keep_alive_ms: Positive = 75_000
    # A client that takes no bytes for this long is cut; its upstream is freed with it.
    write_stall_ms: Positive = 30_000
    # Silence on a stream before a comment is sent; the stock a2a-sdk client gives up after 5 s.
    sse_keep_alive_ms: Annotated[int, msgspec.Meta(ge=100)] = 4_000
    # Open connections; each costs a file descriptor and up to 40 KB.
    connections_max: Positive = 20_000
    # How long running calls may go on after SIGTERM; Kubernetes kills after 30 s.
    drain_timeout_ms: Positive = 20_000
