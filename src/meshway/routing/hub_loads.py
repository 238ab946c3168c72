"""What the hubs of a mesh have under way with one instance, and how much of its room is this hub's to give. No I/O."""

import msgspec

__all__ = ["HubLoads", "InstanceLoad"]


class InstanceLoad(msgspec.Struct, frozen=True, array_like=True):
    """Of one hub: its calls under way with an instance, and how long it leaves it alone because it refused.

    `failed_at_ms`: wall time of the last refusal that it knows of, whoever met it; told again it is no news.
    """

    agent_id: str
    instance_id: str
    in_flight: int
    refused_for_ms: int = 0
    failed_at_ms: int = 0


class HubLoads:
    """Of one instance. `others`: calls under way by hub."""

    __slots__ = ("free", "others", "told")

    def __init__(self) -> None:
        self.others: dict[str, int] = {}
        # This hub's own calls as the others know them; what ends meanwhile frees a place that they still take for held.
        self.told = 0
        # Places that were free when this hub last had no more calls than they know. None: nobody looked.
        self.free: int | None = None

    @property
    def elsewhere(self) -> int:
        """Calls of other hubs."""
        return sum(self.others.values())

    def has_slice(self, in_flight: int, free: int, *, capacity: int, hubs: int) -> bool:
        """Whether this hub, with `in_flight` calls and places `free` as far as it knows, may begin one more now."""
        untold = in_flight - self.told
        if untold <= 0:
            self.free = free
            return True
        if self.free is None:
            # Where the first calls were let through unseen, they are part of what was free.
            self.free = min(capacity, free + untold)
        return untold < max(1, -(-self.free // hubs))
