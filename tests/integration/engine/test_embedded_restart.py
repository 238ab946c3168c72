"""What a restart keeps, and what the engine does at sizes where its shortcuts change over."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshway.engine.embedded import EmbeddedEngine, EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import (
    Ack,
    Appended,
    Enqueued,
    FromLast,
    FromPosition,
    FromSequence,
    FromTime,
    KvCreate,
    KvDelete,
    KvPut,
    KvWritten,
    LogAppend,
    LogTrim,
    QueueAppend,
    QueueDepth,
    QueueSettings,
    SettleOutcome,
    SubscriptionLost,
    ToDeadLetters,
)
from meshway.kernel.clock import Clock, SystemClock
from meshway.kernel.errors import EngineUnavailable
from meshway.kernel.metrics import NullMetrics
from meshway.testing.clock import ManualClock


@asynccontextmanager
async def _engine(
    folder: Path, *, clock: Clock | None = None, settings: EmbeddedSettings | None = None
) -> AsyncIterator[EmbeddedEngine]:
    engine = await open_embedded_engine(
        folder, settings=settings or EmbeddedSettings(), clock=clock or SystemClock(), metrics=NullMetrics()
    )
    try:
        yield engine
    finally:
        await engine.close()


def _entry(number: int, subject: str = "s.a", expected_last: int | None = None) -> LogAppend:
    return LogAppend(subject=subject, message_id=f"m{number}", data=b"x", expected_last=expected_last)


async def test_values_and_the_rise_of_revisions_survive(tmp_path: Path) -> None:
    async with _engine(tmp_path) as engine:
        await engine.key_value.write([KvPut(key="a", value=b"1"), KvPut(key="gone", value=b"2")])
        (deleted,) = await engine.key_value.write([KvDelete(key="gone")])
        assert isinstance(deleted, KvWritten)
    async with _engine(tmp_path) as engine:
        entry, gone = await engine.key_value.get(["a", "gone"])
        assert entry is not None
        assert (entry.value, gone) == (b"1", None)
        (created,) = await engine.key_value.write([KvCreate(key="gone", value=b"3")])
        assert isinstance(created, KvWritten)
        assert created.revision > deleted.revision


async def test_numbering_positions_and_the_filter_of_repetitions_go_on(tmp_path: Path) -> None:
    async with _engine(tmp_path) as engine:
        outcomes = await engine.log.append([_entry(1), _entry(2)])
        await engine.log.append([_entry(3, "s.b")])
        await engine.log.trim([LogTrim(subject="s.b", keep_count=0)])
    async with _engine(tmp_path) as engine:
        again, new, other = await engine.log.append([_entry(2), _entry(3), _entry(4, "s.b")])
        before = outcomes[1]
        assert isinstance(before, Appended)
        assert again == Appended(sequence=2, position=before.position, duplicate=True)
        assert isinstance(new, Appended)
        assert (new.sequence, new.duplicate) == (3, False)
        assert new.position > before.position
        assert isinstance(other, Appended)
        assert other.sequence == 2


async def test_the_filter_of_repetitions_ends_after_its_window_and_not_before(tmp_path: Path) -> None:
    clock = ManualClock()
    async with _engine(tmp_path, clock=clock) as engine:
        await engine.log.append([_entry(1), _entry(2)])
        await engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"")])
        clock.advance(119_000)
        (repeated,) = await engine.log.append([_entry(1)])
        assert isinstance(repeated, Appended)
        assert repeated.duplicate
        assert await engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"")]) == [
            Enqueued(duplicate=True)
        ]
        clock.advance(2_000)
        (forgotten,) = await engine.log.append([_entry(2)])
        assert isinstance(forgotten, Appended)
        assert not forgotten.duplicate
        assert await engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"")]) == [
            Enqueued(duplicate=False)
        ]


async def test_a_window_that_began_before_a_restart_still_holds_after_it(tmp_path: Path) -> None:
    clock = ManualClock()
    message = QueueAppend(queue="q", message_id="m", data=b"", dedupe_id="order 7")
    same_order = QueueAppend(queue="q", message_id="n", data=b"", dedupe_id="order 7")
    async with _engine(tmp_path, clock=clock) as engine:
        await engine.queue_admin.configure("q", QueueSettings(dedupe_window_ms=3_600_000))
        await engine.queue.append([message])
        (lease,) = await engine.queue.lease("q", count=1)
        await engine.queue.settle([Ack(delivery_id=lease.delivery_id)])
    clock.advance(100_000)
    async with _engine(tmp_path, clock=clock) as engine:
        assert await engine.queue.append([message]) == [Enqueued(duplicate=True)]
    clock.advance(3_000_000)
    async with _engine(tmp_path, clock=clock) as engine:
        assert await engine.queue.append([same_order]) == [Enqueued(duplicate=True)]
        clock.advance(600_000)
        assert await engine.queue.append([same_order]) == [Enqueued(duplicate=False)]


async def test_a_lease_is_held_over_a_restart_until_its_end_and_settles_with_its_id(tmp_path: Path) -> None:
    clock = ManualClock()
    async with _engine(tmp_path, clock=clock) as engine:
        await engine.queue.append([QueueAppend(queue="q", message_id=f"m{n}", data=b"") for n in range(2)])
        first, second = await engine.queue.lease("q", count=2)
    clock.advance(29_000)
    async with _engine(tmp_path, clock=clock) as engine:
        assert list(await engine.queue.lease("q", count=5)) == []
        assert list(await engine.queue.settle([Ack(delivery_id=first.delivery_id)])) == [SettleOutcome.DONE]
        clock.advance(1_000)
        (again,) = await engine.queue.lease("q", count=5)
        assert (again.message.message_id, again.attempt) == ("m1", 2)
        assert list(await engine.queue.settle([Ack(delivery_id=second.delivery_id)])) == [SettleOutcome.STALE]


async def test_a_starting_hub_can_give_every_lease_one_full_lease_time(tmp_path: Path) -> None:
    clock = ManualClock()
    async with _engine(tmp_path, clock=clock) as engine:
        await engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"")])
        (lease,) = await engine.queue.lease("q", count=1)
    clock.advance(60_000)
    async with _engine(tmp_path, clock=clock) as engine:
        assert await engine.queue.renew_found_leases() == 1
        clock.advance(29_000)
        assert list(await engine.queue.lease("q", count=1)) == []
        assert list(await engine.queue.settle([Ack(delivery_id=lease.delivery_id)])) == [SettleOutcome.DONE]


async def test_depths_settings_and_dead_letters_survive(tmp_path: Path) -> None:
    async with _engine(tmp_path) as engine:
        await engine.queue_admin.configure("q", QueueSettings(messages_max=4))
        far_ms = time.time_ns() // 1_000_000 + 600_000
        await engine.queue.append([QueueAppend(queue="q", message_id=f"m{n}", data=b"x") for n in range(3)])
        await engine.queue.append([QueueAppend(queue="q", message_id="later", data=b"", deliver_at_ms=far_ms)])
        dead, _held = await engine.queue.lease("q", count=2)
        await engine.queue.settle([ToDeadLetters(delivery_id=dead.delivery_id, reason="r")])
        expected = list(await engine.queue.depth(["q"]))
        assert expected == [QueueDepth(waiting=1, held=1, delayed=1, dead=1)]
    async with _engine(tmp_path) as engine:
        assert list(await engine.queue.depth(["q"])) == expected
        assert await engine.queue_admin.settings("q") == QueueSettings(messages_max=4)
        assert [letter.reason for letter in await engine.queue_admin.dead_letters("q")] == ["r"]
        outcomes = await engine.queue.append([QueueAppend(queue="q", message_id=f"n{n}", data=b"") for n in range(2)])
        assert [type(outcome).__name__ for outcome in outcomes] == ["Enqueued", "QueueFull"]


async def test_reading_is_the_same_on_both_sides_of_the_index(tmp_path: Path) -> None:
    """The index is filled in runs of some thousand entries: before, across and after a run everything reads alike."""
    subjects = [f"s.{number}" for number in range(3)]
    async with _engine(tmp_path) as engine:
        for begin in range(0, 5_000, 250):
            await engine.log.append([_entry(n, subjects[n % 3]) for n in range(begin, begin + 250)])
            for offset, subject in enumerate(subjects):
                total = len(range(offset, begin + 250, 3))
                (bounds,) = await engine.log.bounds([subject])
                assert bounds is not None
                assert (bounds.first, bounds.last) == (1, total)
                last = await engine.log.read(subject, FromLast(2))
                assert [entry.sequence for entry in last] == [total - 1, total]
        for offset, subject in enumerate(subjects):
            entries = await engine.log.read(subject, FromSequence(1), limit=10_000)
            assert [entry.message_id for entry in entries] == [f"m{n}" for n in range(offset, 5_000, 3)]
            for at in (0, 700, 1_665):
                rest = await engine.log.read(subject, FromPosition(entries[at].position), limit=10_000)
                assert [entry.sequence for entry in rest] == [entry.sequence for entry in entries[at + 1 :]]
                since = await engine.log.read(subject, FromTime(entries[at].timestamp_ms), limit=10_000)
                assert since == [entry for entry in entries if entry.timestamp_ms >= entries[at].timestamp_ms]
    async with _engine(tmp_path) as engine:
        (new,) = await engine.log.append([_entry(9_000, "s.1", expected_last=1_667)])
        assert isinstance(new, Appended)
        async with engine.log.tail("s.*", FromPosition(0)) as tail, asyncio.timeout(10):
            positions = [(await anext(tail)).position for _ in range(5_001)]
        assert positions == sorted(positions)


async def test_more_subjects_than_are_kept_in_memory_keep_their_numbering(tmp_path: Path) -> None:
    async with _engine(tmp_path, settings=EmbeddedSettings(subjects_cached_max=10)) as engine:
        for turn in range(1, 4):
            for begin in range(0, 900, 100):
                outcomes = await engine.log.append(
                    [_entry(turn, f"many.{number}") for number in range(begin, begin + 100)]
                )
                assert {outcome.sequence for outcome in outcomes if isinstance(outcome, Appended)} == {turn}


async def test_a_clock_that_is_put_back_neither_hides_entries_nor_ends_their_order(tmp_path: Path) -> None:
    clock = ManualClock()
    async with _engine(tmp_path, clock=clock) as engine:
        await engine.log.append([_entry(1)])
        before_ms = clock.now_ms()
        clock.set_wall(before_ms - 3_600_000)
        await engine.log.append([_entry(2)])
    async with _engine(tmp_path, clock=clock) as engine:
        await engine.log.append([_entry(3)])
        times = [entry.timestamp_ms for entry in await engine.log.read("s.a", FromSequence(1))]
        assert times == sorted(times)
        found = await engine.log.read("s.a", FromTime(before_ms))
        assert [entry.sequence for entry in found] == [1, 2, 3]


async def test_closing_ends_what_waits_and_refuses_what_comes(tmp_path: Path) -> None:
    engine = await open_embedded_engine(
        tmp_path, settings=EmbeddedSettings(), clock=SystemClock(), metrics=NullMetrics()
    )
    async with (
        engine.log.tail("s.a", FromSequence(1)) as entries,
        engine.bus.subscribe("b") as heard,
        engine.key_value.watch("w") as events,
    ):
        await anext(events)
        waiting = [
            asyncio.ensure_future(anext(entries)),
            asyncio.ensure_future(anext(aiter(heard))),
            asyncio.ensure_future(anext(events)),
            asyncio.ensure_future(engine.queue.lease("q", count=1, wait_ms=60_000)),
        ]
        writing = [asyncio.ensure_future(engine.log.append([_entry(n)])) for n in range(100)]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await engine.close()
            await engine.close()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            answers = await asyncio.gather(*writing)
    assert [type(result) for result in results[1:]] == [SubscriptionLost, SubscriptionLost, EngineUnavailable]
    assert all(isinstance(answer[0], Appended) for answer in answers), "what was accepted is finished"
    for call in (
        lambda: engine.log.append([_entry(1)]),
        lambda: engine.key_value.get(["never.read"]),
        lambda: engine.queue.lease("q", count=1),
        lambda: engine.queue_admin.queues(),
    ):
        with pytest.raises(EngineUnavailable):
            await call()


async def test_handing_out_costs_the_same_from_a_long_queue_as_from_a_short_one(tmp_path: Path) -> None:
    async def seconds(waiting: int) -> float:
        async with _engine(tmp_path / str(waiting)) as engine:
            for begin in range(0, waiting, 1_000):
                await engine.queue.append(
                    [QueueAppend(queue="q", message_id=f"m{n}", data=b"x") for n in range(begin, begin + 1_000)]
                )
            begun = time.perf_counter()
            for _ in range(100):
                (lease,) = await engine.queue.lease("q", count=1)
                await engine.queue.settle([Ack(delivery_id=lease.delivery_id)])
            return time.perf_counter() - begun

    short, long = await seconds(1_000), await seconds(20_000)
    # Twenty times the messages; anything that looked through them would take twenty times as long.
    assert long < 5 * short + 0.5
