"""What each root task has caused so far: calls and cost, in memory.

A restart begins counting anew. Each hub of a mesh counts what passes through it, and hears from the others what passed
there; what must not be forgotten, when the root task began and how deep the chain is, stands in the chain itself.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import msgspec

from meshway.kernel.delegation import Hop
from meshway.kernel.errors import wrong_field

__all__ = ["RootLedger", "RootShare", "RootUsage"]

# Some 300 bytes each. The one that was quiet longest is forgotten first, and a loop is never quiet.
_ROOTS_MAX = 10_000


class RootShare(msgspec.Struct, frozen=True, array_like=True):
    """What one hub has let through in the course of a root task, since it began to count."""

    agent_id: str
    task_id: str
    calls: int
    cost: float


class RootUsage:
    """Of one root task; `first_call_ms` is epoch ms, None before the first call in its course at this hub."""

    __slots__ = ("first_call_ms", "others", "own_calls", "own_cost")

    def __init__(self) -> None:
        self.own_calls = 0
        self.own_cost = 0.0
        self.first_call_ms: int | None = None
        # Calls and cost by hub.
        self.others: dict[str, tuple[int, float]] = {}

    @property
    def calls(self) -> int:
        """Of all hubs. What one that is gone had counted stays: the task's calls were made."""
        return self.own_calls + sum(calls for calls, _ in self.others.values())

    @property
    def cost(self) -> float:
        """Of all hubs."""
        return self.own_cost + sum(cost for _, cost in self.others.values())


class RootLedger:
    """One per hub; used from the event loop only."""

    def __init__(self, *, roots_max: int = _ROOTS_MAX) -> None:
        self._roots_max = roots_max
        self._usages: OrderedDict[tuple[str, str], RootUsage] = OrderedDict()
        # What other hubs are to be told; None: there are none.
        self._changed: dict[tuple[str, str], None] | None = None

    def usage(self, root: Hop) -> RootUsage:
        """What is known of the root; remembered from now on."""
        return self._usage((root.agent_id, root.task_id))

    def _usage(self, key: tuple[str, str]) -> RootUsage:
        usage = self._usages.get(key)
        if usage is not None:
            self._usages.move_to_end(key)
            return usage
        if len(self._usages) >= self._roots_max:
            self._usages.popitem(last=False)
        usage = self._usages[key] = RootUsage()
        return usage

    def count_call(self, root: Hop, now_ms: int) -> None:
        """One more call was let through."""
        usage = self.usage(root)
        usage.own_calls += 1
        self._note(root)
        if usage.first_call_ms is None:
            usage.first_call_ms = now_ms

    def report_cost(self, root: Hop, units: float) -> None:
        """An agent says what its work in the course of the root cost. Raises: InvalidRequest naming `cost`."""
        if not math.isfinite(units) or units < 0:
            raise wrong_field("cost", "must be a number, 0 or more")
        self.usage(root).own_cost += units
        self._note(root)

    def share(self) -> None:
        """From now on other hubs count too."""
        self._changed = {}

    def _note(self, root: Hop) -> None:
        if self._changed is not None:
            self._changed[root.agent_id, root.task_id] = None

    def shares_to_tell(self, *, is_whole: bool) -> Sequence[RootShare]:
        """What this hub counted of roots that changed since this was asked last, or of all that it remembers."""
        changed, self._changed = self._changed or {}, {}
        keys = list(self._usages) if is_whole else [key for key in changed if key in self._usages]
        found = [(key, self._usages[key]) for key in keys]
        return [
            RootShare(*key, usage.own_calls, usage.own_cost)
            for key, usage in found
            if usage.own_calls or usage.own_cost
        ]

    def heard_shares(self, hub_id: str, shares: Iterable[RootShare]) -> None:
        """Another hub told what it counted. What it repeats moves nothing, and makes a full ledger forget nothing."""
        for share in shares:
            key, told = (share.agent_id, share.task_id), (share.calls, share.cost)
            usage = self._usages.get(key)
            if usage is None and len(self._usages) >= self._roots_max:
                continue
            if usage is None or usage.others.get(hub_id) != told:
                self._usage(key).others[hub_id] = told
