"""The writer's side of Queue: in each group first what gives messages back, then appends, then hand-outs."""

import sqlite3
from collections.abc import Callable, Sequence

from meshway.engine.embedded.counters import Counter
from meshway.engine.embedded.queries import load_queries
from meshway.engine.embedded.queue_append import QueueAppends
from meshway.engine.embedded.queue_books import QueueBooks
from meshway.engine.embedded.queue_calls import (
    AppendCall,
    ConfigureCall,
    LeaseCall,
    PurgeCall,
    QueueSweep,
    RedriveCall,
    ReleaseCall,
    RemoveCall,
    RenewCall,
    SettleCall,
)
from meshway.engine.embedded.queue_ids import MessageIds
from meshway.engine.embedded.queue_lease import QueueLeases
from meshway.engine.embedded.queue_rows import QueueRows
from meshway.engine.embedded.queue_settle import QueueSettlements
from meshway.engine.embedded.queue_upkeep import QueueUpkeep
from meshway.engine.embedded.writer import Publish, WriteCall
from meshway.engine.ports import QueueDepth

__all__ = ["QueueNews", "QueueStore"]


class QueueNews:
    """What a group changed, for the loop: queues with messages that became due, figures, and the next due time."""

    __slots__ = ("depths", "next_due_ms", "ready")

    def __init__(
        self, ready: dict[str, int], depths: Sequence[tuple[str, QueueDepth | None]], next_due_ms: int | None
    ) -> None:
        self.ready = ready
        self.depths = depths
        self.next_due_ms = next_due_ms


class QueueStore:
    """Writer's thread only. `publish` gets the news of each group, in order, on the loop."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        window_ms: int,
        ids_max: int,
        now_ms: int,
        publish: Callable[[QueueNews], None],
    ) -> None:
        queries = load_queries("queue.sql")
        self._publish = publish
        self._numbers = Counter(connection, "queue_row")
        self._books = QueueBooks(connection, queries)
        self._rows = QueueRows(connection, queries, self._books)
        self._recent = MessageIds(window_ms=window_ms, ids_max=ids_max, now_ms=now_ms)
        self._appends = QueueAppends(queries, self._books, self._rows, self._numbers, self._recent)
        self._leases = QueueLeases(queries, self._books, self._rows)
        self._settlements = QueueSettlements(queries, self._books, self._rows)
        self._upkeep = QueueUpkeep(queries, self._books, self._rows, self._appends, window_ms=window_ms)
        self._must_read_due = False
        self._appends.load_recent(connection, now_ms - window_ms)

    @property
    def next_due_ms(self) -> int | None:
        """Of what was found when the database was opened."""
        return self._rows.next_due_ms

    def depths(self) -> dict[str, QueueDepth]:
        """Figures found when the database was opened."""
        return self._books.depths()

    def apply_alone(self, connection: sqlite3.Connection, calls: Sequence[WriteCall], now_ms: int) -> Publish | None:
        return None

    def apply(self, connection: sqlite3.Connection, calls: Sequence[WriteCall], now_ms: int) -> Publish | None:
        self._books.begin()
        self._recent.begin(now_ms)
        if self._must_read_due:
            self._rows.read_next_due(connection)
            self._must_read_due = False
        for call in calls:
            if isinstance(call, RenewCall):
                # Before leases that ran out while nobody was there to extend them are taken away.
                self._leases.renew(connection, call, now_ms)
        self._rows.wake_due(connection, now_ms)
        settling = [call for call in calls if isinstance(call, SettleCall)]
        if settling:
            self._settlements.settle(connection, settling, now_ms)
        for call in calls:
            self._apply_rare(connection, call, now_ms)
        appending = [call for call in calls if isinstance(call, AppendCall)]
        if appending:
            self._appends.append(connection, appending, now_ms)
        leasing = [call for call in calls if isinstance(call, LeaseCall)]
        if leasing:
            self._leases.lease(connection, leasing, now_ms)
        news = QueueNews(self._rows.take_ready(), self._books.changed(), self._rows.next_due_ms)
        return lambda: self._publish(news)

    def rolled_back(self) -> None:
        self._numbers.rolled_back()
        self._books.rolled_back()
        self._rows.rolled_back()
        self._recent.rolled_back()
        self._must_read_due = True

    def _apply_rare(self, connection: sqlite3.Connection, call: WriteCall, now_ms: int) -> None:
        match call:
            case ReleaseCall():
                self._leases.release(connection, call)
            case ConfigureCall():
                self._upkeep.configure(connection, call, now_ms)
            case PurgeCall():
                self._upkeep.purge(connection, call, self._numbers.last, now_ms)
            case RedriveCall():
                self._upkeep.redrive(connection, call, now_ms)
            case RemoveCall():
                self._upkeep.remove(connection, call)
            case QueueSweep():
                self._upkeep.sweep(connection, call, now_ms)
            case _:
                pass
