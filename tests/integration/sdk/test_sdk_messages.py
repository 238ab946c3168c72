"""Every kind of message through the SDK and a real hub in the same process."""

import asyncio
import threading
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
import pytest

from meshway.client import (
    BlockingClient,
    HubError,
    Missed,
    NewMessage,
    Refused,
    Reject,
    Retry,
    SettlementItem,
)
from meshway.testing import local_hub


@pytest.fixture
async def hub():
    async with local_hub() as running:
        yield running


@pytest.fixture
async def client(hub):
    async with hub.client(send_timeout_s=10) as client:
        yield client


async def gather_into(events, feed):
    async for event in feed:
        events.append(event.data)


@dataclass
class Order:
    item: str
    count: int


async def take(feed, count):
    taken = []
    async with asyncio.timeout(10):
        async for each in feed:
            taken.append(each)
            if len(taken) == count:
                break
    return taken


async def test_events_reach_every_listener_and_one_of_a_group(client):
    async with (
        client.subscribe("news.>") as everything,
        client.subscribe("news.ai", group="g") as one,
        client.subscribe("news.ai", group="g") as other,
    ):
        await client.publish("news.ai", *(NewMessage(data=n, attributes={"n": str(n)}) for n in range(20)))
        await client.publish("news.tea", "last")
        seen = await take(everything, 21)
        shared = []
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(gather_into(shared, feed)) for feed in (one, other)]
            async with asyncio.timeout(5):
                while len(shared) < 20:
                    await asyncio.wait(readers, timeout=0.01)
            for reader in readers:
                reader.cancel()
    assert [each.data for each in seen] == [*range(20), "last"]
    assert (seen[3].attributes, seen[3].channel, seen[3].principal) == ({"n": "3"}, "news.ai", "local")
    assert sorted(shared) == list(range(20))


async def test_streams_are_numbered_read_and_followed(client):
    receipts = await client.append("log.a", *range(1, 8))
    assert [receipt.sequence for receipt in receipts] == list(range(1, 8))
    page = await client.read("log.a", from_=3, limit=2)
    assert [message.data for message in page.items] == [3, 4]
    rest = await client.read("log.a", from_=page.next_from)
    assert [message.data for message in rest.items] == [5, 6, 7]
    async with client.tail("log.a", from_="last:2") as feed:
        await client.append("log.a", 8)
        messages = await take(feed, 3)
    assert [message.sequence for message in messages] == [6, 7, 8]
    async with client.tail("log.a", cursor=messages[1].cursor) as feed:
        assert [message.sequence for message in await take(feed, 1)] == [8]


async def test_a_tail_of_a_pattern_survives_a_restart_without_gap_or_repetition(tmp_path):
    async with local_hub(data=tmp_path) as hub:
        port = hub.port
        client = hub.client(send_timeout_s=15)
        feed = client.tail("log.*")
        await feed.start()
        await client.append("log.a", 1)
        await client.append("log.b", 2)
        first = await take(feed, 2)
    async with local_hub(data=tmp_path, port=port), client:
        await client.append("log.a", 3)
        await client.append("log.c", 4)
        rest = await take(feed, 2)
        await feed.aclose()
    assert [message.data for message in first + rest] == [1, 2, 3, 4]


async def test_a_reader_goes_on_where_it_was(client):
    await client.append("log", 1, 2, 3)
    assert (await client.readers.put("log", "billing", from_="first")).position == 0
    async with client.tail("log", reader="billing") as feed, aclosing(aiter(feed)) as loop:
        async for message in loop:
            if message.data == 3:
                break
    assert (await client.readers.get("log", "billing")).position == 2
    assert await client.readers.ack("log", "billing", 3) == 3
    assert [(reader.name, reader.lag) for reader in (await client.readers.list("log")).items] == [("billing", 0)]
    await client.readers.remove("log", "billing")
    with pytest.raises(HubError) as caught:
        await client.readers.get("log", "billing")
    assert caught.value.code == "reader_not_found"


@pytest.mark.parametrize("transport", ["websocket", "http"])
async def test_a_worker_works_through_a_queue_with_every_outcome(client, transport):
    await client.put_channel("queues", "orders", backoff_initial_ms=0, attempts_max=3)
    handled = []
    done = asyncio.Event()

    async def handle(delivery):
        order = delivery.json(Order)
        handled.append((order.item, delivery.attempt))
        if len(handled) == 7:
            done.set()
        if order.item == "late" and delivery.attempt == 1:
            raise Retry("not yet", delay_ms=1)
        if order.item == "wrong":
            raise Reject("no such item")
        if order.item == "broken":
            raise ValueError("cannot")

    async with client.worker("orders", handle, concurrency=2, transport=transport) as worker:
        await client.enqueue_many("orders", [Order("a", 1), Order("late", 1), Order("wrong", 1), Order("broken", 1)])
        async with asyncio.timeout(10):
            await done.wait()
    assert sorted(handled) == [
        ("a", 1), ("broken", 1), ("broken", 2), ("broken", 3), ("late", 1), ("late", 2), ("wrong", 1),
    ]  # fmt: skip
    dead = {letter.message.json(Order).item: letter for letter in (await client.dead_letters("orders")).items}
    assert dead["wrong"].reason == "no such item"
    assert "ValueError: cannot" in dead["broken"].reason
    assert [attempt.attempt for attempt in dead["broken"].attempts] == [1, 2, 3]
    assert worker.figures.stale == 0
    assert (await client.redrive("orders", ids=[dead["wrong"].id])).messages == 1
    assert [message.json(Order).item for message in (await client.peek("orders")).items] == ["wrong"]
    assert await client.purge("orders") == 1


async def test_a_queue_by_hand(client):
    await client.enqueue("orders", 1, priority="low")
    await client.enqueue("orders", 2, priority="urgent")
    held = await client.lease("orders", count=10, wait_ms=1_000)
    assert [(delivery.data, delivery.attempt) for delivery in held] == [(2, 1), (1, 1)]
    assert await client.ack("orders", held[0]) == ["done"]
    assert await client.ack("orders", held[0]) == ["stale"]
    back = SettlementItem(delivery_id=held[1].delivery_id, action="retry", delay_ms=0, reason="again")
    assert await client.settle("orders", back) == ["done"]
    info = await client.channel_info("queues", "orders")
    assert (info.name, info.figures["waiting"]) == ("orders", 1)
    assert [channel.name for channel in (await client.list_channels("queues")).items] == ["orders"]
    await client.delete_channel("queues", "orders")
    assert not (await client.list_channels("queues")).items


async def test_short_leases_are_kept_while_a_handler_works(client):
    await client.put_channel("queues", "slow", lease_ms=200)
    attempts = []
    done = asyncio.Event()

    def handle(delivery):
        attempts.append(delivery.attempt)
        # Three leases long, in a thread.
        threading.Event().wait(0.6)
        loop.call_soon_threadsafe(done.set)

    loop = asyncio.get_running_loop()
    async with client.worker("slow", handle) as worker:
        await client.enqueue("slow", 1)
        async with asyncio.timeout(10):
            await done.wait()
    assert attempts == [1]
    assert (worker.figures.acked, worker.figures.stale) == (1, 0)
    assert worker.figures.extended >= 2


async def test_a_worker_survives_a_restart_and_nothing_is_done_twice(tmp_path):
    handled = []
    begun, gate, last = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handle(delivery):
        handled.append(delivery.data)
        begun.set()
        await gate.wait()
        if len(handled) == 4:
            last.set()

    async with local_hub(data=tmp_path) as hub:
        client = hub.client(send_timeout_s=20)
        worker = client.worker("orders", handle, concurrency=1)
        background = asyncio.ensure_future(worker.run(handle_signals=False))
        await client.enqueue_many("orders", [1, 2, 3])
        await begun.wait()
    enqueued = asyncio.ensure_future(client.enqueue("orders", 4))
    async with local_hub(data=tmp_path, port=hub.port), client:
        await enqueued
        gate.set()
        async with asyncio.timeout(15):
            await last.wait()
        worker.stop()
        await background
        assert (await client.channel_info("queues", "orders")).figures["waiting"] == 0
    assert (handled, worker.figures.acked, worker.figures.stale) == ([1, 2, 3, 4], 4, 0)


async def test_commands_and_queries_are_answered(client):
    async def handle(request):
        if request.data == "locked":
            raise Refused("the door is locked")
        return {"opened": request.data, "by": request.principal}

    async with client.responder("door.*", handle, kind="commands") as responder:
        await responder.ready()
        reply = await client.command("door.front", "front", timeout_ms=5_000)
        assert (reply.executed, reply.data) == (True, {"opened": "front", "by": "local"})
        refused = await client.command("door.back", "locked")
        assert (refused.executed, refused.error, refused.data) == (False, "the door is locked", None)
    with pytest.raises(HubError) as caught:
        await client.command("door.front", "front")
    assert (caught.value.code, caught.value.status) == ("no_responder", 503)


async def test_a_query_is_cached_and_bytes_are_asked_over_http(client):
    asked = []

    async def handle(request):
        asked.append(request.data)
        return len(request.bytes)

    async with client.responder("size", handle) as responder:
        await responder.ready()
        replies = [await client.query("size", "x", cache_key="x", cache_ttl_ms=60_000) for _ in range(2)]
        assert [(reply.cache, reply.json(int)) for reply in replies] == [("miss", 3), ("hit", 3)]
        assert (await client.query("size", b"\x00\x01")).data == 2
    assert asked == ["x", b"\x00\x01"]


async def test_large_data_travels_by_reference(hub):
    async with local_hub(settings={"messaging.data_bytes_max": 4_096}) as small, small.client() as client:
        text, content = "x" * 10_000, bytes(range(256)) * 40
        await client.append("log", text, content)
        items = (await client.read("log")).items
        assert all(message.data_ref is not None for message in items)
        assert [(await client.fetch(message)).data for message in items] == [text, content]
        handled = asyncio.Queue()
        async with client.worker("orders", lambda delivery: handled.put(delivery.data)):
            await client.enqueue("orders", text)
            async with asyncio.timeout(5):
                assert await handled.get() == text


@pytest.mark.parametrize("megabytes", [9, 65])  # Above what a post may hold, and above the largest ordinary answer.
async def test_data_too_large_for_a_post_is_stored_first(client, megabytes):
    content = b"\x00" * (megabytes * 1024 * 1024)
    (receipt,) = await client.append("log", content)
    message = (await client.read("log")).items[0]
    assert (receipt.sequence, message.data_ref.size) == (1, len(content))
    assert (await client.fetch(message)).bytes == content


async def test_raw_json_too_large_for_a_post_is_stored_first(client):
    content = b'"' + b"x" * (9 * 1024 * 1024) + b'"'
    await client.append("log", msgspec.Raw(content))
    message = (await client.read("log")).items[0]
    assert message.data_ref.encoding == "json"
    assert (await client.fetch(message)).bytes == content


async def test_a_wrong_message_names_its_field_and_stores_nothing(client):
    with pytest.raises(HubError) as caught:
        await client.enqueue_many("orders", [NewMessage(data=1), NewMessage(data=2, delay_ms=-1)])
    assert caught.value.fields[0].field == "messages.1.delay_ms"
    assert not (await client.list_channels("queues")).items


async def test_many_callers_at_once_each_get_their_receipt(client):
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(client.enqueue("orders", n, id=f"m-{n}")) for n in range(1_000)]
    assert [call.result().id for call in calls] == [f"m-{n}" for n in range(1_000)]
    info = await client.channel_info("queues", "orders")
    assert info.figures["waiting"] == 1_000


async def test_programs_without_a_loop_have_the_simple_ones(hub):
    def program():
        with BlockingClient(hub.url) as client:
            client.publish("news", 1)
            assert client.append("log", "a")[0].sequence == 1
            assert client.read("log").items[0].data == "a"
            assert client.enqueue("orders", {"n": 1}, delay_ms=1).duplicate is False
            assert len(client.enqueue_many("orders", [1, 2])) == 2
            assert client.query("size", "abc").data == 5

    async def handle(request):
        return len(request.bytes)

    async with hub.client() as client, client.responder("size", handle) as responder:
        await responder.ready()
        await asyncio.to_thread(program)


async def test_a_slow_subscriber_is_told_what_it_missed():
    count = missed = 0
    async with (
        local_hub(settings={"messaging.event_buffer_max": 10}) as hub,
        hub.client() as client,
        client.subscribe("news") as feed,
        asyncio.timeout(10),
    ):
        for _ in range(40):
            await client.publish("news", *range(100))
        async for each in feed:
            missed += each.missed if isinstance(each, Missed) else 0
            count += not isinstance(each, Missed)
            if count + missed == 4_000:
                break
    assert missed > 0
