"""Counts by channel and pattern, as one hub has them or as another told them. No I/O."""

from collections import OrderedDict
from collections.abc import Mapping

from meshway.messaging.names import is_pattern, pattern_covers

__all__ = ["Figures", "Listeners"]


class Figures:
    """Figures by name; of too many names those that were idle longest go first."""

    def __init__(self, names_max: int) -> None:
        self._names_max = names_max
        self.by_name: OrderedDict[str, dict[str, int]] = OrderedDict()

    def get(self, name: str) -> Mapping[str, int]:
        return self.by_name.get(name, {})

    def put(self, name: str, figures: dict[str, int]) -> dict[str, int]:
        """The newest of all names now."""
        if name not in self.by_name and len(self.by_name) >= self._names_max:
            self.by_name.popitem(last=False)
        self.by_name[name] = figures
        self.by_name.move_to_end(name)
        return figures


class Listeners:
    """How many listen by which name and by which pattern."""

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}
        self.by_pattern: dict[str, int] = {}

    def change(self, pattern: str, by: int) -> None:
        self.put(pattern, self.get(pattern) + by)

    def get(self, pattern: str) -> int:
        return self._counts(pattern).get(pattern, 0)

    def put(self, pattern: str, count: int) -> None:
        counts = self._counts(pattern)
        if count:
            counts[pattern] = count
        else:
            counts.pop(pattern, None)

    def count_for(self, name: str) -> int:
        """Looks at every pattern: for people who ask, not for every message."""
        by_pattern = sum(count for pattern, count in self.by_pattern.items() if pattern_covers(pattern, name))
        return self.by_name.get(name, 0) + by_pattern

    def _counts(self, pattern: str) -> dict[str, int]:
        return self.by_pattern if is_pattern(pattern) else self.by_name
