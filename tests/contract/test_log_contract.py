"""What every Log keeps."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from meshway.engine.ports import (
    Appended,
    Durability,
    Engine,
    FromLast,
    FromNew,
    FromPosition,
    FromSequence,
    FromTime,
    LogAppend,
    LogBounds,
    LogEntry,
    LogTrim,
    WrongLast,
)
from meshway.kernel.errors import InvalidRequest


async def _append(engine: Engine, subject: str, count: int, *, begin: int = 1) -> list[Appended]:
    entries = [
        LogAppend(subject=subject, message_id=f"m{number}", data=b"%d" % number)
        for number in range(begin, begin + count)
    ]
    outcomes = await engine.log.append(entries)
    assert all(isinstance(outcome, Appended) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Appended)]


async def _take(entries: AsyncIterator[LogEntry], count: int, *, seconds: float = 5) -> list[LogEntry]:
    taken: list[LogEntry] = []
    async with asyncio.timeout(seconds):
        while len(taken) < count:
            taken.append(await anext(entries))
    return taken


def _sequences(entries: Sequence[LogEntry]) -> list[int]:
    return [entry.sequence for entry in entries]


async def test_entries_are_numbered_per_subject_from_one_without_gaps(engine: Engine) -> None:
    outcomes = await engine.log.append(
        [LogAppend(subject=f"s.{number % 3}", message_id=f"m{number}", data=b"x") for number in range(9)]
    )
    assert [outcome.sequence for outcome in outcomes if isinstance(outcome, Appended)] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    positions = [outcome.position for outcome in outcomes if isinstance(outcome, Appended)]
    assert positions == sorted(set(positions))


async def test_an_entry_is_read_back_as_it_was_appended(engine: Engine) -> None:
    headers = {"traceparent": "00-ab", "é": "ü\n"}
    entry = LogAppend(subject="s.a", message_id="id 1 / é", data=b"\x00\xff", headers=headers)
    (outcome,) = await engine.log.append([entry])
    assert isinstance(outcome, Appended)
    (found,) = await engine.log.read("s.a", FromSequence(1))
    assert (found.subject, found.sequence, found.position) == ("s.a", 1, outcome.position)
    assert (found.message_id, found.data, dict(found.headers)) == ("id 1 / é", b"\x00\xff", headers)


async def test_repeating_an_append_answers_as_the_first_did_and_adds_nothing(engine: Engine) -> None:
    (first,) = await _append(engine, "s.a", 1)
    again = await _append(engine, "s.a", 1)
    assert again == [Appended(sequence=first.sequence, position=first.position, duplicate=True)]
    assert len(await engine.log.read("s.a", FromSequence(1))) == 1


async def test_a_repetition_within_one_batch_is_recognised_too(engine: Engine) -> None:
    entry = LogAppend(subject="s.a", message_id="m", data=b"x")
    first, second = await engine.log.append([entry, entry])
    assert isinstance(first, Appended)
    assert isinstance(second, Appended)
    assert (first.duplicate, second.duplicate, second.sequence) == (False, True, 1)


async def test_the_same_message_id_on_two_subjects_is_two_messages(engine: Engine) -> None:
    await _append(engine, "s.a", 1)
    (other,) = await _append(engine, "s.b", 1)
    assert not other.duplicate


async def test_an_append_after_the_wrong_last_is_refused_with_the_true_one(engine: Engine) -> None:
    await _append(engine, "s.a", 3)
    (refused,) = await engine.log.append([LogAppend(subject="s.a", message_id="x", data=b"x", expected_last=2)])
    assert refused == WrongLast(last=3, last_message_id="m3")
    (refused,) = await engine.log.append([LogAppend(subject="s.a", message_id="x", data=b"x", expected_last=9)])
    assert refused == WrongLast(last=3, last_message_id="m3")
    (empty,) = await engine.log.append([LogAppend(subject="s.new", message_id="x", data=b"x", expected_last=1)])
    assert empty == WrongLast(last=0, last_message_id=None)
    (accepted,) = await engine.log.append([LogAppend(subject="s.a", message_id="x", data=b"x", expected_last=3)])
    assert isinstance(accepted, Appended)
    assert accepted.sequence == 4


async def test_an_expected_append_repeated_much_later_is_still_the_same_entry(engine: Engine) -> None:
    entry = LogAppend(subject="s.a", message_id="first", data=b"x", expected_last=0)
    (first,) = await engine.log.append([entry])
    await _append(engine, "s.a", 5, begin=10)
    (again,) = await engine.log.append([entry])
    assert isinstance(first, Appended)
    assert again == Appended(sequence=1, position=first.position, duplicate=True)


async def test_of_concurrent_writers_with_the_same_expected_last_one_wins(engine: Engine) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                engine.log.append([LogAppend(subject="s.a", message_id=f"w{n}", data=b"", expected_last=0)])
            )
            for n in range(20)
        ]
    outcomes = [task.result()[0] for task in tasks]
    assert sum(isinstance(outcome, Appended) for outcome in outcomes) == 1
    (entry,) = await engine.log.read("s.a", FromSequence(1))
    assert {outcome for outcome in outcomes if isinstance(outcome, WrongLast)} == {
        WrongLast(last=1, last_message_id=entry.message_id)
    }


async def test_each_entry_of_a_batch_stands_alone(engine: Engine) -> None:
    first, refused, third = await engine.log.append(
        [
            LogAppend(subject="s.a", message_id="1", data=b"", expected_last=0),
            LogAppend(subject="s.a", message_id="2", data=b"", expected_last=0),
            LogAppend(subject="s.a", message_id="3", data=b"", expected_last=1),
        ]
    )
    assert isinstance(first, Appended)
    assert refused == WrongLast(last=1, last_message_id="1")
    assert isinstance(third, Appended)
    assert third.sequence == 2


async def test_reading_starts_at_a_number_a_time_a_position_or_the_last_ones(engine: Engine) -> None:
    outcomes = await _append(engine, "s.a", 5)
    await _append(engine, "s.b", 5)
    entries = await engine.log.read("s.a", FromSequence(1))
    assert _sequences(await engine.log.read("s.a", FromSequence(3))) == [3, 4, 5]
    assert _sequences(await engine.log.read("s.a", FromSequence(1), limit=2)) == [1, 2]
    assert _sequences(await engine.log.read("s.a", FromLast(2))) == [4, 5]
    assert _sequences(await engine.log.read("s.a", FromLast(99))) == [1, 2, 3, 4, 5]
    assert _sequences(await engine.log.read("s.a", FromPosition(outcomes[2].position))) == [4, 5]
    assert _sequences(await engine.log.read("s.a", FromTime(entries[0].timestamp_ms))) == [1, 2, 3, 4, 5]
    assert _sequences(await engine.log.read("s.a", FromTime(entries[-1].timestamp_ms + 60_000))) == []
    assert _sequences(await engine.log.read("s.a", FromNew())) == []
    assert _sequences(await engine.log.read("s.never", FromSequence(1))) == []


async def test_reading_from_a_time_begins_at_the_first_entry_no_older(engine: Engine, wait_until) -> None:
    await _append(engine, "s.a", 3)
    (old,) = await engine.log.read("s.a", FromLast(1))
    number = 10

    async def append_later() -> LogEntry | None:
        nonlocal number
        number += 1
        await _append(engine, "s.a", 1, begin=number)
        (entry,) = await engine.log.read("s.a", FromLast(1))
        return entry if entry.timestamp_ms > old.timestamp_ms + 2 else None

    late = await wait_until(append_later)
    found = await engine.log.read("s.a", FromTime(late.timestamp_ms))
    assert found[0].timestamp_ms == late.timestamp_ms
    before = await engine.log.read("s.a", FromSequence(1))
    assert [entry for entry in before if entry.timestamp_ms >= late.timestamp_ms] == list(found)


async def test_bounds_tell_what_a_subject_holds(engine: Engine) -> None:
    await _append(engine, "s.a", 3)
    assert await engine.log.bounds(["s.a", "s.never"]) == [
        LogBounds(first=1, last=3, count=3, last_message_id="m3"),
        None,
    ]


@pytest.mark.parametrize(
    ("trim", "left"),
    [
        (LogTrim(subject="s.a", before_sequence=4), [4, 5, 6]),
        (LogTrim(subject="s.a", keep_count=2), [5, 6]),
        (LogTrim(subject="s.a", keep_count=0), []),
        (LogTrim(subject="s.a", before_sequence=99), []),
        (LogTrim(subject="s.a", before_ms=0), [1, 2, 3, 4, 5, 6]),
        (LogTrim(subject="s.a", before_ms=1 << 50), []),
        (LogTrim(subject="s.a", before_sequence=3, keep_count=2), [5, 6]),
        (LogTrim(subject="s.a"), [1, 2, 3, 4, 5, 6]),
    ],
)
async def test_a_trim_drops_the_oldest_until_every_bound_holds(engine: Engine, trim: LogTrim, left: list[int]) -> None:
    await _append(engine, "s.a", 6)
    await _append(engine, "s.b", 6)
    (dropped,) = await engine.log.trim([trim])
    assert dropped == 6 - len(left)
    assert _sequences(await engine.log.read("s.a", FromSequence(1))) == left
    assert len(await engine.log.read("s.b", FromSequence(1))) == 6


async def test_a_trim_by_bytes_keeps_the_newest_that_fit(engine: Engine) -> None:
    await engine.log.append(
        [LogAppend(subject="s.a", message_id=f"{number}", data=b"x" * 10_000) for number in range(10)]
    )
    await engine.log.trim([LogTrim(subject="s.a", keep_bytes=35_000)])
    assert _sequences(await engine.log.read("s.a", FromSequence(1))) == [8, 9, 10]


async def test_a_subject_that_was_trimmed_empty_goes_on_where_it_was(engine: Engine) -> None:
    await _append(engine, "s.a", 3)
    await engine.log.trim([LogTrim(subject="s.a", keep_count=0)])
    assert await engine.log.bounds(["s.a"]) == [LogBounds(first=4, last=3, count=0, last_message_id="m3")]
    (outcome,) = await _append(engine, "s.a", 1, begin=9)
    assert outcome.sequence == 4
    assert await engine.log.bounds(["s.a"]) == [LogBounds(first=4, last=4, count=1, last_message_id="m9")]


async def test_subjects_lists_names_that_hold_entries_in_order(engine: Engine) -> None:
    for subject in ("t.a.1", "t.a.2", "t.b.1", "t.a", "u.a.1", "t.ab.1"):
        await _append(engine, subject, 1)
    await _append(engine, "t.a.3", 1)
    await engine.log.trim([LogTrim(subject="t.a.3", keep_count=0)])
    assert list(await engine.log.subjects("t.a.*")) == ["t.a.1", "t.a.2"]
    assert list(await engine.log.subjects("t.>")) == ["t.a", "t.a.1", "t.a.2", "t.ab.1", "t.b.1"]
    assert list(await engine.log.subjects("t.*.1")) == ["t.a.1", "t.ab.1", "t.b.1"]
    assert list(await engine.log.subjects("t.>", after="t.a.1", limit=2)) == ["t.a.2", "t.ab.1"]
    assert list(await engine.log.subjects("t.a")) == ["t.a"]
    assert list(await engine.log.subjects("*.a.1")) == ["t.a.1", "u.a.1"]


async def test_a_tail_replays_and_goes_on_live(engine: Engine) -> None:
    await _append(engine, "s.a", 3)
    async with engine.log.tail("s.a", FromSequence(2)) as entries:
        assert _sequences(await _take(entries, 2)) == [2, 3]
        await _append(engine, "s.a", 2, begin=4)
        assert _sequences(await _take(entries, 2)) == [4, 5]


async def test_a_tail_of_what_is_new_begins_when_it_is_entered(engine: Engine) -> None:
    await _append(engine, "s.a", 3)
    async with engine.log.tail("s.a", FromNew()) as entries:
        await _append(engine, "s.a", 1, begin=4)
        assert _sequences(await _take(entries, 1)) == [4]


async def test_a_tail_may_begin_before_its_subject_exists(engine: Engine) -> None:
    async with engine.log.tail("s.later", FromSequence(1)) as entries:
        await _append(engine, "s.later", 2)
        assert _sequences(await _take(entries, 2)) == [1, 2]


async def test_a_tail_of_a_pattern_gives_matching_subjects_only_and_resumes_at_a_position(engine: Engine) -> None:
    for subject in ("s.a.x", "s.b.y", "s.c.x", "r.a.x"):
        await _append(engine, subject, 2)
    async with engine.log.tail("s.*.x", FromPosition(0)) as entries:
        replayed = await _take(entries, 4)
        assert {(entry.subject, entry.sequence) for entry in replayed} == {
            (subject, sequence) for subject in ("s.a.x", "s.c.x") for sequence in (1, 2)
        }
        assert [entry.position for entry in replayed] == sorted(entry.position for entry in replayed)
        await _append(engine, "s.b.y", 1, begin=5)
        await _append(engine, "s.d.x", 1, begin=5)
        assert [(entry.subject, entry.sequence) for entry in await _take(entries, 1)] == [("s.d.x", 1)]
    async with engine.log.tail("s.*.x", FromPosition(replayed[1].position)) as entries:
        assert [entry.position for entry in await _take(entries, 2)] == [entry.position for entry in replayed[2:]]


@pytest.mark.parametrize("start", [FromSequence(1), FromLast(1)])
async def test_a_pattern_cannot_start_from_a_number_of_one_subject(
    engine: Engine, start: FromSequence | FromLast
) -> None:
    with pytest.raises(InvalidRequest, match="start"):
        async with engine.log.tail("s.*", start):
            raise AssertionError("entered")


@pytest.mark.parametrize("pattern", ["s.a", "s.>", "s.*"])
async def test_a_tail_has_no_gap_and_no_duplicate_under_concurrent_writers(engine: Engine, pattern: str) -> None:
    writers, each = 6, 60

    async def write(writer: int) -> None:
        for number in range(each):
            durability = Durability.LAZY if writer % 2 else Durability.SYNCED
            entry = LogAppend(subject="s.a", message_id=f"{writer}-{number}", data=b"x" * 300, durability=durability)
            await engine.log.append([entry])

    async def read(pause_after: int) -> list[int]:
        start = FromSequence(1) if pattern == "s.a" else FromPosition(0)
        seen: list[int] = []
        async with engine.log.tail(pattern, start) as entries:
            async for entry in entries:
                seen.append(entry.sequence)
                if len(seen) == writers * each:
                    return seen
                if len(seen) % pause_after == 0:
                    await asyncio.sleep(0.01)
        return seen

    await write(99)
    await engine.log.trim([LogTrim(subject="s.a", keep_count=0)])
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for writer in range(writers):
            group.create_task(write(writer))
        readers = [group.create_task(read(pause_after)) for pause_after in (10_000, 50, 7)]
    for reader in readers:
        assert reader.result() == list(range(each + 1, each + writers * each + 1))


async def test_a_tail_that_stands_still_while_thousands_are_written_misses_none(engine: Engine) -> None:
    async with engine.log.tail("s.a", FromNew()) as entries:
        for begin in range(1, 3_001, 500):
            await _append(engine, "s.a", 500, begin=begin)
        assert _sequences(await _take(entries, 3_000, seconds=20)) == list(range(1, 3_001))


async def test_two_tails_of_one_subject_are_independent(engine: Engine) -> None:
    await _append(engine, "s.a", 2)
    async with engine.log.tail("s.a", FromSequence(1)) as first, engine.log.tail("s.a", FromLast(1)) as second:
        assert _sequences(await _take(second, 1)) == [2]
        assert _sequences(await _take(first, 2)) == [1, 2]


async def test_large_entries_come_back_whole_live_and_from_the_store(engine: Engine) -> None:
    data = b"large" * (engine.inline_bytes_max // 5 + 100)
    async with engine.log.tail("s.a", FromNew()) as entries:
        await engine.log.append([LogAppend(subject="s.a", message_id="1", data=data)])
        (live,) = await _take(entries, 1)
    (stored,) = await engine.log.read("s.a", FromSequence(1))
    assert live.data == stored.data == data


async def test_a_take_gives_all_that_are_at_hand_up_to_its_maximum(engine: Engine) -> None:
    await _append(engine, "s.a", 10)
    taken: list[LogEntry] = []
    async with asyncio.timeout(5), engine.log.tail("s.a", FromSequence(1)) as tail:
        while len(taken) < 10:
            part = await tail.take(4)
            assert 1 <= len(part) <= 4
            taken += part
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(tail.take(100))
            await asyncio.sleep(0)
            await _append(engine, "s.a", 1, begin=11)
        taken += waiting.result()
    assert _sequences(taken) == list(range(1, 12))


async def test_a_cancelled_take_of_a_tail_loses_nothing(engine: Engine) -> None:
    taken: list[LogEntry] = []
    async with engine.log.tail("s.>", FromNew()) as tail:
        for number in range(1, 41):
            waiting = asyncio.ensure_future(tail.take(10))
            await asyncio.sleep(0)
            appending = asyncio.ensure_future(_append(engine, "s.a", 1, begin=number))
            for _ in range(number % 7):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting, appending])
            if not waiting.cancelled():
                taken += waiting.result()
        async with asyncio.timeout(5):
            while len(taken) < 40:
                taken += await tail.take(10)
    assert _sequences(taken) == list(range(1, 41))


@pytest.mark.parametrize("count_max", [0, 10_001])
async def test_a_take_of_no_or_too_many_entries_is_refused(engine: Engine, count_max: int) -> None:
    async with engine.log.tail("s.a", FromNew()) as tail:
        with pytest.raises(InvalidRequest, match="count_max"):
            await tail.take(count_max)
