"""Every named query uses the index it says it does: none reads a whole table, none sorts what an index has in order."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshway.engine.embedded.database import open_database
from meshway.engine.embedded.queries import Statement, load_queries

FILES = ["kv.sql", "log.sql", "queue.sql", "blobs.sql", "copy.sql"]
# Read once, when the database is opened; the others read the first rows of a table, in its order.
WHOLE_TABLE_ALLOWED = {"all_queues", "all_counts", "all_dead_counts", "load_recent", "old_recent", "is_sweep_due"}
# Of a copy to another engine, which reads everything.
WHOLE_TABLE_ALLOWED |= {"counts", "traces", "largest", "highest"}
# A run of the index is sorted on purpose, a page is merged from five states, and two serve rare administration.
SORTING_ALLOWED = {"index_entries", "peek", "keyed_rows"}
QUERIES = [(file, statement) for file in FILES for statement in load_queries(file)]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path: Path = tmp_path_factory.mktemp("plans") / "meshway.db"
    connection = open_database(path, cache_bytes=1 << 20, check_bytes_max=0)
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("file", "statement"), QUERIES, ids=[f"{file}:{statement.name}" for file, statement in QUERIES]
)
def test_a_query_finds_its_rows_by_an_index(database: sqlite3.Connection, file: str, statement: Statement) -> None:
    numbers = re.findall(r"\?(\d)", statement.text)
    count = int(max(numbers)) if numbers else statement.text.count("?")
    plan = database.execute(f"EXPLAIN QUERY PLAN {statement.text}", [1] * count).fetchall()
    steps = [step for *_numbers, step in plan]
    scans = [step for step in steps if step.startswith("SCAN") and "json_each" not in step and "subquery" not in step]
    assert not scans or statement.name in WHOLE_TABLE_ALLOWED
    assert not any("TEMP B-TREE" in step for step in steps) or statement.name in SORTING_ALLOWED


def test_every_query_says_its_purpose_and_its_index() -> None:
    folder = Path(__file__).parents[3] / "src" / "meshway" / "engine" / "embedded" / "sql"
    for file in [*FILES, "recent.sql"]:
        for block in (folder / file).read_text().split("-- name: ")[1:]:
            name = block.split("\n", 1)[0]
            assert "-- Purpose: " in block, f"{file}: {name}"
            assert "Index: " in block or name.startswith("create_"), f"{file}: {name}"
