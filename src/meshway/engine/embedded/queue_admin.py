"""QueueAdmin on the embedded store. Long works are cut into parts, so that others' writes go on between them."""

import sqlite3
from collections.abc import Sequence

from meshway.engine.embedded.queries import load_queries
from meshway.engine.embedded.queue import EmbeddedQueue
from meshway.engine.embedded.queue_books import decode_settings
from meshway.engine.embedded.queue_calls import ConfigureCall, PurgeCall, RedriveCall, RemoveCall
from meshway.engine.embedded.queue_rows import decode_history, queued_message
from meshway.engine.embedded.readers import Readers
from meshway.engine.embedded.writer import WriteCall, Writer
from meshway.engine.ports import DeadLetter, QueueSettings
from meshway.engine.ports.checks import check_between, check_name
from meshway.engine.ports.queue_checks import check_settings, dead_letter_number

__all__ = ["EmbeddedQueueAdmin"]

_PAGE_MAX = 1_000
# Below the 63 bits of a row's number.


class EmbeddedQueueAdmin:
    """See `engine.ports.QueueAdmin`."""

    def __init__(self, queue: EmbeddedQueue, *, writer: Writer, readers: Readers) -> None:
        self._queue = queue
        self._writer = writer
        self._readers = readers
        self._queries = load_queries("queue.sql")

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        check_name(queue, "queue")
        check_settings(settings)
        call = ConfigureCall(self._queue.store, self._writer.new_finished())
        call.queue = queue
        call.settings = settings
        await self._done(call)

    async def settings(self, queue: str) -> QueueSettings:
        check_name(queue, "queue")
        return await self._readers.run(lambda connection: self._read_settings(connection, queue))

    async def queues(self, *, after: str | None = None, limit: int = 500) -> Sequence[str]:
        check_between("limit", limit, 1, _PAGE_MAX)
        return await self._readers.run(
            lambda connection: [
                name for (name,) in connection.execute(self._queries.text("names"), (after or "", limit))
            ]
        )

    async def purge(self, queue: str) -> int:
        check_name(queue, "queue")
        dropped = 0
        up_to: int | None = None
        more = True
        while more:
            call = PurgeCall(self._queue.store, self._writer.new_finished())
            call.queue = queue
            call.up_to = up_to
            await self._done(call)
            dropped += call.dropped
            up_to = call.up_to
            more = call.more
        return dropped

    async def dead_letters(self, queue: str, *, after: str | None = None, limit: int = 50) -> Sequence[DeadLetter]:
        check_name(queue, "queue")
        check_between("limit", limit, 1, _PAGE_MAX)
        return await self._readers.run(lambda connection: self._read_dead(connection, queue, after, limit))

    async def redrive(self, queue: str, message_ids: Sequence[str]) -> Sequence[bool]:
        check_name(queue, "queue")
        if not message_ids:
            return []
        call = RedriveCall(self._queue.store, self._writer.new_finished())
        call.queue = queue
        call.message_ids = message_ids
        await self._done(call)
        return call.outcomes

    async def remove(self, queue: str) -> None:
        more = True
        while more:
            await self.purge(queue)
            call = RemoveCall(self._queue.store, self._writer.new_finished())
            call.queue = queue
            await self._done(call)
            more = call.more

    async def _done(self, call: WriteCall) -> None:
        self._writer.submit(call)
        await call.finished

    def _read_settings(self, connection: sqlite3.Connection, queue: str) -> QueueSettings:
        found = connection.execute(self._queries.text("queue_id"), (queue,)).fetchone()
        return QueueSettings() if found is None or found[1] is None else decode_settings(found[1])

    def _read_dead(
        self, connection: sqlite3.Connection, queue: str, after: str | None, limit: int
    ) -> Sequence[DeadLetter]:
        begin = 0 if after is None else dead_letter_number(after)
        found = connection.execute(self._queries.text("queue_id"), (queue,)).fetchone()
        if found is None:
            return []
        rows = connection.execute(self._queries.text("list_dead"), (found[0], begin, limit))
        return [_dead_letter(queue, row) for row in rows]


def _dead_letter(
    queue: str, row: tuple[str, bytes, bytes | None, int, int, str | None, int, str, bytes | None, int]
) -> DeadLetter:
    dead_id, reason, history, dead_at_ms = row[6:]
    return DeadLetter(
        position=str(dead_id),
        message=queued_message(queue, row[:6]),
        reason=reason,
        attempts=decode_history(history),
        dead_at_ms=dead_at_ms,
    )
