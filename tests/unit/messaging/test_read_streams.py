"""Reading: every kind of start, pages, long polls, tails, patterns, cursors."""

import asyncio
import json

import pytest
from stream_verbs import ANN, StreamHub, a_message, data_of, following, stream_hub, until

from meshway.engine.ports import LogAppend, LogTrim
from meshway.kernel.clock import rfc3339_ms
from meshway.kernel.errors import EngineUnavailable, Forbidden, InvalidRequest, ReaderNotFound, TooManyInFlight
from meshway.kernel.ids import PrincipalId
from meshway.kernel.pages import encode_cursor
from meshway.kernel.principal import Principal

DAY_MS = 86_400_000


@pytest.fixture
async def hub(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock, subscriptions_max=3) as opened:
        yield opened


async def trimmed(hub, channel, *, first):
    await hub.engine.log.trim([LogTrim(subject=f"st.{channel}", before_sequence=first)])


async def numbers(hub, start, channel="s", **more):
    return [sequence for sequence, _ in (await hub.page(channel, start, **more))[0]]


async def take(tail, count, *, at_once=1_000):
    """Exactly `count` items."""
    items = []
    async with asyncio.timeout(5):
        while len(items) < count:
            items += await tail.take(min(at_once, count - len(items)))
    return items


async def refused(call):
    with pytest.raises(InvalidRequest) as caught:
        await call
    return caught.value.fields[0].field


async def test_pages_begin_where_they_are_told(hub):
    await hub.post("s", *range(1, 11))
    assert await numbers(hub, "first") == list(range(1, 11))
    assert await numbers(hub, "7") == [7, 8, 9, 10]
    assert await numbers(hub, "last:3") == [8, 9, 10]
    assert await numbers(hub, "last:99") == list(range(1, 11))
    assert await numbers(hub, "new") == []
    assert await numbers(hub, None) == []
    assert await numbers(hub, "11") == []


async def test_pages_begin_at_a_time(hub):
    for number in range(4):
        await hub.post("s", number)
        hub.clock.advance(1_000)
    second = hub.clock.now_ms() - 3_000
    assert await numbers(hub, f"time:{rfc3339_ms(second)}") == [2, 3, 4]
    assert await numbers(hub, f"time:{rfc3339_ms(second + 1)}") == [3, 4]
    assert await numbers(hub, "time:1970-01-01T00:00:00Z") == [1, 2, 3, 4]
    assert await numbers(hub, f"time:{rfc3339_ms(hub.clock.now_ms())}") == []


async def test_a_start_that_was_trimmed_away_begins_at_the_oldest_that_is_kept(hub):
    await hub.post("s", *range(1, 11))
    await trimmed(hub, "s", first=6)
    assert await numbers(hub, "first") == [6, 7, 8, 9, 10]
    assert await numbers(hub, "2") == [6, 7, 8, 9, 10]
    assert await numbers(hub, "last:7") == [6, 7, 8, 9, 10]
    async with hub.read.tail(ANN, "s", start="2") as tail:
        assert [item.sequence for item in await take(tail, 5)] == [6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    "start",
    [
        *("", "0", "-1", "+1", " 1", "1 ", "1_0", "١", "1.5", "9" * 19),
        *("last", "last:", "last:0", "last:-1", "last:x", "first ", "FIRST"),
        *("time:", "time:now", "time:2026-11-22", "time:2026-11-22T07:00:00", "time:2026-13-01T00:00:00Z"),
    ],
)
async def test_a_start_that_is_none_is_refused_by_name(hub, start):
    assert await refused(hub.page("s", start)) == "from"
    with pytest.raises(InvalidRequest, match="from"):
        hub.read.tail(ANN, "s", start=start)


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 501}, "limit"),
        ({"limit": 1, "wait_ms": -1}, "wait_ms"),
        ({"limit": 1, "wait_ms": 55_001}, "wait_ms"),
        ({"limit": 1, "reader": "a.b"}, "reader"),
    ],
)
async def test_a_wrong_bound_of_a_page_is_refused_by_name(hub, members, field):
    assert await refused(hub.page("s", None, **members)) == field


async def test_pages_go_on_without_gap_or_repetition(hub):
    await hub.post("s", *range(1, 24))
    found, start, more = [], "first", True
    while more:
        part, page = await hub.page("s", start, limit=5)
        found += [sequence for sequence, _ in part]
        start, more = page.next_start, page.is_cut
    assert found == list(range(1, 24))
    await hub.post("s", 24)
    assert await numbers(hub, start) == [24]


async def test_an_empty_page_says_where_to_go_on_so_that_nothing_is_missed(hub):
    await hub.post("s", 1, 2)
    _, page = await hub.page("s", "new")
    await hub.post("s", 3)
    assert await numbers(hub, page.next_start) == [3]


async def test_a_page_of_large_messages_ends_early_and_goes_on(hub):
    large = "x" * 3_000_000
    for _ in range(12):
        await hub.post("s", large)
    part, page = await hub.page("s", "first", limit=500)
    assert 1 <= len(part) < 12
    assert page.is_cut
    rest = await numbers(hub, page.next_start)
    assert [sequence for sequence, _ in part] + rest == list(range(1, 13))


async def test_an_empty_page_waits_for_the_first_message(hub):
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(hub.page("s", "new", wait_ms=5_000))
        await until(lambda: hub.log.open_tails == 1)
        await hub.post("s", "a")
    found, page = waiting.result()
    assert found == [(1, "a")]
    assert page.next_start == "2"
    assert not page.is_cut


async def test_a_wait_without_messages_ends_empty_and_leaves_nothing_behind(hub):
    found, page = await hub.page("s", "3", wait_ms=30)
    assert (found, page.next_start) == ([], "3")
    await until(lambda: hub.log.open_tails == 0)


async def test_a_start_in_the_future_waits_for_its_time(hub):
    start = f"time:{rfc3339_ms(hub.clock.now_ms() + 1_000)}"
    async with asyncio.TaskGroup() as group, hub.read.tail(ANN, "s", start=start) as tail:
        waiting = group.create_task(hub.page("s", start, wait_ms=5_000))
        await until(lambda: hub.log.open_tails == 2)
        await hub.post("s", "early")
        hub.clock.advance(1_000)
        await hub.post("s", "late")
        assert [data_of(item) for item in await take(tail, 1)] == ["late"]
    assert waiting.result()[0] == [(2, "late")]


async def test_a_stream_nobody_used_yet_is_empty_and_reading_does_not_make_it(hub):
    assert await numbers(hub, "first") == []
    async with hub.read.tail(ANN, "s", start="first") as tail:
        await hub.post("s", "a")
        assert [data_of(item) for item in await take(tail, 1)] == ["a"]


async def test_a_tail_replays_and_then_follows(hub):
    await hub.post("s", *range(1, 301))
    async with hub.read.tail(ANN, "s", start="first") as tail:
        first = await take(tail, 300, at_once=64)
        await hub.post("s", 301, 302)
        rest = await take(tail, 2)
    assert [item.sequence for item in [*first, *rest]] == list(range(1, 303))
    assert [data_of(item) for item in rest] == [301, 302]


async def test_a_tail_of_a_sequence_beyond_the_end_waits_for_it(hub):
    async with hub.read.tail(ANN, "s", start="3") as tail:
        await hub.post("s", 1, 2, 3, 4)
        assert [item.sequence for item in await take(tail, 2)] == [3, 4]


async def test_a_tail_of_new_messages_has_all_that_are_posted_after_it_is_open(hub):
    await hub.post("s", "old")
    async with hub.read.tail(ANN, "s") as tail:
        await hub.post("s", "new")
        assert [data_of(item) for item in await take(tail, 1)] == ["new"]


async def test_take_gives_at_most_as_many_as_asked_for_and_loses_none_when_cancelled(hub):
    async with hub.read.tail(ANN, "s") as tail:
        waiting = asyncio.create_task(tail.take(10))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await hub.post("s", *"abcde")
        assert len(await tail.take(2)) == 2
        assert [data_of(item) for item in await take(tail, 3)] == ["c", "d", "e"]


async def test_the_cursor_of_one_stream_is_the_sequence_and_goes_on_after_it(hub):
    await hub.post("s", *"abc")
    async with hub.read.tail(ANN, "s", start="first") as tail:
        assert [item.cursor for item in await take(tail, 3)] == ["1", "2", "3"]
    # What a browser does: the same address, and where it stopped.
    async with hub.read.tail(ANN, "s", start="first", cursor="2") as tail:
        assert [data_of(item) for item in await take(tail, 1)] == ["c"]


async def test_the_cursor_of_a_pattern_goes_on_after_it_over_all_streams(hub):
    await hub.post("a.x", 1, 2)
    await hub.post("a.y", 3)
    await hub.post("b.x", 4)
    await hub.post("a.x", 5)
    async with hub.read.tail(ANN, "a.*", start="first") as tail:
        items = await take(tail, 4)
    assert [(json.loads(item.document)["channel"], item.sequence) for item in items] == [
        ("a.x", 1),
        ("a.x", 2),
        ("a.y", 1),
        ("a.x", 3),
    ]
    for place, item in enumerate(items[:-1]):
        async with hub.read.tail(ANN, "a.*", cursor=item.cursor) as tail:
            assert await take(tail, 3 - place) == items[place + 1 :]


async def test_a_pattern_begins_at_new_first_or_a_time(hub):
    await hub.post("a.x", 1)
    hub.clock.advance(1_000)
    await hub.post("a.y", 2)
    async with hub.read.tail(ANN, "a.>", start=f"time:{rfc3339_ms(hub.clock.now_ms())}") as tail:
        assert [data_of(item) for item in await take(tail, 1)] == [2]
    async with hub.read.tail(ANN, ">", start="first") as tail:
        assert [data_of(item) for item in await take(tail, 2)] == [1, 2]
    async with hub.read.tail(ANN, "*.x", start="new") as tail:
        await hub.post("a.x", 3)
        assert [data_of(item) for item in await take(tail, 1)] == [3]


@pytest.mark.parametrize("start", ["5", "last:3", "", "time:now"])
async def test_a_pattern_has_no_sequences(hub, start):
    with pytest.raises(InvalidRequest, match="from"):
        hub.read.tail(ANN, "a.*", start=start)


@pytest.mark.parametrize(
    ("pattern", "cursor"),
    [
        ("s", ""),
        ("s", "x"),
        ("s", "-1"),
        ("s", "9" * 30),
        ("a.*", ""),
        ("a.*", "12"),
        ("a.*", "!!!"),
        ("a.*", encode_cursor("12")),
        ("a.*", encode_cursor("p-1")),
        ("a.*", encode_cursor("p" + "9" * 30)),
    ],
)
async def test_a_broken_cursor_is_refused_by_name(hub, pattern, cursor):
    with pytest.raises(InvalidRequest) as caught:
        hub.read.tail(ANN, pattern, cursor=cursor)
    assert caught.value.fields[0].field == "cursor"


async def test_a_pattern_never_shows_the_hubs_own_streams(hub):
    own = LogAppend(subject="st._hub.audit", message_id="1", data=b'{"data":1}')
    await hub.engine.log.append([own])
    await hub.post("s.t", "a")
    async with hub.read.tail(ANN, ">", start="first") as everything, hub.read.tail(ANN, "*.*", start="first") as two:
        assert [data_of(item) for item in await take(everything, 1)] == ["a"]
        assert [data_of(item) for item in await take(two, 1)] == ["a"]


async def test_a_reader_excludes_a_start_and_belongs_to_one_stream(hub):
    assert await refused(hub.page("s", "first", reader="r")) == "from"
    with pytest.raises(InvalidRequest, match="from"):
        hub.read.tail(ANN, "s", start="first", reader="r")
    with pytest.raises(InvalidRequest, match="reader"):
        hub.read.tail(ANN, "a.*", reader="r")
    with pytest.raises(ReaderNotFound):
        await hub.page("s", None, reader="r")


async def test_a_key_without_the_scope_may_not_read(hub):
    nobody = Principal(PrincipalId("none"))
    with pytest.raises(Forbidden):
        hub.read.tail(nobody, "s")
    with pytest.raises(Forbidden):
        await hub.read.page(nobody, "s", start=None, limit=1)


async def test_tails_count_as_subscriptions_and_give_their_place_back(hub):
    async with hub.read.tail(ANN, "a"), hub.read.tail(ANN, "b"), hub.read.tail(ANN, "c"):
        with pytest.raises(TooManyInFlight, match="subscriptions_max"):
            async with hub.read.tail(ANN, "d"):
                pass
    async with hub.read.tail(ANN, "d", start="first"):
        assert hub.subscriptions.taken == 1
    with pytest.raises(ReaderNotFound):
        async with hub.read.tail(ANN, "d", reader="missing"):
            pass
    assert hub.subscriptions.taken == 0


async def test_a_tail_that_the_store_ends_says_how_to_go_on(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock) as hub, hub.read.tail(ANN, "s") as tail:
        waiting = asyncio.create_task(tail.take(1))
        await until(lambda: hub.log.open_tails == 1)
        await hub.engine.close()
        with pytest.raises(EngineUnavailable, match="cursor"):
            await waiting


async def test_many_tails_of_one_stream_share_each_rendered_message(hub):
    async with hub.read.tail(ANN, "s") as one, hub.read.tail(ANN, "s") as two:
        await hub.post("s", "a")
        (mine,), (yours,) = await take(one, 1), await take(two, 1)
    assert mine is yours


async def test_streams_and_numbers_survive_a_restart(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock) as hub:
        await hub.post("s", 1, 2)
        async with hub.read.tail(ANN, ">", start="first") as tail:
            cursor = (await take(tail, 1))[0].cursor
    async with stream_hub(tmp_path / "engine", clock) as hub:
        await hub.post("s", 3)
        assert (await hub.page("s"))[0] == [(1, 1), (2, 2), (3, 3)]
        async with hub.read.tail(ANN, ">", cursor=cursor) as tail:
            assert [data_of(item) for item in await take(tail, 2)] == [2, 3]


async def test_two_hubs_over_one_store_see_one_stream(hub):
    async with following(StreamHub(hub.engine, hub.clock)) as other, hub.read.tail(ANN, "s") as tail:
        await hub.append.execute(ANN, "s", [a_message("a", id="one")])
        (again,) = await other.append.execute(ANN, "s", [a_message("a", id="one")])
        await other.post("s", "b")
        assert [data_of(item) for item in await take(tail, 2)] == ["a", "b"]
    assert (again.sequence, again.duplicate) == (1, True)
