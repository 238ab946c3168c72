"""Moves of stored messages, each by the table of `queue_life`: the steps that all queue operations share."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from meshway.engine.embedded.log_search import decode_headers
from meshway.engine.embedded.queries import Queries
from meshway.engine.embedded.queue_books import QueueBook, QueueBooks
from meshway.engine.embedded.queue_life import MessageEnd, MessageState, check_move, first_state
from meshway.engine.ports import AttemptRecord, Priority, QueuedMessage
from meshway.kernel.retry import LEASE_RAN_OUT, is_exhausted

__all__ = ["MessageColumns", "QueueRows", "StateRow", "add_attempt", "decode_history", "queued_message"]

# The port promises the last 16 attempts.
_ATTEMPTS_KEPT = 16
# Messages that become due in one group; the rest follows in the next, a moment later.
_DUE_MAX = 1_000
# Message id, data, headers (JSON or None), priority, time of append, ordering key.
MessageColumns = tuple[str, bytes, bytes | None, int, int, str | None]

_history_decoder = msgspec.json.Decoder(list[AttemptRecord])


class StateRow(NamedTuple):
    """One row of queue_states, in the order of the queries that read it whole."""

    row: int
    queue_id: int
    state: int
    attempt: int
    nonce: int | None
    visible_at_ms: int | None
    leased_at_ms: int | None
    size: int
    ordering_key: str | None
    history: bytes | None
    deliver_at_ms: int | None


class QueueRows:
    """The writer's thread only."""

    def __init__(self, connection: sqlite3.Connection, queries: Queries, books: QueueBooks) -> None:
        self._queries = queries
        self._books = books
        # Queues in which messages became due in this transaction, and how many.
        self._ready: dict[str, int] = {}
        # Never later than the true one, so that nothing is overlooked; None when nothing waits for a time.
        self.next_due_ms: int | None = None
        self.read_next_due(connection)

    def is_ready(self, book: QueueBook, count: int = 1) -> None:
        self._ready[book.name] = self._ready.get(book.name, 0) + count

    def take_ready(self) -> dict[str, int]:
        """What became due in this transaction and was not handed out in it: so many waiting callers may try."""
        ready, self._ready = self._ready, {}
        left = {name: min(count, self._books.waiting(name)) for name, count in ready.items()}
        return {name: count for name, count in left.items() if count}

    def rolled_back(self) -> None:
        self._ready = {}

    def is_due_at(self, visible_at_ms: int) -> None:
        if self.next_due_ms is None or visible_at_ms < self.next_due_ms:
            self.next_due_ms = visible_at_ms

    def read_next_due(self, connection: sqlite3.Connection) -> None:
        self.next_due_ms = connection.execute(self._queries.text("next_due")).fetchone()[0]

    def wake_due(self, connection: sqlite3.Connection, now_ms: int) -> None:
        """Delays, back-offs and leases that are over: their messages wait for a lease again."""
        if self.next_due_ms is None or self.next_due_ms > now_ms:
            return
        due = self.read(connection, "due_rows", (now_ms, _DUE_MAX))
        plain = [row for row in due if row.state != MessageState.LEASED]
        if plain:
            rows = json.dumps([row.row for row in plain])
            connection.execute(self._queries.text("wake_rows"), (rows,))
        for row in due:
            if row.state == MessageState.LEASED:
                self._end_lease(connection, row, now_ms)
            else:
                book = self._books.by_id(row.queue_id)
                book.move(row.state, MessageState.WAITING)
                self.is_ready(book)
        self.read_next_due(connection)

    def _end_lease(self, connection: sqlite3.Connection, row: StateRow, now_ms: int) -> None:
        """Nobody said anything: the lease's own end is when the attempt ended. Due again, but for the last one."""
        book = self._books.by_id(row.queue_id)
        settings = book.settings
        history = add_attempt(row, row.visible_at_ms or now_ms, "expired", LEASE_RAN_OUT)
        ending = None
        if settings.attempts_max is not None:
            ending = is_exhausted(settings.attempts_max, row.attempt + 1)
        if ending is None:
            self.move(connection, row, MessageState.WAITING, None, history)
        elif settings.dead_letters:
            connection.execute(self._queries.text("bury"), (now_ms, ending.reason, history, row.row))
            book.dead += 1
            self.end(connection, [row], MessageEnd.DEAD, now_ms)
        else:
            self.end(connection, [row], MessageEnd.DONE, now_ms)

    def read(self, connection: sqlite3.Connection, query: str, values: tuple[int | str, ...]) -> Sequence[StateRow]:
        return [StateRow(*row) for row in connection.execute(self._queries.text(query), values)]

    def move(
        self,
        connection: sqlite3.Connection,
        row: StateRow,
        after: MessageState,
        visible_at_ms: int | None,
        history: bytes | None,
    ) -> None:
        """To another state, ending the hand-out if there was one."""
        check_move(row.state, after)
        connection.execute(self._queries.text("set_state"), (int(after), visible_at_ms, history, row.row))
        book = self._books.by_id(row.queue_id)
        book.move(row.state, after)
        if after is MessageState.WAITING:
            self.is_ready(book)
        elif visible_at_ms is not None:
            self.is_due_at(visible_at_ms)

    def end(self, connection: sqlite3.Connection, rows: Sequence[StateRow], how: MessageEnd, now_ms: int) -> None:
        """Messages leave their queues; what was blocked behind them moves up."""
        if not rows:
            return
        numbers = json.dumps([row.row for row in rows])
        connection.execute(self._queries.text("delete_states"), (numbers,))
        connection.execute(self._queries.text("delete_messages"), (numbers,))
        freed: dict[tuple[int, str], None] = {}
        for row in rows:
            check_move(row.state, how)
            book = self._books.by_id(row.queue_id)
            book.counts[row.state] -= 1
            book.size -= row.size
            if row.ordering_key is not None and book.settings.ordered:
                freed[(row.queue_id, row.ordering_key)] = None
        self._unblock(connection, freed, now_ms)

    def has_key(self, connection: sqlite3.Connection, queue_id: int, ordering_key: str) -> bool:
        """Whether the queue holds a message with this ordering key."""
        return connection.execute(self._queries.text("key_head"), (queue_id, ordering_key)).fetchone() is not None

    def _unblock(self, connection: sqlite3.Connection, freed: Iterable[tuple[int, str]], now_ms: int) -> None:
        for queue_id, ordering_key in freed:
            head = connection.execute(self._queries.text("key_head"), (queue_id, ordering_key)).fetchone()
            if head is None or head[1] != MessageState.BLOCKED:
                continue
            number, _state, deliver_at_ms = head
            after = first_state(deliver_at_ms, now_ms, is_behind=False)
            blocked = self.read(connection, "find_rows", (json.dumps([number]),))[0]
            self.move(
                connection, blocked, after, deliver_at_ms if after is MessageState.DELAYED else None, blocked.history
            )


def add_attempt(row: StateRow, ended_at_ms: int, outcome: str, reason: str) -> bytes:
    """The history of a message with the attempt that has just ended."""
    records = decode_history(row.history)
    records.append(
        AttemptRecord(
            attempt=row.attempt,
            leased_at_ms=row.leased_at_ms or ended_at_ms,
            ended_at_ms=ended_at_ms,
            outcome=outcome,
            reason=reason,
        )
    )
    return msgspec.json.encode(records[-_ATTEMPTS_KEPT:])


def decode_history(history: bytes | None) -> list[AttemptRecord]:
    return _history_decoder.decode(history) if history else []


def queued_message(queue: str, columns: MessageColumns, position: str = "") -> QueuedMessage:
    message_id, data, headers, priority, enqueued_at_ms, ordering_key = columns
    return QueuedMessage(
        queue=queue,
        message_id=message_id,
        data=data,
        headers=decode_headers(headers),
        priority=Priority(priority),
        enqueued_at_ms=enqueued_at_ms,
        ordering_key=ordering_key,
        position=position,
    )
