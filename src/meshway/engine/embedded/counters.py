"""Numbers that rise for ever: revisions, positions, rows. Reserved in blocks, so that most groups store nothing."""

import sqlite3

__all__ = ["Counter"]

# How far a number may jump at a restart, against one more page written each time a block is used up.
_BLOCK = 65_536


class Counter:
    """One number; the writer's thread only. Numbers of a transaction that was rolled back are skipped."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        found = connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        self._name = name
        self._last: int = found[0] if found else 0
        self._reserved = self._last

    @property
    def last(self) -> int:
        """The last number given out, or reserved before the database was opened."""
        return self._last

    def has(self, count: int) -> bool:
        """Whether `count` numbers are left without storing anything."""
        return self._last + count <= self._reserved

    def take(self, connection: sqlite3.Connection, count: int) -> int:
        """The first of `count` new numbers in a row; inside a transaction."""
        if not self.has(count):
            self._reserved = self._last + count + _BLOCK
            connection.execute(
                "INSERT OR REPLACE INTO counters (name, value) VALUES (?, ?)",
                (self._name, self._reserved),
            )
        first = self._last + 1
        self._last += count
        return first

    def rolled_back(self) -> None:
        """The reservation may not have been stored: the next `take` makes another."""
        self._reserved = self._last
