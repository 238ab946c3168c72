"""Keeps the write-ahead log small: folds it into the database before it grows past its bound.

Two steps, because one alone either stops the writer or never ends under constant writing: a helper thread copies most
of the log while writing goes on; then the writer, between two groups, copies the little that came meanwhile. After
that the log is overwritten from its beginning.
"""

import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

__all__ = ["Checkpoints"]

# Each call dirties a few pages whatever its payload; an overestimate only checkpoints a little early.
_PAGE_BYTES = 4096
_log = structlog.get_logger()


class Checkpoints:
    """`wrote` and `fold_now` belong to the writer's thread; the helper thread only copies."""

    def __init__(self, wal: Path, connect: Callable[[], sqlite3.Connection], *, log_bytes_max: int) -> None:
        self.wal = wal
        self._connect = connect
        self._log_bytes_max = log_bytes_max
        self._written = 0
        self._copying = False
        self._copied = False
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="meshway-checkpoint", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the helper; blocks until it has ended."""
        if self._thread.is_alive():
            self._orders.put(False)
            self._thread.join()

    def wrote(self, connection: sqlite3.Connection, payload_bytes: int) -> None:
        """Count what a group wrote and fold the log when it is due."""
        self._written += payload_bytes + _PAGE_BYTES
        if self._copied:
            self._copied = False
            self._copying = False
            self.fold_now(connection)
        elif self._written > self._log_bytes_max and not self._copying:
            self._copying = True
            self._orders.put(True)

    def fold_now(self, connection: sqlite3.Connection) -> None:
        """Copy what is left. Failing is harmless: the log grows and the next round tries again."""
        try:
            _busy, log_pages, copied_pages = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            _log.warning("engine_checkpoint_failed", error=str(error))
            self._written = 0
            return
        self._written = (log_pages - copied_pages) * _PAGE_BYTES

    def _run(self) -> None:
        connection = self._connect()
        try:
            while self._orders.get():
                try:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                except sqlite3.Error as error:
                    _log.warning("engine_checkpoint_failed", error=str(error))
                self._copied = True
        finally:
            connection.close()
