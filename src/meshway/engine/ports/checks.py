"""What all adapters refuse, and how: names and patterns of the ports, and what a pattern matches."""

import re
from collections.abc import Sequence
from functools import lru_cache

from meshway.kernel.errors import FieldError, InvalidRequest

__all__ = [
    "check_between",
    "check_name",
    "check_pattern",
    "check_prefix",
    "is_literal",
    "pattern_matches",
    "prefix_of",
    "refused",
]

_NAME = re.compile(r"[A-Za-z0-9_=/-]+(?:\.[A-Za-z0-9_=/-]+)*")
_PATTERN = re.compile(r"(?:(?:[A-Za-z0-9_=/-]+|\*)\.)*(?:[A-Za-z0-9_=/-]+|\*|>)")
# A name becomes a database key and a NATS subject; servers refuse longer ones.
_NAME_CHARACTERS_MAX = 1_024
_NAMES_CACHED = 2_048
_REST = ">"


def check_between(field: str, value: int, low: int, high: int) -> None:
    """Raises: InvalidRequest naming `field` and the bounds."""
    if not low <= value <= high:
        raise refused(field, f"choose {low:,} to {high:,}")


def refused(field: str, message: str) -> InvalidRequest:
    """An argument that cannot work."""
    return InvalidRequest(f"{field}: {message}", fields=[FieldError(field, message)])


def check_name(name: str, field: str) -> str:
    """A key, subject or queue name. Raises: InvalidRequest naming `field`."""
    if not _is_name(name):
        raise refused(
            field, f"{name[:80]!r} is no name: dot-separated tokens of A-Z a-z 0-9 _ = / -, at most 1,024 characters"
        )
    return name


# Each event of a stream has its task's subject.
@lru_cache(_NAMES_CACHED)
def _is_name(name: str) -> bool:
    return len(name) <= _NAME_CHARACTERS_MAX and _NAME.fullmatch(name) is not None


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
