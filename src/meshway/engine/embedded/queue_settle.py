"""Settling hand-outs: a compare on row, attempt and nonce, so that of all settlements of one at most one is done."""

import json
import sqlite3
from collections.abc import Sequence
from typing import assert_never

from meshway.engine.embedded.queries import Queries
from meshway.engine.embedded.queue_books import QueueBooks
from meshway.engine.embedded.queue_calls import SettleCall
from meshway.engine.embedded.queue_lease import Delivery, parse_delivery
from meshway.engine.embedded.queue_life import MessageEnd, MessageState
from meshway.engine.embedded.queue_rows import QueueRows, StateRow, add_attempt
from meshway.engine.ports import Ack, Extend, SettleOutcome, ToDeadLetters, ToRetry

__all__ = ["QueueSettlements"]


class QueueSettlements:
    """The writer's thread only."""

    def __init__(self, queries: Queries, books: QueueBooks, rows: QueueRows) -> None:
        self._queries = queries
        self._books = books
        self._rows = rows

    def settle(self, connection: sqlite3.Connection, calls: Sequence[SettleCall], now_ms: int) -> None:
        deliveries = [parse_delivery(settlement.delivery_id) for call in calls for settlement in call.settlements]
        held = self._held(connection, deliveries)
        next_delivery = iter(deliveries)
        done: list[StateRow] = []
        dead: list[StateRow] = []
        for call in calls:
            outcomes: list[SettleOutcome] = []
            for settlement in call.settlements:
                row = _match(held, next(next_delivery), now_ms)
                if row is None:
                    outcomes.append(SettleOutcome.STALE)
                    continue
                outcomes.append(SettleOutcome.DONE)
                if isinstance(settlement, Extend):
                    held[row.row] = self._extend(connection, row, now_ms)
                    continue
                del held[row.row]
                match settlement:
                    case Ack():
                        done.append(row)
                    case ToRetry():
                        self._retry(connection, row, settlement, now_ms)
                    case ToDeadLetters():
                        self._bury(connection, row, settlement, now_ms)
                        dead.append(row)
                    case _:
                        assert_never(settlement)
            call.outcomes = outcomes
        self._rows.end(connection, done, MessageEnd.DONE, now_ms)
        self._rows.end(connection, dead, MessageEnd.DEAD, now_ms)

    def _held(self, connection: sqlite3.Connection, deliveries: Sequence[Delivery | None]) -> dict[int, StateRow]:
        numbers = {delivery.row for delivery in deliveries if delivery is not None}
        if not numbers:
            return {}
        found = self._rows.read(connection, "find_rows", (json.dumps(list(numbers)),))
        return {row.row: row for row in found if row.state == MessageState.LEASED}

    def _extend(self, connection: sqlite3.Connection, row: StateRow, now_ms: int) -> StateRow:
        visible_at_ms = now_ms + self._books.by_id(row.queue_id).settings.lease_ms
        connection.execute(self._queries.text("set_visible"), (visible_at_ms, json.dumps([row.row])))
        self._rows.is_due_at(visible_at_ms)
        return row._replace(visible_at_ms=visible_at_ms)

    def _retry(self, connection: sqlite3.Connection, row: StateRow, settlement: ToRetry, now_ms: int) -> None:
        history = add_attempt(row, now_ms, "retry", settlement.reason)
        if settlement.visible_at_ms > now_ms:
            self._rows.move(connection, row, MessageState.RETRYING, settlement.visible_at_ms, history)
        else:
            self._rows.move(connection, row, MessageState.WAITING, None, history)

    def _bury(self, connection: sqlite3.Connection, row: StateRow, settlement: ToDeadLetters, now_ms: int) -> None:
        history = add_attempt(row, now_ms, "dead_letter", settlement.reason)
        connection.execute(self._queries.text("bury"), (now_ms, settlement.reason, history, row.row))
        self._books.by_id(row.queue_id).dead += 1


def _match(held: dict[int, StateRow], delivery: Delivery | None, now_ms: int) -> StateRow | None:
    """The hand-out that was named, if it is still that one and its time is not over."""
    row = held.get(delivery.row) if delivery is not None else None
    if delivery is None or row is None or row.attempt != delivery.attempt or row.nonce != delivery.nonce:
        return None
    return row if row.visible_at_ms is not None and row.visible_at_ms > now_ms else None
