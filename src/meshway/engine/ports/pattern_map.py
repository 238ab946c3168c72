"""What stands under patterns of subjects, found by subject.

A value stands for a whole pattern (all who listen to it), so that ten thousand listeners of one pattern are one entry
here, and one more of them changes nothing. Patterns without wildcards are a plain dictionary; the others are a tree by
token, so finding costs the depth of the subject, not the number of patterns.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

from meshway.engine.ports.checks import is_literal

__all__ = ["PatternMap"]

_REST = ">"
# Answers of the tree kept per subject until a pattern with wildcards comes or goes; subjects of tasks are many and
# short-lived.
_MATCHES_CACHED_MAX = 16_384

Value = TypeVar("Value")


class _Node(Generic[Value]):
    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Value]] = {}
        self.here: Value | None = None
        self.rest: Value | None = None

    def is_empty(self) -> bool:
        return not self.children and self.here is None and self.rest is None


class PatternMap(Generic[Value]):
    """One value per checked pattern. Putting, removing and finding cost the number of tokens."""

    def __init__(self) -> None:
        self._literal: dict[str, Value] = {}
        self._wild: dict[str, Value] = {}
        self._root: _Node[Value] = _Node()
        self._cache: dict[str, tuple[Value, ...]] = {}

    def __len__(self) -> int:
        return len(self._literal) + len(self._wild)

    def get(self, pattern: str) -> Value | None:
        """What stands under exactly this pattern."""
        found = self._literal.get(pattern)
        return found if found is not None else self._wild.get(pattern)

    def put(self, pattern: str, value: Value) -> None:
        """`value` under `pattern`, which must be free."""
        if is_literal(pattern):
            self._literal[pattern] = value
            return
        self._wild[pattern] = value
        node = self._root
        for token in _path_of(pattern):
            node = node.children.setdefault(token, _Node())
        if pattern.endswith(_REST):
            node.rest = value
        else:
            node.here = value
        self._cache.clear()

    def remove(self, pattern: str) -> None:
        """Raises: KeyError when nothing stands there."""
        if is_literal(pattern):
            del self._literal[pattern]
            return
        del self._wild[pattern]
        tokens = _path_of(pattern)
        path = [self._root]
        for token in tokens:
            path.append(path[-1].children[token])
        if pattern.endswith(_REST):
            path[-1].rest = None
        else:
            path[-1].here = None
        for depth in range(len(tokens), 0, -1):
            if not path[depth].is_empty():
                break
            del path[depth - 1].children[tokens[depth - 1]]
        self._cache.clear()

    def is_known(self, subject: str) -> bool:
        """Whether the subject was looked up before, or is a pattern itself: then it needs no check of its form."""
        return subject in self._literal or subject in self._cache

    def matching(self, subject: str) -> Sequence[Value]:
        """What stands under the patterns that match `subject`; the subject's own first."""
        own = self._literal.get(subject)
        if not self._wild:
            return () if own is None else (own,)
        found = self._cache.get(subject)
        if found is None:
            found = self._find(subject)
        return found if own is None else (own, *found)

    def _find(self, subject: str) -> tuple[Value, ...]:
        collected: list[Value] = []
        _collect(self._root, subject.split("."), 0, collected)
        if len(self._cache) >= _MATCHES_CACHED_MAX:
            self._cache.clear()
        found = self._cache[subject] = tuple(collected)
        return found


def _path_of(pattern: str) -> Sequence[str]:
    """The tokens that lead to a pattern's node."""
    tokens = pattern.split(".")
    return tokens[:-1] if tokens[-1] == _REST else tokens


def _collect(node: _Node[Value], tokens: Sequence[str], depth: int, found: list[Value]) -> None:
    if depth == len(tokens):
        if node.here is not None:
            found.append(node.here)
        return
    if node.rest is not None:
        found.append(node.rest)
    for token in (tokens[depth], "*"):
        child = node.children.get(token)
        if child is not None:
            _collect(child, tokens, depth + 1, found)
