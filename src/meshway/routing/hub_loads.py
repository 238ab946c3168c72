"""What the hubs of a mesh have under way with one instance, and how much of its room is this hub's to give. No I/O."""

import msgspec

__all__ = ["HubLoads", "InstanceLoad"]


class InstanceLoad(msgspec.Struct, frozen=True, array_like=True):
    """Of one hub: its calls under way with an instance, and how long it leaves it alone because it refused."""

    agent_id: str
    instance_id: str
    in_flight: int
    refused_for_ms: int = 0


class HubLoads:
    """Of one instance. `others`: calls under way by hub."""

    __slots__ = ("free", "others", "taken")

    def __init__(self) -> None:
        self.others: dict[str, int] = {}
        # Places that were free when this hub last told the others, and what it has taken since. None: nobody looked.
        self.free: int | None = None
        self.taken = 0

    @property
    def elsewhere(self) -> int:
        """Calls of other hubs."""
        return sum(self.others.values())

    def has_slice(self, hubs: int) -> bool:
        """Whether this hub may take one more before it tells the others."""
        return self.taken < max(1, -(-(self.free or 0) // hubs))
