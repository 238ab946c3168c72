"""What each root task has caused so far: calls and cost, in memory.

A restart begins counting anew, and each hub of a mesh counts what passes through it; what must not be forgotten, when
the root task began and how deep the chain is, stands in the chain itself.
"""

import math
from collections import OrderedDict

from meshway.kernel.delegation import Hop
from meshway.kernel.errors import wrong_field

__all__ = ["RootLedger", "RootUsage"]

# Some 300 bytes each. The one that was quiet longest is forgotten first, and a loop is never quiet.
_ROOTS_MAX = 10_000


class RootUsage:
    """Of one root task; `first_call_ms` is epoch ms, None before the first call in its course."""

    __slots__ = ("calls", "cost", "first_call_ms")

    def __init__(self) -> None:
        self.calls = 0
        self.cost = 0.0
        self.first_call_ms: int | None = None


class RootLedger:
    """One per hub; used from the event loop only."""

    def __init__(self, *, roots_max: int = _ROOTS_MAX) -> None:
        self._roots_max = roots_max
        self._usages: OrderedDict[tuple[str, str], RootUsage] = OrderedDict()

    def usage(self, root: Hop) -> RootUsage:
        """What is known of the root; remembered from now on."""
        key = (root.agent_id, root.task_id)
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
        usage.calls += 1
        if usage.first_call_ms is None:
            usage.first_call_ms = now_ms

    def report_cost(self, root: Hop, units: float) -> None:
        """An agent says what its work in the course of the root cost. Raises: InvalidRequest naming `cost`."""
        if not math.isfinite(units) or units < 0:
            raise wrong_field("cost", "must be a number, 0 or more")
        self.usage(root).cost += units
