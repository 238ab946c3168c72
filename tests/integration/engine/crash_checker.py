"""What a writer that died was told, and what must therefore be in its store. Not a test."""

import asyncio
import time
from collections.abc import AsyncIterator

from crash_writer import MORTAL

from meshway.engine.embedded import EmbeddedEngine
from meshway.engine.ports import Ack, DeadLetter, FromPosition, FromSequence, LogEntry, SettleOutcome

__all__ = ["Answered"]


class Answered:
    """What the engine has told its callers, over all rounds, and what must therefore be true."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.tried_values: dict[str, set[str]] = {}
        self.revisions: dict[str, int] = {}
        self.entries: dict[tuple[str, int], str] = {}
        self.last_position = 0
        self.queued: set[str] = set()
        self.tried_acks: set[str] = set()
        self.acked: set[str] = set()
        self.held: dict[str, tuple[str, int]] = {}
        # Messages of the queue in which everything ends among the dead letters, and comes back from there.
        self.mortal: set[str] = set()

    def hear(self, line: str) -> None:
        match line.split():
            case ["try", "kv", key, value]:
                self.tried_values.setdefault(key, set()).add(value)
            case ["kv", key, value, revision]:
                assert int(revision) > self.revisions.get(key, 0), "a revision came twice or fell"
                self.revisions[key] = int(revision)
                self.values[key] = value
                self.tried_values[key] = set()
            case ["log", subject, sequence, _position, message_id]:
                assert (subject, int(sequence)) not in self.entries, "a sequence was given twice"
                self.entries[(subject, int(sequence))] = message_id
            case ["queued", message_id]:
                self.queued.add(message_id)
            case ["leased", message_id, delivery_id, until_ms, _attempt]:
                assert message_id not in self.held, "a message was handed to a second holder while the first lives"
                assert message_id not in self.acked, "a message that was done was handed out again"
                self.held[message_id] = (delivery_id, int(until_ms))
            case ["try", "ack", message_id]:
                self.tried_acks.add(message_id)
            case ["acked", message_id]:
                self.acked.add(message_id)
                self.held.pop(message_id)
            case ["mortal", message_id]:
                self.mortal.add(message_id)
            case ["redriven", message_id, count]:
                assert count == "1", f"{message_id} was redriven {count} times at once"
            case ["open"]:
                pass
            case _:
                raise AssertionError(f"not a line of the writer: {line!r}")

    async def check(self, engine: EmbeddedEngine) -> None:
        await self._check_values(engine)
        await self._check_log(engine)
        await self._check_queue(engine)
        await self._check_dead_letters(engine)

    async def _check_values(self, engine: EmbeddedEngine) -> None:
        keys = sorted(self.values.keys() | self.tried_values.keys())
        for key, entry in zip(keys, await engine.key_value.get(keys), strict=True):
            allowed = {self.values.get(key), *self.tried_values.get(key, set())}
            assert (entry.value.decode() if entry is not None else None) in allowed, key
            if entry is not None:
                assert entry.revision >= self.revisions.get(key, 0)

    async def _check_log(self, engine: EmbeddedEngine) -> None:
        found: list[LogEntry] = []
        for subject in await engine.log.subjects("log.*"):
            entries = list(await engine.log.read(subject, FromSequence(1), limit=10_000))
            assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1)), subject
            (bounds,) = await engine.log.bounds([subject])
            assert bounds is not None
            assert (bounds.first, bounds.last) == (1, len(entries))
            found += entries
        ids = {(entry.subject, entry.sequence): entry.message_id for entry in found}
        assert len(set(ids.values())) == len(ids), "a message was stored twice"
        missing = {key: message_id for key, message_id in self.entries.items() if ids.get(key) != message_id}
        assert not missing, f"{len(missing)} answered entries are lost"
        assert await self._tail(engine, len(found)) == sorted(entry.position for entry in found)

    async def _tail(self, engine: EmbeddedEngine, count: int) -> list[int]:
        async with asyncio.timeout(20), engine.log.tail("log.>", FromPosition(0)) as entries:
            return [(await anext(entries)).position for _ in range(count)]

    async def _check_queue(self, engine: EmbeddedEngine) -> None:
        there = set(await _peek_all(engine, "q"))
        assert not self.acked & there, "a message that was done has come back"
        lost = self.queued - self.tried_acks - there
        assert not lost, f"{len(lost)} answered messages are lost"
        (depth,) = await engine.queue.depth(["q"])
        assert depth.waiting + depth.held == len(there)
        # What a dead holder still holds is handed to nobody, and its id still settles, once.
        for lease in await engine.queue.lease("q", count=20):
            message_id = lease.message.message_id
            assert message_id not in self.held, "a message was handed to a second holder while the first lives"
            await self._settle(engine, message_id, lease.delivery_id)
        unsettled = [message_id for message_id in self.held if message_id not in self.tried_acks]
        for message_id in unsettled[:5]:
            delivery_id, until_ms = self.held.pop(message_id)
            assert until_ms > time.time() * 1000
            await self._settle(engine, message_id, delivery_id)

    async def _settle(self, engine: EmbeddedEngine, message_id: str, delivery_id: str) -> None:
        outcomes = await engine.queue.settle([Ack(delivery_id=delivery_id), Ack(delivery_id=delivery_id)])
        assert list(outcomes) == [SettleOutcome.DONE, SettleOutcome.STALE]
        self.acked.add(message_id)
        self.tried_acks.add(message_id)

    async def _check_dead_letters(self, engine: EmbeddedEngine) -> None:
        letters = [letter async for letter in _all_dead_letters(engine, MORTAL)]
        places = await _peek_all(engine, MORTAL) + [letter.message.message_id for letter in letters]
        assert len(set(places)) == len(places), "a message is in two places after it was redriven"
        lost = self.mortal - set(places)
        assert not lost, f"{len(lost)} answered messages are neither in the queue nor among the dead letters"
        for letter in letters:
            assert letter.reason == f"reason of {letter.message.message_id}"
            # Two attempts, or one more where the writer died between them.
            outcomes = [each.outcome for each in letter.attempts]
            assert [each.attempt for each in letter.attempts] == list(range(1, len(outcomes) + 1))
            assert len(outcomes) >= 2
            assert outcomes == ["retry"] * (len(outcomes) - 1) + ["dead_letter"]
        assert [letter.dead_at_ms for letter in letters] == sorted(letter.dead_at_ms for letter in letters)


async def _peek_all(engine: EmbeddedEngine, queue: str) -> list[str]:
    found: list[str] = []
    after: str | None = None
    while page := await engine.queue.peek(queue, after=after, limit=1_000):
        found += [message.message_id for message in page]
        after = page[-1].position
    return found


async def _all_dead_letters(engine: EmbeddedEngine, queue: str) -> AsyncIterator[DeadLetter]:
    after: str | None = None
    while page := await engine.queue_admin.dead_letters(queue, after=after, limit=1_000):
        for letter in page:
            yield letter
        after = page[-1].position
