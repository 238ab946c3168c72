"""What every KeyValue keeps."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from meshway.engine.ports import (
    Durability,
    Engine,
    KvCaughtUp,
    KvConflict,
    KvCreate,
    KvDelete,
    KvDeleted,
    KvEntry,
    KvEvent,
    KvPut,
    KvUpdate,
    KvWritten,
)
from meshway.kernel.errors import InvalidRequest


async def _put(engine: Engine, key: str, value: bytes = b"v", ttl_ms: int | None = None) -> int:
    (outcome,) = await engine.key_value.write([KvPut(key=key, value=value, ttl_ms=ttl_ms)])
    assert isinstance(outcome, KvWritten)
    return outcome.revision


async def _next(events: AsyncIterator[KvEvent]) -> KvEvent:
    async with asyncio.timeout(5):
        return await anext(events)


async def test_a_value_that_was_put_is_read_back_with_its_revision(engine: Engine) -> None:
    revision = await _put(engine, "a.b", b"one")
    assert await engine.key_value.get(["a.b", "a.c"]) == [KvEntry(key="a.b", value=b"one", revision=revision), None]


@pytest.mark.parametrize("durability", list(Durability))
async def test_reads_see_their_own_answered_writes_whatever_the_durability(
    engine: Engine, durability: Durability
) -> None:
    for number in range(20):
        await engine.key_value.write([KvPut(key="k", value=b"%d" % number, durability=durability)])
        (entry,) = await engine.key_value.get(["k"])
        page = await engine.key_value.page("k")
        assert entry is not None
        assert entry.value == b"%d" % number
        assert [found.value for found in page.entries] == [b"%d" % number]


async def test_create_writes_only_what_is_absent_and_shows_what_is_there(engine: Engine) -> None:
    revision = await _put(engine, "k", b"first")
    (outcome,) = await engine.key_value.write([KvCreate(key="k", value=b"second")])
    assert outcome == KvConflict(current=KvEntry(key="k", value=b"first", revision=revision))


async def test_update_writes_only_at_the_revision_it_names(engine: Engine) -> None:
    first = await _put(engine, "k", b"1")
    (second,) = await engine.key_value.write([KvUpdate(key="k", value=b"2", revision=first)])
    assert isinstance(second, KvWritten)
    assert second.revision > first
    (refused,) = await engine.key_value.write([KvUpdate(key="k", value=b"3", revision=first)])
    assert refused == KvConflict(current=KvEntry(key="k", value=b"2", revision=second.revision))


async def test_update_of_an_absent_key_is_a_conflict_with_nothing(engine: Engine) -> None:
    assert await engine.key_value.write([KvUpdate(key="k", value=b"1", revision=7)]) == [KvConflict(current=None)]


async def test_delete_obeys_its_revision_and_is_no_error_for_what_is_gone(engine: Engine) -> None:
    revision = await _put(engine, "k")
    (refused,) = await engine.key_value.write([KvDelete(key="k", revision=revision + 1)])
    assert isinstance(refused, KvConflict)
    outcomes = await engine.key_value.write([KvDelete(key="k", revision=revision), KvDelete(key="k")])
    assert all(isinstance(outcome, KvWritten) for outcome in outcomes)
    assert await engine.key_value.get(["k"]) == [None]


async def test_revisions_of_a_key_rise_even_over_a_delete(engine: Engine) -> None:
    revisions = []
    for _ in range(3):
        (created,) = await engine.key_value.write([KvCreate(key="k", value=b"v")])
        assert isinstance(created, KvWritten)
        revisions.append(created.revision)
        await engine.key_value.write([KvDelete(key="k")])
    assert revisions == sorted(set(revisions))


async def test_each_write_of_a_batch_stands_alone_and_writes_to_one_key_happen_in_order(engine: Engine) -> None:
    outcomes = await engine.key_value.write(
        [
            KvPut(key="k", value=b"1"),
            KvCreate(key="k", value=b"refused"),
            KvCreate(key="other", value=b"x"),
            KvDelete(key="k"),
            KvCreate(key="k", value=b"2"),
        ]
    )
    assert [type(outcome) for outcome in outcomes] == [KvWritten, KvConflict, KvWritten, KvWritten, KvWritten]
    found = await engine.key_value.get(["k", "other"])
    assert [entry.value for entry in found if entry is not None] == [b"2", b"x"]


async def test_of_many_concurrent_creates_exactly_one_wins(engine: Engine) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(engine.key_value.write([KvCreate(key="lock", value=b"%d" % number)]))
            for number in range(30)
        ]
    outcomes = [task.result()[0] for task in tasks]
    assert sum(isinstance(outcome, KvWritten) for outcome in outcomes) == 1
    (entry,) = await engine.key_value.get(["lock"])
    assert all(outcome.current == entry for outcome in outcomes if isinstance(outcome, KvConflict))


async def test_concurrent_compare_and_set_loses_no_increment(engine: Engine) -> None:
    await _put(engine, "count", b"0")

    async def increment() -> None:
        while True:
            (entry,) = await engine.key_value.get(["count"])
            assert entry is not None
            value = b"%d" % (int(entry.value) + 1)
            update = KvUpdate(key="count", value=value, revision=entry.revision)
            if isinstance((await engine.key_value.write([update]))[0], KvWritten):
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(increment())
    (entry,) = await engine.key_value.get(["count"])
    assert entry is not None
    assert entry.value == b"20"


async def test_a_key_lives_its_time_at_least_and_is_then_absent_everywhere(engine: Engine, wait_until) -> None:
    await _put(engine, "short.a", ttl_ms=50)
    await _put(engine, "short.b")
    assert (await engine.key_value.get(["short.a"]))[0] is not None

    async def is_gone() -> bool:
        return (await engine.key_value.get(["short.a"]))[0] is None

    await wait_until(is_gone)
    assert [entry.key for entry in (await engine.key_value.page("short")).entries] == ["short.b"]
    assert isinstance((await engine.key_value.write([KvCreate(key="short.a", value=b"again")]))[0], KvWritten)


async def test_a_write_without_time_to_live_takes_an_earlier_one_away(engine: Engine, wait_until) -> None:
    await _put(engine, "marker", ttl_ms=1_000)
    await _put(engine, "k", ttl_ms=1_000)
    await _put(engine, "k", b"for ever")

    async def marker_is_gone() -> bool:
        return (await engine.key_value.get(["marker"]))[0] is None

    await wait_until(marker_is_gone)
    assert (await engine.key_value.get(["k"]))[0] is not None


async def test_a_prefix_means_whole_tokens(engine: Engine) -> None:
    for key in ("a.b", "a.b.c", "a.bc", "a.b-c", "a.b/c", "a.b=c", "a", "ab"):
        await _put(engine, key)
    found = [entry.key for entry in (await engine.key_value.page("a.b")).entries]
    assert found == ["a.b", "a.b.c"]
    everything = [entry.key for entry in (await engine.key_value.page("")).entries]
    assert everything == sorted(everything)
    assert len(everything) == 8


async def test_pages_join_to_the_whole_in_order_of_keys(engine: Engine) -> None:
    keys = sorted(f"p.{number:03}" for number in range(25))
    await engine.key_value.write([KvPut(key=key, value=b"v") for key in keys])
    found: list[str] = []
    after: str | None = None
    while True:
        page = await engine.key_value.page("p", after=after, limit=10)
        found += [entry.key for entry in page.entries]
        assert len(page.entries) <= 10
        if page.next_after is None:
            break
        after = page.next_after
    assert found == keys


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "é", "a\n", "x" * 2_000])
async def test_a_key_that_is_no_name_is_refused_and_nothing_is_written(engine: Engine, key: str) -> None:
    with pytest.raises(InvalidRequest):
        await engine.key_value.write([KvPut(key="fine", value=b"v"), KvPut(key=key, value=b"v")])
    assert await engine.key_value.get(["fine"]) == [None]


async def test_a_value_above_the_inline_limit_comes_back_whole(engine: Engine) -> None:
    value = bytes(range(256)) * (engine.inline_bytes_max // 256 + 10)
    await _put(engine, "large", value)
    (entry,) = await engine.key_value.get(["large"])
    assert entry is not None
    assert entry.value == value


async def test_empty_values_and_empty_batches_are_fine(engine: Engine) -> None:
    await _put(engine, "empty", b"")
    (entry,) = await engine.key_value.get(["empty"])
    assert entry is not None
    assert entry.value == b""
    assert list(await engine.key_value.write([])) == []
    assert list(await engine.key_value.get([])) == []


async def test_a_watch_gives_what_is_there_then_caught_up_then_each_change(engine: Engine) -> None:
    first = await _put(engine, "w.a", b"1")
    await _put(engine, "x.a", b"not watched")
    async with engine.key_value.watch("w") as events:
        assert await _next(events) == KvEntry(key="w.a", value=b"1", revision=first)
        assert await _next(events) == KvCaughtUp()
        second = await _put(engine, "w.b", b"2")
        assert await _next(events) == KvEntry(key="w.b", value=b"2", revision=second)
        await engine.key_value.write([KvDelete(key="w.a")])
        gone = await _next(events)
        assert isinstance(gone, KvDeleted)
        assert (gone.key, gone.expired) == ("w.a", False)
        assert gone.revision > second


async def test_a_watch_misses_nothing_that_happens_after_it_was_entered(engine: Engine) -> None:
    async with engine.key_value.watch("w") as events:
        await asyncio.gather(*(_put(engine, f"w.{number}", b"%d" % number) for number in range(50)))
        seen: dict[str, bytes] = {}
        async with asyncio.timeout(5):
            async for event in events:
                if isinstance(event, KvEntry):
                    seen[event.key] = event.value
                if len(seen) == 50:
                    break
        assert seen == {f"w.{number}": b"%d" % number for number in range(50)}


async def test_a_watch_ends_at_the_newest_value_of_each_key_under_concurrent_writers(engine: Engine) -> None:
    async def write(key: str) -> None:
        for number in range(30):
            await _put(engine, key, b"%d" % number)

    async with engine.key_value.watch("w") as events, asyncio.TaskGroup() as group:
        for key in ("w.a", "w.b", "w.c"):
            group.create_task(write(key))
        last: dict[str, int] = {}
        async with asyncio.timeout(10):
            async for event in events:
                if isinstance(event, KvEntry):
                    assert int(event.value) >= last.get(event.key, 0)
                    last[event.key] = int(event.value)
                if last == {"w.a": 29, "w.b": 29, "w.c": 29}:
                    break


async def test_a_watch_tells_expiry_within_two_seconds_of_its_time(engine: Engine) -> None:
    async with engine.key_value.watch("w") as events:
        assert await _next(events) == KvCaughtUp()
        await _put(engine, "w.short", ttl_ms=1_000)
        assert isinstance(await _next(events), KvEntry)
        async with asyncio.timeout(3.5):
            gone = await anext(events)
        assert isinstance(gone, KvDeleted)
        assert gone.expired


async def test_an_update_at_the_revision_of_a_deletion_is_a_conflict_with_nothing(engine: Engine) -> None:
    """What a watch said of a key that is gone is no leave to write it."""
    async with engine.key_value.watch("gone") as events:
        assert await anext(events) == KvCaughtUp()
        await engine.key_value.write([KvPut(key="gone", value=b"1")])
        assert isinstance(await anext(events), KvEntry)
        await engine.key_value.write([KvDelete(key="gone")])
        deleted = await anext(events)
    assert isinstance(deleted, KvDeleted)
    (refused,) = await engine.key_value.write([KvUpdate(key="gone", value=b"2", revision=deleted.revision)])
    assert refused == KvConflict(current=None)
    (refused,) = await engine.key_value.write([KvUpdate(key="never", value=b"2", revision=0)])
    assert refused == KvConflict(current=None)


async def test_a_walk_sees_what_its_own_hub_writes_meanwhile(engine: Engine) -> None:
    await engine.key_value.write([KvPut(key=f"w.{number:02}", value=b"") for number in range(6)])
    first = await engine.key_value.page("w", limit=3)
    await engine.key_value.write([KvPut(key="w.031", value=b""), KvDelete(key="w.04")])
    rest = await engine.key_value.page("w", after=first.next_after, limit=10)
    keys = [entry.key for entry in (*first.entries, *rest.entries)]
    assert keys == ["w.00", "w.01", "w.02", "w.03", "w.031", "w.05"]
