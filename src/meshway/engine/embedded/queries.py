"""Named SQL statements, read from the `.sql` files beside this module.

A file is a list of statements, each introduced by `-- name: <name>`, followed by comment lines that say its purpose
and the index it uses. A statement with one `VALUES (?, ...)` group can be widened to many rows: one step of SQLite
for a whole batch, because each step gives the interpreter lock away and may wait long to get it back.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources

__all__ = ["Queries", "SqlValue", "Statement", "insert_rows", "load_queries", "read_sql"]

SqlValue = int | str | bytes | None

# Every multiple would be one more prepared statement; powers of two keep them few.
_ROWS_PER_STATEMENT_MAX = 64
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_ROW = re.compile(r"VALUES\s*(\((?:\s*\?\s*,?)+\))")


class Statement:
    """One named statement."""

    __slots__ = ("_widened", "name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self._widened: dict[int, str] = {1: text}

    def for_rows(self, count: int) -> str:
        """The same statement with `count` rows of values."""
        text = self._widened.get(count)
        if text is None:
            text, replaced = _ROW.subn(lambda match: "VALUES " + ", ".join([match.group(1)] * count), self.text)
            if replaced != 1:
                raise ValueError(f"{self.name} has no single VALUES group of placeholders and cannot be widened")
            self._widened[count] = text
        return text


class Queries:
    """The statements of one file, by name."""

    def __init__(self, statements: Iterable[Statement]) -> None:
        self._statements = {statement.name: statement for statement in statements}

    def __getitem__(self, name: str) -> Statement:
        return self._statements[name]

    def __iter__(self) -> Iterator[Statement]:
        return iter(self._statements.values())

    def text(self, name: str) -> str:
        return self._statements[name].text


def load_queries(file_name: str) -> Queries:
    """Statements of `sql/<file_name>`."""
    content = read_sql(file_name)
    parts = _NAME.split(content)[1:]
    return Queries(Statement(name, _without_comments(body)) for name, body in zip(parts[::2], parts[1::2], strict=True))


def read_sql(file_name: str) -> str:
    """A whole SQL file as text."""
    return resources.files(__package__).joinpath("sql", file_name).read_text(encoding="utf-8")


def insert_rows(connection: sqlite3.Connection, statement: Statement, rows: Sequence[Sequence[SqlValue]]) -> None:
    """Run `statement` for all rows in as few steps as possible."""
    begin = 0
    left = len(rows)
    size = _ROWS_PER_STATEMENT_MAX
    while left:
        while size > left:
            size >>= 1
        values = [value for row in rows[begin : begin + size] for value in row]
        connection.execute(statement.for_rows(size), values)
        begin += size
        left -= size


def _without_comments(body: str) -> str:
    lines = (line for line in body.strip().splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(lines).strip().rstrip(";")
