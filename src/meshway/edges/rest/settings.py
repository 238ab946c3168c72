"""Limits of the control plane."""

from typing import Annotated

import msgspec

__all__ = ["RestSettings"]


class RestSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one request to the control plane may take."""

    # An agent card of the size the registry accepts, and the few fields around it.
    body_bytes_max: Annotated[int, msgspec.Meta(ge=1_024)] = 1_048_576
    # Silence on a change feed before a comment is sent: stock clients give up after 5 s.
    watch_keep_alive_ms: Annotated[int, msgspec.Meta(ge=100)] = 4_000
    # Change feeds open at once: dashboards, CLIs and operators, each a task and a socket.
    watchers_max: Annotated[int, msgspec.Meta(ge=1)] = 1_000
