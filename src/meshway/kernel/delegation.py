"""Who asked whom: the chain of tasks that led to a call, and the limits it is held to. Values only."""

from typing import Annotated

import msgspec

from meshway.kernel.ids import AgentId

__all__ = ["HOPS_MAX", "TASK_ID_BYTES_MAX", "Chain", "DelegationLimits", "Hop"]

# A chain travels in one header. Sixteen hops with the longest names stay below 8 KiB, as much as common servers take
# in a header line, and people who delegate deeper than this have a loop.
HOPS_MAX = 16
# The same header, again; ids of the A2A SDK have 36 bytes.
TASK_ID_BYTES_MAX = 255


class Hop(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One agent at work. `task_id` is the hub's own id of the call where no task was known when the agent was asked."""

    agent_id: AgentId
    task_id: str


class Chain(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """From the first agent that was asked to the one at work now; `hops` is never empty. Times are epoch ms.

    `deadline_ms` is when the work of the whole chain must be done, None: no limit. `started_at_ms` is when the first
    agent was asked.
    """

    hops: tuple[Hop, ...]
    started_at_ms: int
    deadline_ms: int | None = None

    @property
    def root(self) -> Hop:
        """The task in whose course everything else happened; its budget is spent."""
        return self.hops[0]

    @property
    def depth(self) -> int:
        return len(self.hops)

    @property
    def agents(self) -> tuple[AgentId, ...]:
        return tuple(hop.agent_id for hop in self.hops)

    def shown(self) -> str:
        """For people: `client -> a (task t1) -> b (task t2)`."""
        return " -> ".join(["client", *(f"{hop.agent_id} (task {hop.task_id})" for hop in self.hops)])


class DelegationLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What an operator sets for one agent; None: nothing of its own.

    It holds for chains that begin at the agent, in place of the hub's limits; and for calls of the agent out of any
    chain, besides the limits that hold there.
    """

    # Agents in a row, the called one included.
    depth_max: Annotated[int, msgspec.Meta(ge=1, le=HOPS_MAX)] | None = None
    # Calls made in the course of one root task.
    calls_max: Annotated[int, msgspec.Meta(ge=0)] | None = None
    # From the root task's beginning to its last call.
    wall_ms_max: Annotated[int, msgspec.Meta(ge=1)] | None = None
    # Units that agents reported for one root task.
    cost_max: Annotated[float, msgspec.Meta(ge=0)] | None = None
    # Whether an agent may be called again further down its own chain. Where both have a say, the called agent's counts.
    allow_cycles: bool | None = None
