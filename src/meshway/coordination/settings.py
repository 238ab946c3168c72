"""How hubs of one mesh notice each other."""

from typing import Annotated

import msgspec

__all__ = ["MeshSettings"]


class MeshSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All hubs of a mesh should have the same. None of it matters to a hub with an engine of its own."""

    # How often a hub says that it is there: one small message, which costs 100 hubs 200 messages a second each.
    beat_interval_ms: Annotated[int, msgspec.Meta(ge=50, le=10_000)] = 500
    # Silence after which the others take over what a hub did: four beats, so that one long pause is forgiven.
    lost_after_ms: Annotated[int, msgspec.Meta(ge=200, le=60_000)] = 2_000
