"""Durable readers: where they begin, that they only move on by acknowledging, and what becomes of them."""

import asyncio

import pytest
from stream_verbs import ANN, BOB, a_message, data_of, stream_hub

from meshway.engine.ports import KvPut, LogTrim
from meshway.kernel.clock import rfc3339_ms
from meshway.kernel.errors import CapacityReached, ChannelNotFound, InvalidRequest, ReaderNotFound
from meshway.messaging.names import ChannelKind

STREAMS = ChannelKind.STREAMS


@pytest.fixture
async def hub(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock) as opened:
        yield opened


async def put(hub, start=None, channel="s", name="r"):
    return await hub.readers.put(ANN, channel, name, start=start)


async def position(hub, channel="s", name="r"):
    return (await hub.readers.show(ANN, channel, name)).position


async def refused(call):
    with pytest.raises(InvalidRequest) as caught:
        await call
    return caught.value.fields[0].field


async def test_a_reader_begins_where_it_is_told(hub):
    for number in range(1, 6):
        await hub.post("s", number)
        hub.clock.advance(1_000)
    third = rfc3339_ms(hub.clock.now_ms() - 3_000)
    starts = {"first": 0, "new": 5, "3": 2, "6": 5, "last:2": 3, "last:99": 0, f"time:{third}": 2}
    for start, expected in starts.items():
        reader, _ = await put(hub, start)
        assert (start, reader.position, reader.lag) == (start, expected, 5 - expected)


async def test_a_reader_of_a_trimmed_stream_begins_at_the_oldest_that_is_kept(hub):
    await hub.post("s", *range(10))
    await hub.engine.log.trim([LogTrim(subject="st.s", before_sequence=7)])
    for start in ("first", "2", "last:9"):
        reader, _ = await put(hub, start)
        assert (reader.position, reader.lag) == (6, 4)


async def test_a_reader_may_be_put_before_the_first_message(hub):
    reader, created = await put(hub, "first")
    assert (reader.position, reader.lag, created) == (0, 0, True)
    assert hub.book.find(STREAMS, "s").owner == "ann"
    await hub.post("s", "a")
    assert [data for _, data in (await hub.page("s", None, reader="r"))[0]] == ["a"]


async def test_putting_a_reader_without_a_start_again_leaves_it_where_it_is(hub):
    await hub.post("s", 1, 2, 3)
    _, created = await put(hub, "first")
    await hub.readers.ack(ANN, "s", "r", 1)
    reader, again = await put(hub)
    assert (reader.position, created, again) == (1, True, False)


async def test_putting_a_reader_with_a_start_moves_it_back_too(hub):
    await hub.post("s", 1, 2, 3)
    made, _ = await put(hub, "new")
    hub.clock.advance(5)
    moved, created = await put(hub, "2")
    assert (moved.position, created) == (1, False)
    assert (moved.created_at_ms, moved.updated_at_ms) == (made.created_at_ms, hub.clock.now_ms())


@pytest.mark.parametrize(("members", "field"), [({"start": "9"}, "from"), ({"start": "x"}, "from")])
async def test_a_start_that_cannot_be_is_refused(hub, members, field):
    assert await refused(put(hub, **members)) == field


@pytest.mark.parametrize("name", ["", "a.b", "a b", "*", "x" * 256])
async def test_a_name_that_is_none_is_refused(hub, name):
    assert await refused(put(hub, name=name)) == "reader"


async def test_acknowledging_moves_on_and_never_back(hub):
    await hub.post("s", 1, 2, 3)
    await put(hub, "first")
    assert await hub.readers.ack(ANN, "s", "r", 2) == 2
    assert await hub.readers.ack(ANN, "s", "r", 1) == 2
    assert await hub.readers.ack(ANN, "s", "r", 0) == 2
    assert await hub.readers.ack(ANN, "s", "r", 3) == 3
    assert (await hub.readers.show(ANN, "s", "r")).lag == 0


async def test_acknowledging_at_once_ends_at_the_highest(hub):
    await hub.post("s", *range(12))
    await put(hub, "first")
    order = [3, 12, 7, 1, 9]
    positions = await asyncio.gather(*(hub.readers.ack(ANN, "s", "r", sequence) for sequence in order))
    assert await position(hub) == 12
    assert all(told >= asked for told, asked in zip(positions, order, strict=True))


@pytest.mark.parametrize("sequence", [-1, 4, 1 << 70])
async def test_acknowledging_what_is_not_there_is_refused(hub, sequence):
    await hub.post("s", 1, 2, 3)
    await put(hub, "first")
    assert await refused(hub.readers.ack(ANN, "s", "r", sequence)) == "sequence"
    assert await position(hub) == 0


async def test_an_unknown_reader_is_not_found(hub):
    await hub.post("s", 1)
    for call in (
        hub.readers.show(ANN, "s", "r"),
        hub.readers.ack(ANN, "s", "r", 1),
        hub.readers.remove(ANN, "s", "r"),
    ):
        with pytest.raises(ReaderNotFound):
            await call
    with pytest.raises(ChannelNotFound):
        await hub.readers.list(ANN, "unknown")


async def test_a_tail_with_a_reader_begins_after_its_position_and_acknowledges_nothing_by_itself(hub):
    await hub.post("s", *"abc")
    await put(hub, "first")
    await hub.readers.ack(ANN, "s", "r", 1)
    for _ in range(2):
        async with hub.read.tail(ANN, "s", reader="r") as tail:
            assert [data_of(item) for item in await tail.take(10)] == ["b", "c"]
    assert await position(hub) == 1


async def test_readers_of_one_stream_are_none_of_a_longer_name(hub):
    for channel in ("a", "a.b", "a.b.c"):
        await put(hub, "first", channel=channel, name="b")
    assert [reader.name for reader in await hub.readers.list(ANN, "a")] == ["b"]
    await hub.channels.remove(ANN, STREAMS, "a", confirm="a")
    assert [reader.channel for reader in await hub.readers.list(ANN, "a.b")] == ["a.b"]


async def test_readers_are_listed_by_name_with_their_lag(hub):
    await hub.post("s", *range(5))
    for name, start in (("zoe", "first"), ("ann", "3"), ("bob", "new")):
        await put(hub, start, name=name)
    readers = await hub.readers.list(ANN, "s")
    assert [(reader.name, reader.lag) for reader in readers] == [("ann", 3), ("bob", 0), ("zoe", 5)]
    info = await hub.channels.info(BOB, STREAMS, "s")
    assert info.readers == readers
    assert info.figures == {"first": 1, "last": 5, "count": 5, "readers": 3}


async def test_a_stream_has_a_bounded_number_of_readers(hub):
    await hub.post("s", 1)
    record = b'{"position":0,"created_at_ms":1,"updated_at_ms":1}'
    await hub.engine.key_value.write([KvPut(key=f"reader.s.r{number}", value=record) for number in range(1_000)])
    with pytest.raises(CapacityReached, match="1000 readers"):
        await put(hub, name="more")
    await hub.readers.remove(ANN, "s", "r1")
    await put(hub, name="more")
    assert len(await hub.readers.list(ANN, "s")) == 1_000
    await hub.channels.remove(ANN, STREAMS, "s", confirm="s")
    await hub.post("s", 1)
    assert await hub.readers.list(ANN, "s") == []


async def test_a_removed_reader_begins_anew(hub):
    await hub.post("s", 1, 2)
    await put(hub, "first")
    await hub.readers.ack(ANN, "s", "r", 2)
    await hub.readers.remove(ANN, "s", "r")
    reader, created = await put(hub, "first")
    assert (reader.position, created) == (0, True)


async def test_an_acknowledged_position_survives_a_restart(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock) as hub:
        await hub.post("s", 1, 2, 3)
        await put(hub, "first")
        await hub.readers.ack(ANN, "s", "r", 2)
    async with stream_hub(tmp_path / "engine", clock) as hub:
        await hub.append.execute(ANN, "s", [a_message(4)])
        assert [sequence for sequence, _ in (await hub.page("s", None, reader="r"))[0]] == [3, 4]
