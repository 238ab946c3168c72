"""Ids of recent appends to the log, so that a repeated call is answered like the first.

Two generations in temporary tables of the writer's connection, in memory: they take part in its transactions (what is
rolled back was never remembered), cost no sync, and the older one is dropped whole. They are rebuilt from the log
when the database is opened.
"""

import hashlib
import sqlite3
import struct
from collections.abc import Iterable, Sequence

from meshway.engine.embedded.queries import Statement, insert_rows, load_queries

__all__ = ["IdDigest", "RecentIds", "Remembered", "digest_of"]

# 128 bits that stand for an id, as the two integers that SQLite finds fastest: the key of its row, and the rest.
IdDigest = tuple[int, int]
# Both parts of the digest, time, sequence, position.
Remembered = tuple[int, int, int, int, int]

_split = struct.Struct("qq").unpack

_FIND_ROWS_MAX = 64


class RecentIds:
    """Remembers ids for at least `window_ms`, or the last `ids_max / 2` of them. Writer's thread only."""

    def __init__(self, connection: sqlite3.Connection, *, window_ms: int, ids_max: int, now_ms: int) -> None:
        self._window_ms = window_ms
        self._generation_max = max(1, ids_max // 2)
        queries = load_queries("recent.sql")
        for name in ("create_a", "create_b"):
            connection.execute(queries.text(name))
        self._insert = (queries["insert_a"], queries["insert_b"])
        self._clear = (queries.text("clear_a"), queries.text("clear_b"))
        self._find = (queries["find_a"], queries["find_b"])
        self._current = 0
        self._count = [0, 0]
        self._begun_ms = now_ms

    def find(
        self, connection: sqlite3.Connection, digests: Sequence[IdDigest], now_ms: int
    ) -> dict[IdDigest, tuple[int, int]]:
        """Sequence and position of those that are remembered."""
        found: dict[IdDigest, tuple[int, int]] = {}
        since_ms = now_ms - self._window_ms
        for generation in (0, 1):
            if self._count[generation]:
                self._find_in(connection, self._find[generation], digests, since_ms, found)
        return found

    def remember(self, connection: sqlite3.Connection, rows: Sequence[Remembered], now_ms: int) -> None:
        """Keep ids; inside the transaction that appends what they name."""
        if self._count[self._current] >= self._generation_max or now_ms - self._begun_ms >= self._window_ms:
            self._turn(connection, now_ms)
        insert_rows(connection, self._insert[self._current], rows)
        self._count[self._current] += len(rows)

    def load(self, connection: sqlite3.Connection, rows: Iterable[Remembered]) -> None:
        """Fill at opening, the newest first, as many as one generation holds."""
        batch: list[Remembered] = []
        for row in rows:
            batch.append(row)
            if len(batch) >= self._generation_max:
                break
        insert_rows(connection, self._insert[self._current], batch)
        self._count[self._current] += len(batch)

    def _turn(self, connection: sqlite3.Connection, now_ms: int) -> None:
        # If this transaction is rolled back the counts are too high or the turn early; both only forget sooner
        # than the count demands, never within the window, because the cleared generation is older than it.
        self._current = 1 - self._current
        connection.execute(self._clear[self._current])
        self._count[self._current] = 0
        self._begun_ms = now_ms

    def _find_in(
        self,
        connection: sqlite3.Connection,
        statement: Statement,
        digests: Sequence[IdDigest],
        since_ms: int,
        found: dict[IdDigest, tuple[int, int]],
    ) -> None:
        for begin in range(0, len(digests), _FIND_ROWS_MAX):
            part = digests[begin : begin + _FIND_ROWS_MAX]
            keys = [digest for digest, _rest in part]
            # Filled up to a power of two with a repetition, so that few texts are prepared.
            keys.extend(keys[:1] * ((1 << (len(part) - 1).bit_length()) - len(part)))
            rows = connection.execute(statement.for_rows(len(keys)), [since_ms, *keys])
            for digest, rest, sequence, position in rows:
                found[(digest, rest)] = (sequence, position)


def digest_of(kind: str, name: str, message_id: str) -> IdDigest:
    """What stands for an id of a subject or queue."""
    text = f"{kind}\0{name}\0{message_id}"
    digest, rest = _split(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest())
    return digest, rest
