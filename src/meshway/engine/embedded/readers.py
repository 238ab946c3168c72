"""The read connections, each with a thread of its own, so that no read blocks the loop."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from meshway.engine.embedded.database import connect, translate
from meshway.kernel.errors import EngineUnavailable

__all__ = ["Readers"]

Found = TypeVar("Found")


class Readers:
    """Runs functions of a connection. Each run sees one state of the database, later than every answered write."""

    def __init__(self, path: Path, *, threads: int, cache_bytes: int) -> None:
        self._path = path
        self._cache_bytes = cache_bytes
        self._mine = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="meshway-reader", initializer=self._open)

    async def run(self, read: Callable[[sqlite3.Connection], Found]) -> Found:
        """`read` in a reader's thread. Raises: EngineUnavailable, StoreCorrupt."""
        if self._closed:
            raise EngineUnavailable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, read)

    async def close(self) -> None:
        """Wait for running reads and let go of the file. Idempotent."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown)
        while self._connections:
            self._connections.pop().close()

    def _open(self) -> None:
        connection = connect(self._path, cache_bytes=self._cache_bytes)
        connection.execute("PRAGMA query_only = ON")
        self._mine.connection = connection
        self._connections.append(connection)

    def _read(self, read: Callable[[sqlite3.Connection], Found]) -> Found:
        connection: sqlite3.Connection = self._mine.connection
        try:
            connection.execute("BEGIN")
            try:
                return read(connection)
            finally:
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise translate(error) from error
