"""What a process of a crash test saw and did, line by line in a file that survives a SIGKILL of the process."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Entry", "Journal", "JournalReader", "read_journals"]


class Entry(NamedTuple):
    """`at_ns`: epoch nanoseconds, by the clock that the processes of one machine share."""

    at_ns: int
    process: str
    event: str
    facts: dict

    @property
    def at_ms(self) -> int:
        return self.at_ns // 1_000_000


class Journal:
    """Each line is in the hands of the kernel when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: str, **facts: object) -> None:
        os.write(self._file, json.dumps([time.time_ns(), event, facts]).encode() + b"\n")


class JournalReader:
    """Reads what was written since it read last, so that who asks again and again reads every line once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._entries: dict[Path, list[Entry]] = {}

    def entries(self) -> list[Entry]:
        """As `read_journals`."""
        for path in self._folder.glob("*.journal"):
            begin = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(begin)
                text = file.read()
            whole = text.rfind(b"\n") + 1
            self._read[path] = begin + whole
            self._entries.setdefault(path, []).extend(_read(path, text[:whole]))
        return [entry for path in sorted(self._entries) for entry in self._entries[path]]


def read_journals(folder: Path) -> Iterator[Entry]:
    """All processes, each in its order. The last line of a killed process may be torn, and counts for nothing."""
    yield from JournalReader(folder).entries()


def _read(path: Path, lines: bytes) -> Iterator[Entry]:
    for line in lines.splitlines():
        at_ns, event, facts = json.loads(line)
        yield Entry(at_ns, path.stem, event, facts)
