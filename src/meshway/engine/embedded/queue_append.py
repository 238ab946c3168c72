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
from meshway.engine.embedded.queue_ids import MessageIds, message_key, split_key
from meshway.engine.embedded.queue_life import MessageState, first_state, rank_of
from meshway.engine.embedded.queue_rows import QueueRows
from meshway.engine.ports import Enqueued, QueueAppend, QueueFull, QueueOutcome

__all__ = ["QueueAppends"]

_KEPT = Enqueued(duplicate=False)
_KNOWN = Enqueued(duplicate=True)
_WAITING = int(MessageState.WAITING)


class _Group:
    """What a group adds, table by table, and what its members have to know of each other."""

    __slots__ = ("dedupe", "deduped", "full_states", "keys", "messages", "next_row", "now_ms", "plain_states", "recent")

    def __init__(self, first_row: int, now_ms: int, deduped: set[tuple[int, str]]) -> None:
        self.next_row = first_row
        self.now_ms = now_ms
        # Dedupe ids that hold, by queue: stored ones and those of this group.
        self.deduped = deduped
        # Ordering keys of messages of this group, by queue: they are not in the database yet.
        self.keys: set[tuple[int, str]] = set()
        self.messages: list[Sequence[SqlValue]] = []
        # Of messages that are due at once and nothing else: they leave most columns empty, which saves a tenth.
        self.plain_states: list[Sequence[SqlValue]] = []
        self.full_states: list[Sequence[SqlValue]] = []
        self.recent: list[Sequence[SqlValue]] = []
        self.dedupe: list[Sequence[SqlValue]] = []


class QueueAppends:
    """The writer's thread only."""

    def __init__(
        self, queries: Queries, books: QueueBooks, rows: QueueRows, numbers: Counter, recent: MessageIds
    ) -> None:
        self._queries = queries
        self._books = books
        self._rows = rows
        self._numbers = numbers
        self._recent = recent

    def append(self, connection: sqlite3.Connection, calls: Sequence[AppendCall], now_ms: int) -> None:
        count = sum([len(call.messages) for call in calls])
        deduped = self._known_dedupe_ids(connection, calls, now_ms)
        # One number for each, whether or not it is needed: rows may have gaps.
        group = _Group(self._numbers.take(connection, count), now_ms, deduped)
        book: QueueBook | None = None
        for call in calls:
            outcomes: list[QueueOutcome] = []
            # Queues that refused a message of this call: what follows it there is refused too, to keep the order.
            full: dict[str, QueueFull] = {}
            for message in call.messages:
                if book is None or book.name != message.queue:
                    book = self._books.open(connection, message.queue)
                outcome = self._append_one(connection, group, book, message, full)
                outcomes.append(outcome)
                if outcome.__class__ is QueueFull:
                    full[message.queue] = outcome
            call.outcomes = outcomes
        self._insert(connection, group)

    def add_again(self, connection: sqlite3.Connection, book: QueueBook, message: QueueAppend, now_ms: int) -> None:
        """A redriven message: no filter, no capacity, at the end of the queue."""
        headers = msgspec.json.encode(message.headers) if message.headers else None
        size = len(message.data) + (len(headers) if headers else 0)
        group = _Group(self._numbers.take(connection, 1), now_ms, set())
        self._add(connection, group, book, message, (headers, size))
        self._insert(connection, group)

    def load_recent(self, connection: sqlite3.Connection, since_ms: int) -> None:
        """Remember the ids of before the start."""
        self._recent.load(connection.execute(self._queries.text("load_recent"), (since_ms,)))

    def _append_one(
        self,
        connection: sqlite3.Connection,
        group: _Group,
        book: QueueBook,
        message: QueueAppend,
        full: dict[str, QueueFull],
    ) -> QueueOutcome:
        now_ms = group.now_ms
        key = message_key(book.queue_id, message.message_id) if message.is_repeatable else None
        if key is not None and not self._recent.add(key, now_ms):
            return _KNOWN
        dedupe_id = message.dedupe_id
        if dedupe_id is not None and (book.queue_id, dedupe_id) in group.deduped:
            self._forget(key)
            return _KNOWN
        headers = msgspec.json.encode(message.headers) if message.headers else None
        size = len(message.data) + (len(headers) if headers else 0)
        if full or book.is_bounded:
            refused = full.get(book.name) or _reached_limit(book, size)
            if refused is not None:
                self._forget(key)
                return refused
        self._add(connection, group, book, message, (headers, size))
        if key is not None:
            group.recent.append((now_ms, *split_key(key)))
        if dedupe_id is not None:
            group.deduped.add((book.queue_id, dedupe_id))
            group.dedupe.append((book.queue_id, dedupe_id, now_ms + book.settings.dedupe_window_ms))
        return _KEPT

    def _forget(self, key: bytes | None) -> None:
        """The id of a message that was not kept after all."""
        if key is not None:
            self._recent.discard_last()

    def _add(
        self,
        connection: sqlite3.Connection,
        group: _Group,
        book: QueueBook,
        message: QueueAppend,
        content: tuple[bytes | None, int],
    ) -> None:
        headers, size = content
        row = group.next_row
        group.next_row = row + 1
        now_ms = group.now_ms
        queue_id = book.queue_id
        settings = book.settings
        key = message.ordering_key
        priority = int(message.priority)
        group.messages.append((row, queue_id, priority, now_ms, message.message_id, key, headers, message.data))
        book.size += size
        rank = rank_of(priority, settings)
        is_untimed = message.deliver_at_ms is None and message.expires_at_ms is None and settings.retention_ms is None
        if key is None and is_untimed:
            group.plain_states.append((row, queue_id, _WAITING, rank, 0, size))
            book.counts[_WAITING] += 1
            self._rows.is_ready(book)
            return
        state = first_state(message.deliver_at_ms, now_ms, is_behind=self._is_behind(connection, group, book, key))
        visible_at_ms = message.deliver_at_ms if state is MessageState.DELAYED else None
        expires_at_ms = _expiry(book, message, now_ms)
        group.full_states.append(
            (row, queue_id, int(state), rank, visible_at_ms, message.deliver_at_ms, expires_at_ms, 0, size, key)
        )
        book.counts[state] += 1
        if state is MessageState.WAITING:
            self._rows.is_ready(book)
        elif visible_at_ms is not None:
            self._rows.is_due_at(visible_at_ms)

    def _is_behind(self, connection: sqlite3.Connection, group: _Group, book: QueueBook, key: str | None) -> bool:
        """Whether an older message of an ordered queue has this ordering key."""
        if key is None or not book.settings.ordered:
            return False
        known = (book.queue_id, key)
        if known in group.keys:
            return True
        group.keys.add(known)
        return self._rows.has_key(connection, book.queue_id, key)

    def _insert(self, connection: sqlite3.Connection, group: _Group) -> None:
        queries = self._queries
        for name, rows in (
            ("insert_messages", group.messages),
            ("insert_plain_states", group.plain_states),
            ("insert_states", group.full_states),
            ("insert_recent", group.recent),
            ("insert_dedupe", group.dedupe),
        ):
            if rows:
                insert_rows(connection, queries[name], rows)

    def _known_dedupe_ids(
        self, connection: sqlite3.Connection, calls: Sequence[AppendCall], now_ms: int
    ) -> set[tuple[int, str]]:
        by_queue: dict[str, list[str]] = {}
        for call in calls:
            for message in call.messages:
                if message.dedupe_id is not None:
                    by_queue.setdefault(message.queue, []).append(message.dedupe_id)
        found: set[tuple[int, str]] = set()
        for name, dedupe_ids in by_queue.items():
            book = self._books.known(name)
            if book is not None:
                values = (book.queue_id, json.dumps(dedupe_ids), now_ms)
                rows = connection.execute(self._queries.text("find_dedupe"), values)
                found.update((book.queue_id, dedupe_id) for (dedupe_id,) in rows)
        return found


def _reached_limit(book: QueueBook, size: int) -> QueueFull | None:
    settings = book.settings
    if settings.messages_max is not None and book.messages >= settings.messages_max:
        return QueueFull(limit="messages_max")
    if settings.bytes_max is not None and book.size + size > settings.bytes_max:
        return QueueFull(limit="bytes_max")
    return None


def _expiry(book: QueueBook, message: QueueAppend, now_ms: int) -> int | None:
    """The earlier of the message's own expiry and the queue's retention."""
    ends = []
    if message.expires_at_ms is not None:
        ends.append(now_ms + whole_seconds(message.expires_at_ms - now_ms))
    if book.settings.retention_ms is not None:
        ends.append(now_ms + whole_seconds(book.settings.retention_ms))
    return min(ends, default=None)
