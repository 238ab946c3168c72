"""Trimming to the settings, and that streams which need no look get none."""

import asyncio

import pytest
from stream_verbs import ANN, StreamHub, following, stream_hub, until

from meshway.kernel.errors import StorageFull
from meshway.messaging.channel import StreamSettings
from meshway.messaging.names import ChannelKind

STREAMS = ChannelKind.STREAMS
HOUR_MS = 3_600_000


@pytest.fixture
async def hub(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock, trim_interval_ms=100) as opened:
        yield opened


async def limit(hub, channel="s", **settings):
    await hub.channels.put(ANN, STREAMS, channel, StreamSettings(**settings))


async def kept(hub, channel="s"):
    return [sequence for sequence, _ in (await hub.page(channel))[0]]


async def test_the_oldest_messages_beyond_a_number_are_dropped(hub):
    await limit(hub, max_messages=3)
    await hub.post("s", *range(1, 6))
    await hub.retention.trim_due()
    assert await kept(hub) == [3, 4, 5]
    await hub.post("s", 6)
    await hub.retention.trim_due()
    assert await kept(hub) == [4, 5, 6]


async def test_messages_are_dropped_when_their_time_is_over_also_where_nothing_is_appended(hub):
    await limit(hub, retention_ms=HOUR_MS)
    await hub.post("s", 1)
    hub.clock.advance(HOUR_MS // 2)
    await hub.post("s", 2)
    await hub.retention.trim_due()
    hub.clock.advance(HOUR_MS // 2)
    await hub.retention.trim_due()
    assert await kept(hub) == [1, 2]
    hub.clock.advance(1)
    await hub.retention.trim_due()
    assert await kept(hub) == [2]
    hub.clock.advance(HOUR_MS)
    await hub.retention.trim_due()
    assert await kept(hub) == []


async def test_the_oldest_messages_beyond_a_number_of_bytes_are_dropped(hub):
    await limit(hub, max_bytes=50_000)
    for _ in range(100):
        await hub.post("s", "x" * 1_000)
    await hub.retention.trim_due()
    left = await kept(hub)
    assert left[-1] == 100
    assert 30 <= len(left) <= 50


async def test_all_limits_of_a_stream_hold_together(hub):
    await limit(hub, max_messages=4, retention_ms=HOUR_MS)
    await hub.post("s", 1, 2)
    hub.clock.advance(HOUR_MS + 1)
    await hub.post("s", 3, 4, 5)
    await hub.retention.trim_due()
    assert await kept(hub) == [3, 4, 5]
    await hub.post("s", 6, 7)
    await hub.retention.trim_due()
    assert await kept(hub) == [4, 5, 6, 7]


async def test_a_limit_set_later_holds_for_what_is_there(hub):
    await hub.post("s", *range(5))
    await limit(hub, max_messages=2)
    await hub.retention.trim_due()
    assert await kept(hub) == [4, 5]
    await limit(hub)
    await hub.post("s", 6, 7)
    await hub.retention.trim_due()
    assert await kept(hub) == [4, 5, 6, 7]


async def test_streams_without_limits_are_never_looked_at(hub):
    await hub.post("s", 1, 2)
    await hub.retention.trim_due()
    assert hub.log.looked == []


async def test_a_stream_that_did_not_grow_is_looked_at_only_when_its_oldest_message_ends(hub):
    await limit(hub, "aged", retention_ms=HOUR_MS)
    await limit(hub, "counted", max_messages=2)
    await hub.post("aged", 1)
    await hub.post("counted", 1)
    await hub.retention.trim_due()
    hub.log.forget()
    for _ in range(50):
        hub.clock.advance(60_000)
        await hub.retention.trim_due()
    assert hub.log.looked == []
    hub.clock.advance(HOUR_MS)
    await hub.retention.trim_due()
    assert hub.log.looked == ["st.aged"]


async def test_a_stream_below_its_number_costs_a_look_and_no_trim(hub):
    await limit(hub, max_messages=5)
    await hub.post("s", 1)
    await hub.retention.trim_due()
    assert (hub.log.looked, hub.log.trimmed) == (["st.s"], [])


async def test_a_stream_that_grows_a_little_is_not_measured_again_for_its_bytes(hub):
    await limit(hub, max_bytes=1_000_000)
    await hub.post("s", "x")
    await hub.retention.trim_due()
    hub.log.forget()
    await hub.post("s", "x")
    await hub.retention.trim_due()
    assert hub.log.trimmed == []


async def test_a_round_that_failed_is_repeated_for_all_that_were_left(hub):
    for channel in ("a", "b", "c"):
        await limit(hub, channel, max_messages=1)
        await hub.post(channel, 1, 2)
    hub.log.fail_trims = 1
    with pytest.raises(StorageFull):
        await hub.retention.trim_due()
    await hub.retention.trim_due()
    assert [await kept(hub, channel) for channel in ("a", "b", "c")] == [[2], [2], [2]]


async def test_a_deleted_stream_is_forgotten(hub):
    await limit(hub, retention_ms=HOUR_MS)
    await hub.post("s", 1)
    await hub.retention.trim_due()
    await hub.channels.remove(ANN, STREAMS, "s", confirm="s")
    hub.log.forget()
    hub.clock.advance(2 * HOUR_MS)
    await hub.retention.trim_due()
    assert hub.log.looked == []


async def test_what_was_due_when_a_hub_stopped_is_trimmed_by_the_next(hub):
    await limit(hub, max_messages=1)
    await hub.post("s", 1, 2, 3)
    async with following(StreamHub(hub.engine, hub.clock)) as later:
        await later.retention.trim_due()
        assert await kept(later) == [3]


async def test_the_duty_trims_by_itself_and_outlives_a_failure(hub):
    await limit(hub, max_messages=1)
    await hub.post("s", 1, 2)
    hub.log.fail_trims = 1
    async with asyncio.TaskGroup() as group:
        duty = group.create_task(hub.retention.run())
        await until(lambda: hub.log.dropped == 1)
        duty.cancel()
    assert await kept(hub) == [2]
