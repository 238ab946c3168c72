"""Limits of speaking to A2A agents."""

from typing import Annotated

import msgspec

__all__ = ["A2AUpstreamSettings"]

Positive = Annotated[int, msgspec.Meta(ge=1)]


class A2AUpstreamSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the hub expects of agents."""

    # A card is a page of JSON; one that has not come by then will not come.
    card_timeout_ms: Positive = 5_000
    # As large as the largest posted card.
    card_bytes_max: Positive = 1_048_576
    # A stream may start late (a queue, a cold model), but an agent that says nothing for this long is gone.
    stream_first_byte_ms: Positive = 300_000
