"""Handing out messages: one read and one update per queue and group, however many callers wait."""

import json
import os
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from meshway.engine.embedded.queries import Queries
from meshway.engine.embedded.queue_books import QueueBook, QueueBooks
from meshway.engine.embedded.queue_calls import LeaseCall, ReleaseCall, RenewCall
from meshway.engine.embedded.queue_life import MessageEnd, MessageState
from meshway.engine.embedded.queue_rows import QueueRows, StateRow, queued_message
from meshway.engine.ports import Lease

__all__ = ["Delivery", "QueueLeases", "parse_delivery"]

# Payloads handed out in one group; what is left stays due for the next one. Bounds memory, not a promise.
_BYTES_PER_GROUP_MAX = 32 * 1024 * 1024
# The sweep drops expired messages every second; more than this many in between only make a lease come back short.
_EXPIRED_PASSED_MAX = 100
# Three numbers of at most 16 digits.
_DELIVERY_ID_CHARACTERS_MAX = 50


class Delivery(NamedTuple):
    """What a delivery id says. The nonce is random: an id cannot be guessed, and none is ever valid twice."""

    row: int
    attempt: int
    nonce: int


class QueueLeases:
    """The writer's thread only."""

    def __init__(self, queries: Queries, books: QueueBooks, rows: QueueRows) -> None:
        self._queries = queries
        self._books = books
        self._rows = rows

    def lease(self, connection: sqlite3.Connection, calls: Sequence[LeaseCall], now_ms: int) -> None:
        by_queue: dict[str, list[LeaseCall]] = {}
        for call in calls:
            call.leases = ()
            call.more = False
            by_queue.setdefault(call.queue, []).append(call)
        for name, members in by_queue.items():
            book = self._books.known(name)
            if book is not None and book.counts[MessageState.WAITING]:
                self._lease_from(connection, book, members, now_ms)

    def release(self, connection: sqlite3.Connection, call: ReleaseCall) -> None:
        """Due again at once, and the attempt never was."""
        for delivery_id in call.delivery_ids:
            delivery = parse_delivery(delivery_id)
            if delivery is None:
                continue
            rows = json.dumps([delivery.row])
            found = self._rows.read(connection, "find_rows", (rows,))
            changed = connection.execute(self._queries.text("release_rows"), (rows, delivery.nonce)).rowcount
            if changed and found:
                book = self._books.by_id(found[0].queue_id)
                book.move(MessageState.LEASED, MessageState.WAITING)
                self._rows.is_ready(book)

    def renew(self, connection: sqlite3.Connection, call: RenewCall, now_ms: int) -> None:
        """One full lease time for every lease: what a hub that was away owes the holders."""
        call.renewed = 0
        for name in self._books.depths():
            book = self._books.known(name)
            if book is None or not book.counts[MessageState.LEASED]:
                continue
            rows = [row.row for row in self._rows.read(connection, "leases", (book.queue_id,))]
            visible_at_ms = now_ms + book.settings.lease_ms
            connection.execute(self._queries.text("set_visible"), (visible_at_ms, json.dumps(rows)))
            call.renewed += len(rows)
        # The old times are gone: the next due one may be later than was thought.
        self._rows.read_next_due(connection)

    def _lease_from(
        self, connection: sqlite3.Connection, book: QueueBook, calls: Sequence[LeaseCall], now_ms: int
    ) -> None:
        nonce = int.from_bytes(os.urandom(8), "big") >> 1
        until_ms = now_ms + book.settings.lease_ms
        waiting = book.counts[MessageState.WAITING]
        leases = self._take(connection, book, sum(call.count for call in calls), (nonce, until_ms, now_ms))
        left = book.counts[MessageState.WAITING]
        begin = 0
        for call in calls:
            call.leases = leases[begin : begin + call.count]
            begin += call.count
            # Only after progress: whoever asks again for ever would keep the writer busy for nothing.
            call.more = not call.leases and 0 < left < waiting

    def _take(
        self, connection: sqlite3.Connection, book: QueueBook, count: int, hand_out: tuple[int, int, int]
    ) -> Sequence[Lease]:
        nonce, until_ms, now_ms = hand_out
        leases: list[Lease] = []
        rows: list[int] = []
        expired: list[StateRow] = []
        bytes_taken = 0
        # A cursor, not a list: what is not needed is never read. Expired messages are passed over and dropped.
        cursor = connection.execute(self._queries.text("next_waiting"), (book.queue_id, count + _EXPIRED_PASSED_MAX))
        for columns in cursor:
            row, attempt, expires_at_ms, size, key = columns[:5]
            if expires_at_ms is not None and expires_at_ms <= now_ms:
                state = int(MessageState.WAITING)
                expired.append(StateRow(row, book.queue_id, state, attempt, None, None, None, size, key, None, None))
                continue
            rows.append(row)
            leases.append(
                Lease(
                    delivery_id=f"{row:x}.{attempt + 1:x}.{nonce:x}",
                    attempt=attempt + 1,
                    lease_until_ms=until_ms,
                    message=queued_message(book.name, columns[5:]),
                )
            )
            bytes_taken += size
            if len(leases) == count or bytes_taken >= _BYTES_PER_GROUP_MAX:
                break
        cursor.close()
        if rows:
            connection.execute(self._queries.text("lease_rows"), (until_ms, nonce, now_ms, json.dumps(rows)))
            book.move(MessageState.WAITING, MessageState.LEASED, len(rows))
            self._rows.is_due_at(until_ms)
        self._rows.end(connection, expired, MessageEnd.EXPIRED, now_ms)
        return leases


def parse_delivery(delivery_id: str) -> Delivery | None:
    """None for what is no delivery id of ours."""
    if len(delivery_id) > _DELIVERY_ID_CHARACTERS_MAX:
        return None
    try:
        row_text, attempt_text, nonce_text = delivery_id.split(".")
        row, attempt, nonce = int(row_text, 16), int(attempt_text, 16), int(nonce_text, 16)
    except ValueError:
        return None
    # SQLite holds 63 bits; anything else cannot be ours and must not reach a statement.
    return Delivery(row, attempt, nonce) if 0 < row < 1 << 63 and 0 <= nonce < 1 << 63 else None
