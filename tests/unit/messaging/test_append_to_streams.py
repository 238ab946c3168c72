"""Appending: numbers, repetitions, batches as a whole, limits, large data, unknown outcomes."""

import asyncio
import hashlib
import json

import msgspec
import pytest
from stream_verbs import ADMIN, ANN, BOB, StreamHub, a_message, following, stream_hub

from meshway.engine.ports import Undecided
from meshway.kernel.errors import CapacityReached, ChannelFull, EngineUnavailable, Forbidden, InvalidRequest
from meshway.kernel.ids import PrincipalId
from meshway.kernel.principal import Principal
from meshway.messaging.channel import StreamSettings
from meshway.messaging.incoming import DataRef, IdentifiedMessage, IncomingMessage
from meshway.messaging.names import ChannelKind

STREAMS = ChannelKind.STREAMS
NO_RIGHTS = Principal(PrincipalId("none"))


@pytest.fixture
async def hub(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock, data_bytes_max=1_024, batch_max=20) as opened:
        yield opened


async def refusing(hub, most, *data):
    await hub.channels.put(ANN, STREAMS, "s", StreamSettings(max_messages=most, when_full="refuse"))
    if data:
        await hub.post("s", *data)


async def refused(call):
    with pytest.raises(InvalidRequest) as caught:
        await call
    return caught.value.fields[0].field


async def test_messages_are_numbered_from_one_in_the_order_of_the_post(hub):
    first = await hub.post("s", "a", "b")
    second = await hub.post("s", "c")
    assert [receipt.sequence for receipt in [*first, *second]] == [1, 2, 3]
    assert [receipt.duplicate for receipt in first] == [False, False]
    assert (await hub.page("s"))[0] == [(1, "a"), (2, "b"), (3, "c")]


async def test_each_stream_has_numbers_of_its_own(hub):
    await hub.post("s", "a")
    (receipt,) = await hub.post("s.t", "a")
    assert receipt.sequence == 1


async def test_the_document_says_who_sent_it_when_and_in_which_trace(hub):
    await hub.append.execute(ANN, "s", [a_message(1, id="one", attributes={"k": "v"})], traceparent="00-a-b-01")
    (item,) = (await hub.page("s"))[1].items
    assert json.loads(item.document) == {
        "sequence": 1,
        "id": "one",
        "channel": "s",
        "data": 1,
        "content_type": "application/json",
        "attributes": {"k": "v"},
        "timestamp": "2027-01-15T08:00:00.000Z",
        "principal": "ann",
        "traceparent": "00-a-b-01",
    }


async def test_a_repeated_id_is_answered_with_the_first_number(hub):
    (first,) = await hub.append.execute(ANN, "s", [a_message(1, id="one")])
    again = await hub.append.execute(BOB, "s", [a_message(2, id="two"), a_message(1, id="one")])
    assert [(each.id, each.sequence, each.duplicate) for each in again] == [("two", 2, False), ("one", 1, True)]
    assert first.sequence == 1


async def test_an_id_twice_in_one_post_is_kept_once(hub):
    receipts = await hub.append.execute(ANN, "s", [a_message(1, id="one"), a_message(2, id="one")])
    assert [(each.sequence, each.duplicate) for each in receipts] == [(1, False), (1, True)]


async def test_the_same_id_of_two_sources_is_two_messages(hub):
    two = [IdentifiedMessage(id="1", identity=f"{source} 1", data=msgspec.Raw(b"1")) for source in ("/a", "/b")]
    receipts = await hub.append.execute(ANN, "s", two)
    assert [(each.id, each.sequence) for each in receipts] == [("1", 1), ("1", 2)]


async def test_the_first_wrong_message_refuses_the_whole_post(hub):
    good, bad = a_message(1), IncomingMessage()
    assert await refused(hub.append.execute(ANN, "s", [good, good, bad])) == "messages.2"
    assert (await hub.page("s"))[0] == []
    assert hub.book.find(STREAMS, "s") is None


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"delay_ms": 5}, "messages.1.delay_ms"),
        ({"priority": "high"}, "messages.1.priority"),
        ({"dedupe_id": "x"}, "messages.1.dedupe_id"),
        ({"id": ""}, "messages.1.id"),
        ({"id": "x" * 256}, "messages.1.id"),
        ({"content_type": ""}, "messages.1.content_type"),
        ({"attributes": {str(number): "" for number in range(65)}}, "messages.1.attributes"),
    ],
)
async def test_a_wrong_member_is_named(hub, members, field):
    assert await refused(hub.append.execute(ANN, "s", [a_message(1), a_message(2, **members)])) == field


@pytest.mark.parametrize("count", [0, 21])
async def test_a_post_has_one_to_as_many_messages_as_the_setting_says(hub, count):
    assert await refused(hub.append.execute(ANN, "s", [a_message(1)] * count)) == "messages"


@pytest.mark.parametrize("name", ["", "a..b", "_hub", "a.*", "a b", "a" * 256])
async def test_a_name_that_is_none_is_refused(hub, name):
    assert await refused(hub.post(name, 1)) == "channel"


async def test_a_key_without_the_scope_may_not_append(hub):
    with pytest.raises(Forbidden):
        await hub.post("s", 1, who=NO_RIGHTS)


async def test_a_hub_with_all_its_channels_takes_no_new_stream(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock, channels_max=1) as hub:
        await hub.post("s", 1)
        with pytest.raises(CapacityReached):
            await hub.post("t", 1)
        await hub.post("s", 2)


async def test_a_full_stream_that_refuses_says_which_setting_it_is(hub):
    await refusing(hub, 2, "a", "b")
    with pytest.raises(ChannelFull, match="max_messages=2") as caught:
        await hub.post("s", "c")
    assert caught.value.extensions == {}
    assert caught.value.retry_after_ms
    assert (await hub.page("s"))[0] == [(1, "a"), (2, "b")]


async def test_a_post_that_fits_in_part_is_taken_from_its_beginning(hub):
    await refusing(hub, 3, "a")
    with pytest.raises(ChannelFull) as caught:
        await hub.post("s", "b", "c", "d", "e")
    receipts = caught.value.extensions["receipts"]
    assert [receipt and receipt.sequence for receipt in receipts] == [2, 3, None, None]
    assert (await hub.page("s"))[0] == [(1, "a"), (2, "b"), (3, "c")]


async def test_a_post_repeated_at_a_full_stream_is_a_duplicate(hub):
    await refusing(hub, 2)
    batch = [a_message(1, id="one"), a_message(2, id="two")]
    await hub.append.execute(ANN, "s", batch)
    again = await hub.append.execute(ANN, "s", batch)
    assert [(each.sequence, each.duplicate) for each in again] == [(1, True), (2, True)]
    with pytest.raises(ChannelFull) as caught:
        await hub.append.execute(ANN, "s", [*batch, a_message(3, id="three")])
    assert [receipt and receipt.sequence for receipt in caught.value.extensions["receipts"]] == [1, 2, None]


async def test_a_post_repeated_at_a_full_stream_is_a_duplicate_also_after_a_restart(hub):
    await refusing(hub, 1)
    await hub.append.execute(ANN, "s", [a_message(1, id="one")])
    async with following(StreamHub(hub.engine, hub.clock)) as later:
        (again,) = await later.append.execute(ANN, "s", [a_message(1, id="one")])
    assert (again.sequence, again.duplicate) == (1, True)


async def test_posts_at_once_never_pass_the_limit_and_leave_no_room_unused(hub):
    await refusing(hub, 50)

    async def post(number):
        try:
            return len(await hub.post("s", *range(number % 3 + 1)))
        except ChannelFull as error:
            return sum(receipt is not None for receipt in error.extensions.get("receipts", ()))

    taken = await asyncio.gather(*(post(number) for number in range(60)))
    assert sum(taken) == 50
    assert len((await hub.page("s"))[0]) == 50


async def test_a_full_stream_has_room_again_when_it_was_trimmed_or_the_limit_raised(hub):
    await refusing(hub, 2, "a", "b")
    with pytest.raises(ChannelFull):
        await hub.post("s", "c")
    await hub.channels.put(ANN, STREAMS, "s", StreamSettings(max_messages=3, when_full="refuse"))
    await hub.post("s", "c")
    with pytest.raises(ChannelFull):
        await hub.post("s", "d")
    await hub.channels.remove(ANN, STREAMS, "s", confirm="s")
    await refusing(hub, 2, "e", "f")
    with pytest.raises(ChannelFull):
        await hub.post("s", "g")


async def test_a_limit_below_what_is_there_refuses_and_drops_nothing(hub):
    await hub.post("s", *"abcd")
    await refusing(hub, 2)
    with pytest.raises(ChannelFull):
        await hub.post("s", "e")
    await hub.retention.trim_due()
    assert len((await hub.page("s"))[0]) == 4


async def test_an_outcome_that_is_not_known_says_so_with_the_receipts_of_the_others(hub):
    append = hub.engine.log.append

    async def forgetful(entries):
        outcomes = list(await append(entries))
        return [outcomes[0], Undecided(reason="asked for by the test")]

    hub.engine.log.append = forgetful
    with pytest.raises(EngineUnavailable, match="same ids") as caught:
        await hub.post("s", "a", "b")
    assert [receipt and receipt.sequence for receipt in caught.value.extensions["receipts"]] == [1, None]


async def test_data_above_the_limit_travels_by_reference(hub):
    text = "x" * 2_000
    await hub.post("s", text)
    (item,) = await hub.page_of_documents("s")
    ref = item["data_ref"]
    content = json.dumps(text).encode()
    assert ref == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "encoding": "json"}
    assert await hub.content(ref["sha256"]) == content


async def test_a_wrong_post_leaves_no_blobs(hub):
    text = "x" * 2_000
    assert await refused(hub.append.execute(ANN, "s", [a_message(text), IncomingMessage()])) == "messages.1"
    sha256 = hashlib.sha256(json.dumps(text).encode()).hexdigest()
    assert await hub.engine.blobs.stat([sha256]) == [None]


async def test_a_reference_to_a_stored_blob_is_completed_and_one_to_nothing_refused(hub):
    ref = await hub.blob(b"picture")
    message = IncomingMessage(data_ref=DataRef(sha256=ref.sha256), content_type="image/png")
    await hub.append.execute(ANN, "s", [message])
    (item,) = await hub.page_of_documents("s")
    assert item["data_ref"] == {"sha256": ref.sha256, "size": 7, "encoding": "bytes"}
    nothing = IncomingMessage(data_ref=DataRef(sha256="0" * 64))
    assert await refused(hub.append.execute(ANN, "s", [message, nothing])) == "messages.1.data_ref.sha256"
    lies = IncomingMessage(data_ref=DataRef(sha256=ref.sha256, size=8))
    assert await refused(hub.append.execute(ANN, "s", [lies])) == "messages.0.data_ref.size"


async def test_a_blob_that_a_stream_names_for_ever_outlives_its_own_time(hub):
    ref = await hub.blob(b"picture")
    await hub.append.execute(ANN, "s", [IncomingMessage(data_ref=DataRef(sha256=ref.sha256))])
    hub.clock.advance(10 * hub.settings.blob_ttl_ms)
    assert await hub.content(ref.sha256) == b"picture"


async def test_a_blob_goes_with_the_last_message_that_may_name_it(hub):
    day = 86_400_000
    await hub.channels.put(ANN, STREAMS, "short", StreamSettings(retention_ms=day))
    await hub.post("short", "x" * 2_000)
    (item,) = await hub.page_of_documents("short")
    hub.clock.advance(day)
    assert await hub.engine.blobs.stat([item["data_ref"]["sha256"]]) != [None]
    hub.clock.advance(day)
    assert await hub.engine.blobs.stat([item["data_ref"]["sha256"]]) == [None]


async def test_naming_one_blob_in_many_messages_stores_it_once_more_not_each_time(hub):
    ref = await hub.blob(b"picture")
    puts = []
    put = hub.engine.blobs.put

    async def counted(chunks, *, ttl_ms=None):
        puts.append(ttl_ms)
        return await put(chunks, ttl_ms=ttl_ms)

    hub.engine.blobs.put = counted
    for _ in range(5):
        await hub.append.execute(ANN, "s", [IncomingMessage(data_ref=DataRef(sha256=ref.sha256))])
    assert puts == [None]


async def test_appending_to_a_channel_of_somebody_else_is_allowed_and_deleting_it_is_not(hub):
    await hub.post("s", 1, who=ANN)
    await hub.post("s", 2, who=BOB)
    with pytest.raises(Forbidden):
        await hub.channels.remove(BOB, STREAMS, "s", confirm="s")
    await hub.channels.remove(ADMIN, STREAMS, "s", confirm="s")
