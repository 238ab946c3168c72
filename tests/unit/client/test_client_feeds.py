"""Subscriptions and tails of the SDK against a scripted hub: no gap, no repetition, never more than was granted."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from meshway.client import ChannelMessage, DataNotFetched, HubError, HubUnreachable, Missed
from meshway.protocols.link import frames
from support.fake_link_hub import document, fake_link_hub, problem


async def take(feed, count):
    taken = []
    async with asyncio.timeout(5):
        async for each in feed:
            taken.append(each)
            if len(taken) == count:
                return taken
    return taken


@asynccontextmanager
async def tailing(pattern, **options):
    async with fake_link_hub() as (hub, client), client.tail(pattern, **options) as feed:
        yield hub, feed, hub.of(frames.Subscribe)[0].id


def stream(subscription_id, first, last, *, cursor=None, channel="log"):
    documents = [document(f"m-{n}", n, channel=channel, sequence=n) for n in range(first, last + 1)]
    return frames.Messages(id=subscription_id, messages=documents, cursor=cursor or str(last))


async def test_entering_waits_until_the_hub_has_confirmed():
    async with fake_link_hub() as (hub, client):
        feed = client.subscribe("news.>", group="g")
        async with feed:
            frame = hub.of(frames.Subscribe)[0]
            await hub.send(frames.Messages(id=frame.id, messages=[document("a", {"n": 1}, channel="news.x")]))
            (event,) = await take(feed, 1)
        assert hub.of(frames.Unsubscribe)[0].id == frame.id
    assert (frame.kind, frame.channel, frame.group) == ("events", "news.>", "g")
    assert isinstance(event, ChannelMessage)
    assert (event.channel, event.data, event.json(dict[str, int])) == ("news.x", {"n": 1}, {"n": 1})


async def test_what_was_missed_is_told_at_its_place():
    async with fake_link_hub() as (hub, client), client.subscribe("news") as feed:
        subscription = hub.of(frames.Subscribe)[0].id
        await hub.send(frames.Messages(id=subscription, messages=[document("a")]))
        await hub.send(frames.Missed(id=subscription, missed=7))
        await hub.send(frames.Messages(id=subscription, messages=[document("b")]))
        first, gap, second = await take(feed, 3)
    assert (first.id, gap, second.id) == ("a", Missed(missed=7), "b")


async def test_events_of_the_time_without_a_connection_are_missed():
    async with fake_link_hub() as (hub, client), client.subscribe("news") as feed:
        hub.drop()
        await hub.next_of(frames.Subscribe, 2)
        await hub.send(frames.Messages(id=hub.of(frames.Subscribe)[1].id, messages=[document("b")]))
        gap, event = await take(feed, 2)
    assert (gap, event.id) == (Missed(missed=None), "b")


async def test_a_tail_goes_on_after_the_last_message_that_arrived():
    async with tailing("log", from_="first") as (hub, feed, subscription):
        await hub.send(stream(subscription, 1, 3))
        first = await take(feed, 2)
        hub.drop()
        await hub.next_of(frames.Subscribe, 2)
        again = hub.of(frames.Subscribe)[1]
        await hub.send(stream(again.id, 4, 5))
        rest = await take(feed, 3)
        assert feed.cursor == "5"
    assert hub.of(frames.Subscribe)[0].start == "first"
    assert (again.cursor, again.start) == ("3", None)
    assert [message.sequence for message in first + rest] == [1, 2, 3, 4, 5]


async def test_a_tail_cut_before_its_first_message_goes_on_from_where_it_began():
    async with fake_link_hub() as (hub, client):

        async def confirm(connection, frame):
            if isinstance(frame, frames.Subscribe):
                await hub.send(frames.Subscribed(id=frame.id, cursor="41"))

        hub.answer = confirm
        async with client.tail("log"):
            hub.drop()
            again = await hub.next_of(frames.Subscribe, 2)
            hub.answer = hub.accept_all
    assert again.cursor == "41"


async def test_a_tail_of_a_pattern_goes_on_from_a_time_where_the_hub_names_no_place():
    async with tailing("log.*") as (hub, _, _subscription):
        hub.drop()
        again = await hub.next_of(frames.Subscribe, 2)
    assert again.start.startswith("time:20")


async def test_the_last_message_of_a_group_of_a_pattern_has_the_cursor():
    async with tailing("log.*", cursor="opaque-1") as (hub, feed, subscription):
        await hub.send(stream(subscription, 1, 2, cursor="opaque-2"))
        messages = await take(feed, 2)
        assert feed.cursor == "opaque-2"
    assert hub.of(frames.Subscribe)[0].cursor == "opaque-1"
    assert [message.cursor for message in messages] == [None, "opaque-2"]


async def test_no_more_is_granted_than_may_wait_here():
    async with tailing("log", from_="first") as (hub, feed, subscription):
        granted = hub.of(frames.Subscribe)[0].credit
        await hub.send(stream(subscription, 1, granted))
        await take(feed, granted // 2 - 1)
        assert not hub.of(frames.Credit)
        await take(feed, 1)
        credit = await hub.next_of(frames.Credit)
    assert (granted, credit.messages) == (1_024, 512)


async def test_large_messages_narrow_the_window():
    async with tailing("log", from_="first") as (hub, feed, subscription):
        hub.frame_bytes_max = 64_000_000
        for n in range(1, 13):
            await hub.send(frames.Messages(id=subscription, messages=[document(f"m-{n}", "x" * 4_000_000, sequence=n)]))
        await take(feed, 12)
        hub.drop()
        again = await hub.next_of(frames.Subscribe, 2)
    assert again.credit < 20


async def test_a_reader_acknowledges_what_the_loop_has_come_back_from():
    async with tailing("log", reader="billing") as (hub, feed, subscription):
        await hub.send(stream(subscription, 1, 3))

        async def read():
            async for message in feed:
                if message.sequence == 4:
                    return

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            ack = await hub.next_of(frames.Ack)
            await hub.send(stream(subscription, 4, 4))
    assert hub.of(frames.Subscribe)[0].reader == "billing"
    assert (ack.channel, ack.reader, ack.sequence) == ("log", "billing", 3)
    assert [frame.sequence for frame in hub.of(frames.Ack)] == [3]


async def test_leaving_a_reader_acknowledges_what_was_read():
    async with tailing("log", reader="billing") as (hub, feed, subscription):
        await hub.send(stream(subscription, 1, 3))
        await take(feed, 3)
    # The third was in the loop's hands when it left.
    assert [frame.sequence for frame in hub.of(frames.Ack)] == [2]


async def test_an_acknowledgement_is_repeated_while_the_hub_s_store_is_away():
    async with tailing("log", reader="billing") as (hub, feed, subscription):
        refusals = [problem("engine_unavailable", 503)] * 2

        async def answer(connection, frame):
            if isinstance(frame, frames.Ack) and refusals:
                await hub.send(frames.Error(ref=frame.ref, problem=refusals.pop()))
            else:
                await hub.accept_all(connection, frame)

        hub.answer = answer
        await hub.send(stream(subscription, 1, 3))

        async def read():
            async for message in feed:
                if message.sequence == 4:
                    return

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            await hub.next_of(frames.Ack, 3)
            await hub.send(stream(subscription, 4, 4))
    assert [frame.sequence for frame in hub.of(frames.Ack)] == [3, 3, 3]


async def test_a_refused_subscription_raises_and_one_refused_for_now_is_tried_again():
    async with fake_link_hub() as (hub, client):
        answers = [problem("engine_unavailable", 503), problem("forbidden", 403)]

        async def refuse(connection, frame):
            await hub.send(frames.Error(id=frame.id, problem=answers.pop(0)))

        hub.answer = refuse
        with pytest.raises(HubError) as caught:
            await client.subscribe("news").start()
    assert caught.value.code == "forbidden"
    assert len(hub.of(frames.Subscribe)) == 2


async def test_a_hub_that_is_not_there_is_unreachable_to_a_new_feed():
    async with fake_link_hub(send_timeout_s=0.3) as (hub, client):
        await hub.stop()
        with pytest.raises(HubUnreachable, match="meshway up"):
            await client.subscribe("news").start()


async def test_data_in_the_blob_store_says_how_to_get_it():
    async with tailing("log") as (hub, feed, subscription):
        raw = document("big", sequence=1, data_ref={"sha256": "ab", "size": 9, "encoding": "json"})
        stripped = bytes(raw).replace(b'"data": null, ', b"")
        await hub.send(frames.Messages(id=subscription, messages=[frames.msgspec.Raw(stripped)]))
        (message,) = await take(feed, 1)
    assert message.data_ref.size == 9
    with pytest.raises(DataNotFetched, match=r"client\.fetch"):
        _ = message.data
