"""Appending to queues: filters repetitions, minds the capacity, and puts each message into its first state."""

import json
import sqlite3
from collections.abc import Sequence

import msgspec

from meshway.engine.embedded.counters import Counter
from meshway.engine.embedded.kv_store import whole_seconds
from meshway.engine.embedded.queries import Queries, SqlValue, insert_rows
from meshway.engine.embedded.queue_books import QueueBook, QueueBooks
from meshway.engine.embedded.queue_calls import AppendCall
from meshway.engine.embedded.queue_life import MessageState, first_state, rank_of
from meshway.engine.embedded.queue_rows import QueueRows
from meshway.engine.embedded.recent_ids import IdDigest, RecentIds, digest_of
from meshway.engine.ports import Enqueued, QueueAppend, QueueFull, QueueOutcome

__all__ = ["QueueAppends"]


_KEPT = Enqueued(duplicate=False)
_KNOWN = Enqueued(duplicate=True)


class _Rows:
    """What a group adds, table by table."""

    __slots__ = ("dedupe", "digests", "messages", "states")

    def __init__(self) -> None:
        self.messages: list[Sequence[SqlValue]] = []
        self.states: list[Sequence[SqlValue]] = []
        self.digests: list[IdDigest] = []
        self.dedupe: list[Sequence[SqlValue]] = []


class QueueAppends:
    """The writer's thread only."""

    def __init__(
        self, queries: Queries, books: QueueBooks, rows: QueueRows, numbers: Counter, recent: RecentIds
    ) -> None:
        self._queries = queries
        self._books = books
        self._rows = rows
        self._numbers = numbers
        self._recent = recent

    def append(self, connection: sqlite3.Connection, calls: Sequence[AppendCall], now_ms: int) -> None:
        digests = [digest_of("queue", message.queue, message.message_id) for call in calls for message in call.messages]
        known: set[IdDigest] = set(self._recent.find(connection, digests, now_ms))
        deduped = self._known_dedupe_ids(connection, calls, now_ms)
        added = _Rows()
        next_digest = iter(digests)
        keys: set[tuple[int, str]] = set()
        for call in calls:
            outcomes: list[QueueOutcome] = []
            for message in call.messages:
                digest = next(next_digest)
                book = self._books.open(connection, message.queue)
                dedupe = (book.queue_id, message.dedupe_id)
                if digest in known or dedupe in deduped:
                    outcomes.append(_KNOWN)
                    continue
                headers = msgspec.json.encode(message.headers) if message.headers else None
                size = len(message.data) + (len(headers) if headers else 0)
                limit = _reached_limit(book, size)
                if limit is not None:
                    outcomes.append(QueueFull(limit=limit))
                    continue
                self._add(connection, added, book, message, (headers, size, now_ms), keys)
                known.add(digest)
                added.digests.append(digest)
                if message.dedupe_id is not None:
                    deduped.add(dedupe)
                    added.dedupe.append((*dedupe, now_ms + book.settings.dedupe_window_ms))
                outcomes.append(_KEPT)
            call.outcomes = outcomes
        self._insert(connection, added, now_ms)

    def add_again(self, connection: sqlite3.Connection, book: QueueBook, message: QueueAppend, now_ms: int) -> None:
        """A redriven message: no filter, no capacity, at the end of the queue."""
        headers = msgspec.json.encode(message.headers) if message.headers else None
        size = len(message.data) + (len(headers) if headers else 0)
        added = _Rows()
        self._add(connection, added, book, message, (headers, size, now_ms), set())
        self._insert(connection, added, now_ms)

    def load_recent(self, connection: sqlite3.Connection, since_ms: int) -> None:
        """Remember the ids of before the start."""
        rows = connection.execute(self._queries.text("load_recent"), (since_ms,))
        self._recent.load(connection, ((digest, rest, at_ms, 0, 0) for digest, rest, at_ms in rows))

    def _add(
        self,
        connection: sqlite3.Connection,
        added: _Rows,
        book: QueueBook,
        message: QueueAppend,
        facts: tuple[bytes | None, int, int],
        keys: set[tuple[int, str]],
    ) -> None:
        headers, size, now_ms = facts
        key = message.ordering_key
        is_behind = False
        if key is not None and book.settings.ordered:
            is_behind = (book.queue_id, key) in keys or self._rows.has_key(connection, book.queue_id, key)
            keys.add((book.queue_id, key))
        state = first_state(message.deliver_at_ms, now_ms, is_behind=is_behind)
        visible_at_ms = message.deliver_at_ms if state is MessageState.DELAYED else None
        row = self._numbers.take(connection, 1)
        priority = int(message.priority)
        rank = rank_of(message.priority, book.settings)
        added.messages.append((row, book.queue_id, priority, now_ms, message.message_id, key, headers, message.data))
        expires_at_ms = _expiry(book, message, now_ms)
        added.states.append(
            (row, book.queue_id, int(state), rank, visible_at_ms, message.deliver_at_ms, expires_at_ms, 0, size, key)
        )
        book.counts[state] += 1
        book.size += size
        if state is MessageState.WAITING:
            self._rows.is_ready(book)
        elif visible_at_ms is not None:
            self._rows.is_due_at(visible_at_ms)

    def _insert(self, connection: sqlite3.Connection, added: _Rows, now_ms: int) -> None:
        if not added.messages:
            return
        insert_rows(connection, self._queries["insert_messages"], added.messages)
        insert_rows(connection, self._queries["insert_states"], added.states)
        if added.digests:
            digests = [(now_ms, *digest) for digest in added.digests]
            insert_rows(connection, self._queries["insert_recent"], digests)
            self._recent.remember(connection, [(*digest, now_ms, 0, 0) for digest in added.digests], now_ms)
        if added.dedupe:
            insert_rows(connection, self._queries["insert_dedupe"], added.dedupe)

    def _known_dedupe_ids(
        self, connection: sqlite3.Connection, calls: Sequence[AppendCall], now_ms: int
    ) -> set[tuple[int, str | None]]:
        by_queue: dict[str, list[str]] = {}
        for call in calls:
            for message in call.messages:
                if message.dedupe_id is not None:
                    by_queue.setdefault(message.queue, []).append(message.dedupe_id)
        found: set[tuple[int, str | None]] = set()
        for name, dedupe_ids in by_queue.items():
            book = self._books.known(name)
            if book is not None:
                values = (book.queue_id, json.dumps(dedupe_ids), now_ms)
                rows = connection.execute(self._queries.text("find_dedupe"), values)
                found.update((book.queue_id, dedupe_id) for (dedupe_id,) in rows)
        return found


def _reached_limit(book: QueueBook, size: int) -> str | None:
    settings = book.settings
    if settings.messages_max is not None and book.messages >= settings.messages_max:
        return "messages_max"
    if settings.bytes_max is not None and book.size + size > settings.bytes_max:
        return "bytes_max"
    return None


def _expiry(book: QueueBook, message: QueueAppend, now_ms: int) -> int | None:
    """The earlier of the message's own expiry and the queue's retention."""
    ends = []
    if message.expires_at_ms is not None:
        ends.append(now_ms + whole_seconds(message.expires_at_ms - now_ms))
    if book.settings.retention_ms is not None:
        ends.append(now_ms + whole_seconds(book.settings.retention_ms))
    return min(ends, default=None)
