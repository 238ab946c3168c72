"""What can be wrong with settings, in words that name the key, where it was set, and what is expected."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meshway.kernel.errors import FieldError, InvalidRequest

__all__ = ["Problem", "SettingsError", "suggestion"]


@dataclass(frozen=True, slots=True)
class Problem:
    """`key` is dotted; `source` is a file with its line, a variable or a flag."""

    key: str
    source: str
    message: str

    def __str__(self) -> str:
        # A flag is its key: `--port: port: ...` would say it twice.
        says_key = bool(self.key) and not self.source.startswith("--")
        return f"{self.source}: {self.key}: {self.message}" if says_key else f"{self.source}: {self.message}"


class SettingsError(InvalidRequest):
    """The hub cannot start with these settings. Names every problem, not only the first; `fields` has them by key."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "\n".join(str(problem) for problem in problems),
            fields=[FieldError(problem.key, problem.message) for problem in problems],
        )


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """` Did you mean ...?`, or nothing when nothing comes close."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""
