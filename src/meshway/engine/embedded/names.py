"""Names and patterns of the ports: what is allowed, what a pattern matches, and who listens to a subject."""

import re
from collections.abc import Sequence
from typing import Generic, TypeVar

from meshway.engine.embedded.arguments import refused

__all__ = ["Listeners", "check_name", "check_pattern", "check_prefix", "is_literal", "pattern_matches", "prefix_of"]

_NAME = re.compile(r"[A-Za-z0-9_=/-]+(?:\.[A-Za-z0-9_=/-]+)*")
_PATTERN = re.compile(r"(?:(?:[A-Za-z0-9_=/-]+|\*)\.)*(?:[A-Za-z0-9_=/-]+|\*|>)")
# A name becomes a database key and a NATS subject; servers refuse longer ones.
_NAME_CHARACTERS_MAX = 1_024
_REST = ">"
# Answers kept per subject until a listener comes or goes; subjects of tasks are many and short-lived.
_MATCHES_CACHED_MAX = 4_096

Listener = TypeVar("Listener")


def check_name(name: str, field: str) -> str:
    """A key, subject or queue name. Raises: InvalidRequest naming `field`."""
    if not _NAME.fullmatch(name) or len(name) > _NAME_CHARACTERS_MAX:
        raise refused(
            field, f"{name[:80]!r} is no name: dot-separated tokens of A-Z a-z 0-9 _ = / -, at most 1,024 characters"
        )
    return name


def check_pattern(pattern: str, field: str = "pattern") -> str:
    """A name in which `*` stands for one token and a last `>` for the rest. Raises: InvalidRequest."""
    if not _PATTERN.fullmatch(pattern) or len(pattern) > _NAME_CHARACTERS_MAX:
        raise refused(
            field,
            f"{pattern[:80]!r} is no pattern: a name in which * stands for one token and a last > for one or more",
        )
    return pattern


def check_prefix(prefix: str, field: str = "prefix") -> str:
    """Whole tokens, or nothing for everything. Raises: InvalidRequest."""
    return check_name(prefix, field) if prefix else prefix


def is_literal(pattern: str) -> bool:
    return "*" not in pattern and ">" not in pattern


def pattern_matches(pattern: Sequence[str], subject: Sequence[str]) -> bool:
    """Whether the tokens of a pattern match those of a subject."""
    for number, token in enumerate(pattern):
        if token == _REST:
            return len(subject) > number
        if number >= len(subject) or token not in ("*", subject[number]):
            return False
    return len(pattern) == len(subject)


def prefix_of(pattern: str) -> str:
    """The literal tokens before the first wildcard; empty when it begins with one."""
    literal: list[str] = []
    for token in pattern.split("."):
        if token in ("*", ">"):
            break
        literal.append(token)
    return ".".join(literal)


class _Node(Generic[Listener]):
    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Listener]] = {}
        self.here: list[Listener] = []
        self.rest: list[Listener] = []


class Listeners(Generic[Listener]):
    """Who listens to which pattern: a tree by token, so that finding costs the depth of the subject.

    Answers are remembered until the next change; listeners come in the order in which they were added per pattern.
    """

    def __init__(self) -> None:
        self._root: _Node[Listener] = _Node()
        self._count = 0
        self._cache: dict[str, tuple[Listener, ...]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, pattern: str, listener: Listener) -> None:
        self._list_of(pattern).append(listener)
        self._count += 1
        self._cache.clear()

    def remove(self, pattern: str, listener: Listener) -> None:
        """Forget one registration. Raises: ValueError when there is none."""
        path = [self._root]
        tokens = pattern.split(".")
        for token in tokens[:-1] if tokens[-1] == ">" else tokens:
            path.append(path[-1].children[token])
        (path[-1].rest if tokens[-1] == ">" else path[-1].here).remove(listener)
        for depth in range(len(path) - 1, 0, -1):
            node = path[depth]
            if node.children or node.here or node.rest:
                break
            del path[depth - 1].children[tokens[depth - 1]]
        self._count -= 1
        self._cache.clear()

    def matching(self, subject: str) -> tuple[Listener, ...]:
        """All who listen to `subject`."""
        found = self._cache.get(subject)
        if found is None:
            collected: list[Listener] = []
            if self._count:
                self._collect(self._root, subject.split("."), 0, collected)
            found = tuple(collected)
            if len(self._cache) >= _MATCHES_CACHED_MAX:
                self._cache.clear()
            self._cache[subject] = found
        return found

    def _list_of(self, pattern: str) -> list[Listener]:
        node = self._root
        for token in pattern.split("."):
            if token == _REST:
                return node.rest
            node = node.children.setdefault(token, _Node())
        return node.here

    def _collect(self, node: _Node[Listener], tokens: Sequence[str], depth: int, found: list[Listener]) -> None:
        if depth == len(tokens):
            found.extend(node.here)
            return
        found.extend(node.rest)
        for token in (tokens[depth], "*"):
            child = node.children.get(token)
            if child is not None:
                self._collect(child, tokens, depth + 1, found)
