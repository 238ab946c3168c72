"""What the writer knows of each queue: its settings and how many messages stand in which state.

Kept in memory, because counting a million rows per question would not do; changes of a transaction that is rolled
back are undone from a copy made when the queue was first touched in it.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from meshway.engine.embedded.counters import Counter
from meshway.engine.embedded.queries import Queries
from meshway.engine.embedded.queue_life import MessageState
from meshway.engine.ports import QueueDepth, QueueSettings

__all__ = ["QueueBook", "QueueBooks", "decode_settings", "encode_settings"]

_settings_decoder = msgspec.json.Decoder(QueueSettings)


class QueueBook:
    """One queue. `counts` is indexed by MessageState."""

    __slots__ = ("configured", "counts", "dead", "name", "queue_id", "settings", "size")

    def __init__(self, queue_id: int, name: str, settings: QueueSettings | None) -> None:
        self.queue_id = queue_id
        self.name = name
        self.configured = settings is not None
        self.settings = settings or QueueSettings()
        self.counts = [0] * len(MessageState)
        self.dead = 0
        # Bytes of all messages that are not dead.
        self.size = 0

    def move(self, before: MessageState | int, after: MessageState | int, count: int = 1) -> None:
        self.counts[before] -= count
        self.counts[after] += count

    @property
    def is_bounded(self) -> bool:
        return self.settings.messages_max is not None or self.settings.bytes_max is not None

    @property
    def messages(self) -> int:
        return sum(self.counts)

    def depth(self) -> QueueDepth:
        counts = self.counts
        return QueueDepth(
            waiting=counts[MessageState.WAITING] + counts[MessageState.BLOCKED],
            held=counts[MessageState.LEASED] + counts[MessageState.RETRYING],
            delayed=counts[MessageState.DELAYED],
            dead=self.dead,
        )


class QueueBooks:
    """All queues by name and number. Writer's thread only, but for what `changed` hands out."""

    def __init__(self, connection: sqlite3.Connection, queries: Queries) -> None:
        self._queries = queries
        self._by_name: dict[str, QueueBook] = {}
        self._by_id: dict[int, QueueBook] = {}
        self._before: dict[str, QueueBook | None] = {}
        self._copies: dict[str, tuple[list[int], int, int, QueueSettings, bool]] = {}
        self._load(connection)
        self._numbers = Counter(connection, "queue_id")
        # Of a database of before that counter.
        self._highest_found = max(self._by_id, default=0)

    def begin(self) -> None:
        """A new transaction: what the last one did stands."""
        self._before.clear()
        self._copies.clear()

    def rolled_back(self) -> None:
        self._numbers.rolled_back()
        for name, copy in self._copies.items():
            book = self._by_name.get(name) or self._before.get(name)
            if book is not None:
                book.counts, book.dead, book.size, book.settings, book.configured = copy
        for name, before in self._before.items():
            current = self._by_name.pop(name, None)
            if current is not None:
                del self._by_id[current.queue_id]
            if before is not None:
                self._put(before)
        self.begin()

    def known(self, name: str) -> QueueBook | None:
        book = self._by_name.get(name)
        if book is not None:
            self._touch(book)
        return book

    def waiting(self, name: str) -> int:
        """How many messages are due; looking changes nothing."""
        book = self._by_name.get(name)
        return book.counts[MessageState.WAITING] if book is not None else 0

    def by_id(self, queue_id: int) -> QueueBook:
        book = self._by_id[queue_id]
        self._touch(book)
        return book

    def open(self, connection: sqlite3.Connection, name: str) -> QueueBook:
        """The queue, made where it is new."""
        book = self.known(name)
        if book is None:
            book = QueueBook(self._new_id(connection), name, None)
            connection.execute(self._queries.text("insert_queue"), (book.queue_id, name, None))
            self._before.setdefault(name, None)
            self._put(book)
            self._touch(book)
        return book

    def remove(self, book: QueueBook) -> None:
        self._before.setdefault(book.name, book)
        del self._by_name[book.name]
        del self._by_id[book.queue_id]

    def changed(self) -> Sequence[tuple[str, QueueDepth | None]]:
        """Figures of the queues touched in this transaction; None for one that was removed."""
        names: Iterable[str] = self._copies.keys() | self._before.keys()
        books = [(name, self._by_name.get(name)) for name in names]
        return [(name, book.depth() if book is not None else None) for name, book in books]

    def depths(self) -> dict[str, QueueDepth]:
        return {name: book.depth() for name, book in self._by_name.items()}

    def _new_id(self, connection: sqlite3.Connection) -> int:
        """Never that of a queue that was removed: the ids of its messages are remembered by it for their window."""
        number = self._numbers.take(connection, 1)
        behind = self._highest_found - number
        return number if behind < 0 else self._numbers.take(connection, behind + 1) + behind

    def _put(self, book: QueueBook) -> None:
        self._by_name[book.name] = book
        self._by_id[book.queue_id] = book

    def _touch(self, book: QueueBook) -> None:
        if book.name not in self._copies:
            self._copies[book.name] = (list(book.counts), book.dead, book.size, book.settings, book.configured)

    def _load(self, connection: sqlite3.Connection) -> None:
        for queue_id, name, settings in connection.execute(self._queries.text("all_queues")):
            self._put(QueueBook(queue_id, name, decode_settings(settings) if settings is not None else None))
        for queue_id, state, count, size in connection.execute(self._queries.text("all_counts")):
            self._by_id[queue_id].counts[state] = count
            self._by_id[queue_id].size += size
        for queue_id, count in connection.execute(self._queries.text("all_dead_counts")):
            self._by_id[queue_id].dead = count


def decode_settings(content: bytes) -> QueueSettings:
    return _settings_decoder.decode(content)


def encode_settings(settings: QueueSettings) -> bytes:
    return msgspec.json.encode(settings)
