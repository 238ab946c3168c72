"""How far agents may go in calling each other."""

from typing import Annotated

import msgspec

from meshway.kernel.delegation import HOPS_MAX

__all__ = ["DelegationSettings"]


class DelegationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for every root task unless the settings of an agent say otherwise, and for agents on their own."""

    # Agents in a row, the called one included; people who delegate deeper have a loop.
    depth_max: Annotated[int, msgspec.Meta(ge=1, le=HOPS_MAX)] = HOPS_MAX
    # Calls made in the course of one root task: more than any planned work, few enough that a loop costs little.
    calls_max: Annotated[int, msgspec.Meta(ge=0)] = 1_000
    # From the beginning of a root task to the last call in its course; the longest wait a caller may ask for, too.
    wall_ms_max: Annotated[int, msgspec.Meta(ge=1)] = 86_400_000
    # Units that agents report for one root task; None: no limit. What a unit is, the operator knows.
    cost_max: Annotated[float, msgspec.Meta(ge=0)] | None = None
    # Whether an agent may be called again further down its own chain, within depth_max.
    allow_cycles: bool = False
    # Calls outside every chain with a key that serves agents: an agent that drops its chain looks like a new caller.
    # Ten a second for ever; None: no limit.
    own_calls_per_minute: Annotated[int, msgspec.Meta(ge=1)] | None = 600
    # Such calls under way at once, for each key; None: no limit.
    own_running_max: Annotated[int, msgspec.Meta(ge=1)] | None = 100
