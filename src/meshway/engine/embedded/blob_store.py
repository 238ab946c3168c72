"""The writer's side of Blobs: which contents are there, and until when. The contents are files, see `blobs.py`."""

import json
import sqlite3
from collections.abc import Sequence

from meshway.engine.embedded.queries import load_queries
from meshway.engine.embedded.writer import Publish, WriteCall
from meshway.engine.ports import BlobRef

__all__ = ["BlobForget", "BlobPut", "BlobStore"]


class BlobPut(WriteCall):
    """The file is in place: make the blob visible."""

    __slots__ = ("expires_at_ms", "ref")

    ref: BlobRef
    expires_at_ms: int | None


class BlobForget(WriteCall):
    """Remove names, all of them or only those whose time is over; `forgotten` are gone."""

    __slots__ = ("forgotten", "only_expired", "sha256")

    sha256: Sequence[str]
    only_expired: bool
    forgotten: Sequence[str]


class BlobStore:
    """Writer's thread only."""

    def __init__(self) -> None:
        self._queries = load_queries("blobs.sql")

    def apply_alone(self, connection: sqlite3.Connection, calls: Sequence[WriteCall], now_ms: int) -> Publish | None:
        return None

    def apply(self, connection: sqlite3.Connection, calls: Sequence[WriteCall], now_ms: int) -> Publish | None:
        for call in calls:
            if isinstance(call, BlobPut):
                values = (call.ref.sha256, call.ref.size, call.expires_at_ms)
                connection.execute(self._queries.text("put"), values)
            elif isinstance(call, BlobForget) and call.only_expired:
                query = self._queries.text("delete_expired")
                call.forgotten = [
                    sha256 for sha256 in call.sha256 if connection.execute(query, (sha256, now_ms)).rowcount
                ]
            elif isinstance(call, BlobForget):
                connection.execute(self._queries.text("delete"), (json.dumps(list(call.sha256)),))
                call.forgotten = call.sha256
        return None

    def rolled_back(self) -> None:
        """It remembers nothing."""
