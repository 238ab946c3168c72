"""kill -9 at any moment: what was answered is there, sequences are whole, and what was held is still held."""

import asyncio
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from crash_writer import SETTINGS

from meshway.engine.embedded import EmbeddedEngine, open_embedded_engine
from meshway.engine.ports import Ack, FromPosition, FromSequence, LogEntry, SettleOutcome
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import NullMetrics

WRITER = Path(__file__).with_name("crash_writer.py")


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
            case ["open"]:
                pass
            case _:
                raise AssertionError(f"not a line of the writer: {line!r}")

    async def check(self, engine: EmbeddedEngine) -> None:
        await self._check_values(engine)
        await self._check_log(engine)
        await self._check_queue(engine)

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
        there: set[str] = set()
        after: str | None = None
        while page := await engine.queue.peek("q", after=after, limit=1_000):
            there.update(message.message_id for message in page)
            after = page[-1].message_id
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


async def _write_until_killed(folder: Path, seed: int, answered: Answered, chance: random.Random) -> int:
    """How many answers were heard."""
    writer = await asyncio.create_subprocess_exec(
        sys.executable, str(WRITER), str(folder), str(seed), stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    heard = 0
    kill_after = chance.choice([1, 20, 300, 1_500, 4_000])
    try:
        async with asyncio.timeout(30):
            while heard < kill_after:
                line = await writer.stdout.readline()
                assert line, "the writer ended by itself"
                answered.hear(line.decode())
                heard += 1
    finally:
        writer.send_signal(signal.SIGKILL)
    # What it said before it died counts, but for a line cut off by its death.
    for line in (await writer.stdout.read()).decode().splitlines(keepends=True):
        if line.endswith("\n"):
            answered.hear(line)
    await writer.wait()
    return heard


async def _kill_in_rounds(folder: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    answered = Answered()
    for number in range(rounds):
        await _write_until_killed(folder, number, answered, chance)
        engine = await open_embedded_engine(folder, settings=SETTINGS, clock=SystemClock(), metrics=NullMetrics())
        try:
            await answered.check(engine)
        finally:
            await engine.close()
    assert answered.entries
    assert answered.acked


async def test_nothing_that_was_answered_is_lost_when_the_hub_is_killed(tmp_path: Path) -> None:
    await _kill_in_rounds(tmp_path, 10, seed=2)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_that_was_answered_is_lost_in_a_hundred_kills(tmp_path: Path, seed: int) -> None:
    await _kill_in_rounds(tmp_path, 25, seed=100 + seed)


@pytest.mark.parametrize(
    "lie",
    [
        "log log.0 999999 1 never-written",
        "queued never-written",
        "kv kv.never never-written 1",
    ],
)
async def test_the_check_notices_an_answer_that_was_not_kept(tmp_path: Path, lie: str) -> None:
    answered = Answered()
    await _write_until_killed(tmp_path, 1, answered, random.Random(5))
    answered.hear(lie)
    engine = await open_embedded_engine(tmp_path, settings=SETTINGS, clock=SystemClock(), metrics=NullMetrics())
    try:
        with pytest.raises(AssertionError):
            await answered.check(engine)
    finally:
        await engine.close()
