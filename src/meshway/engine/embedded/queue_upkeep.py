"""Administration of queues in the writer: settings, purge, redrive, removal, and the sweep of what has expired."""

import sqlite3

from meshway.engine.embedded.log_search import decode_headers
from meshway.engine.embedded.queries import Queries
from meshway.engine.embedded.queue_append import QueueAppends
from meshway.engine.embedded.queue_books import QueueBook, QueueBooks, encode_settings
from meshway.engine.embedded.queue_calls import ConfigureCall, PurgeCall, QueueSweep, RedriveCall, RemoveCall
from meshway.engine.embedded.queue_life import MessageEnd, MessageState, check_move, first_state
from meshway.engine.embedded.queue_rows import QueueRows
from meshway.engine.ports import Priority, QueueAppend

__all__ = ["QueueUpkeep"]

# Rows touched by one call: others' writes wait for no more than this.
_PART = 1_000


class QueueUpkeep:
    """The writer's thread only."""

    def __init__(
        self, queries: Queries, books: QueueBooks, rows: QueueRows, appends: QueueAppends, *, window_ms: int
    ) -> None:
        self._queries = queries
        self._books = books
        self._rows = rows
        self._appends = appends
        self._window_ms = window_ms

    def configure(self, connection: sqlite3.Connection, call: ConfigureCall, now_ms: int) -> None:
        book = self._books.open(connection, call.queue)
        was_ordered = book.settings.ordered
        book.settings = call.settings
        book.configured = True
        connection.execute(self._queries.text("set_settings"), (encode_settings(call.settings), book.queue_id))
        if was_ordered is not call.settings.ordered and book.messages:
            name = "rank_all_equal" if call.settings.ordered else "rank_by_priority"
            connection.execute(self._queries.text(name), (book.queue_id,))
            self._reorder(connection, book, now_ms)

    def purge(self, connection: sqlite3.Connection, call: PurgeCall, newest: int, now_ms: int) -> None:
        call.dropped = 0
        call.more = False
        call.up_to = newest if call.up_to is None else call.up_to
        book = self._books.known(call.queue)
        if book is None:
            return
        rows = self._rows.read(connection, "rows_of_queue", (book.queue_id, call.up_to, _PART))
        self._rows.end(connection, rows, MessageEnd.PURGED, now_ms)
        call.dropped = len(rows)
        call.more = len(rows) == _PART

    def redrive(self, connection: sqlite3.Connection, call: RedriveCall, now_ms: int) -> None:
        book = self._books.known(call.queue)
        outcomes: list[bool] = []
        for message_id in call.message_ids:
            found = None
            if book is not None:
                found = connection.execute(self._queries.text("find_dead"), (book.queue_id, message_id)).fetchone()
            outcomes.append(found is not None)
            if book is None or found is None:
                continue
            dead_id, _message_id, priority, _enqueued_at_ms, ordering_key, headers, data = found
            connection.execute(self._queries.text("delete_dead"), (dead_id,))
            book.dead -= 1
            message = QueueAppend(
                queue=call.queue,
                message_id=message_id,
                data=data,
                headers=decode_headers(headers),
                priority=Priority(priority),
                ordering_key=ordering_key,
            )
            self._appends.add_again(connection, book, message, now_ms)
        call.outcomes = outcomes

    def remove(self, connection: sqlite3.Connection, call: RemoveCall) -> None:
        call.more = False
        book = self._books.known(call.queue)
        if book is None:
            return
        deleted = connection.execute(self._queries.text("delete_dead_of_queue"), (book.queue_id, _PART)).rowcount
        book.dead -= deleted
        # Messages that came after the purge are purged in another round.
        call.more = deleted == _PART or book.messages > 0
        if not call.more:
            connection.execute(self._queries.text("delete_dedupe_of_queue"), (book.queue_id,))
            connection.execute(self._queries.text("delete_queue"), (book.queue_id,))
            self._books.remove(book)

    def sweep(self, connection: sqlite3.Connection, call: QueueSweep, now_ms: int) -> None:
        expired = self._rows.read(connection, "expired_rows", (now_ms, _PART))
        self._rows.end(connection, expired, MessageEnd.EXPIRED, now_ms)
        deduped = connection.execute(self._queries.text("delete_dedupe"), (now_ms, _PART)).rowcount
        old = connection.execute(self._queries.text("old_recent"), (10 * _PART, now_ms - self._window_ms)).fetchone()[0]
        if old is not None:
            connection.execute(self._queries.text("delete_recent"), (old,))
        call.more = len(expired) == _PART or deduped == _PART

    def _reorder(self, connection: sqlite3.Connection, book: QueueBook, now_ms: int) -> None:
        """Block all but the oldest message of each key, or none, as the new settings say. Held ones stay held."""
        heads: set[str] = set()
        moves: list[tuple[int, int | None, bytes | None, int]] = []
        rows = connection.execute(self._queries.text("keyed_rows"), (book.queue_id,)).fetchall()
        for row, state_number, key, deliver_at_ms, _priority, visible_at_ms, history in rows:
            state = MessageState(state_number)
            is_behind = book.settings.ordered and key in heads
            heads.add(key)
            if state is MessageState.LEASED or is_behind is (state is MessageState.BLOCKED):
                continue
            after = first_state(deliver_at_ms, now_ms, is_behind=is_behind)
            check_move(state, after)
            visible_at_ms = deliver_at_ms if after is MessageState.DELAYED else None
            moves.append((int(after), visible_at_ms, history, row))
            book.move(state, after)
            if after is MessageState.WAITING:
                self._rows.is_ready(book)
            elif visible_at_ms is not None:
                self._rows.is_due_at(visible_at_ms)
        connection.executemany(self._queries.text("set_state"), moves)
