"""Sends of the SDK against a scripted hub: kept once, in order, each caller with the answer that is theirs."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from meshway.client import ConnectionLost, HubError, HubUnreachable, MeshwayClient, NewMessage
from meshway.protocols.link import frames
from support.fake_link_hub import document, fake_link_hub, problem


def messages_of(frame):
    return json.loads(bytes(frame.messages))


def posts(hub):
    return [messages_of(frame) for frame in hub.of(frames.Publish)]


async def test_a_message_carries_what_was_said_of_it():
    async with fake_link_hub(api_key="mw_x") as (hub, client):
        receipt = await client.enqueue(
            "orders",
            {"tea": 2},
            id="o-1",
            attributes={"from": "shop"},
            delay_ms=5,
            deliver_at=datetime(2027, 1, 2, tzinfo=UTC),
            priority="high",
            ordering_key="k",
        )
    frame = hub.of(frames.Publish)[0]
    assert (frame.kind, frame.channel, receipt.id, receipt.duplicate) == ("queues", "orders", "o-1", False)
    assert messages_of(frame) == [
        {
            "id": "o-1",
            "data": {"tea": 2},
            "attributes": {"from": "shop"},
            "delay_ms": 5,
            "deliver_at": "2027-01-02T00:00:00.000Z",
            "priority": "high",
            "ordering_key": "k",
        }
    ]
    assert hub.handshakes[0]["Authorization"] == "Bearer mw_x"


async def test_bytes_travel_as_base64_and_what_json_cannot_say_is_refused_before_it_is_sent():
    async with fake_link_hub() as (hub, client):
        await client.publish("raw", b"\x00\xff")
        with pytest.raises(TypeError, match="object is no JSON"):
            await client.publish("raw", object())
        with pytest.raises(ValueError, match="time zone"):
            await client.enqueue("q", 1, deliver_at=datetime(2027, 1, 2))  # noqa: DTZ001
    assert [post[0]["data_base64"] for post in posts(hub)] == ["AP8="]


async def test_calls_at_the_same_moment_travel_together_and_each_gets_its_own_receipt():
    async with fake_link_hub() as (hub, client), asyncio.TaskGroup() as group:
        calls = [group.create_task(client.enqueue("orders", n, id=f"m-{n}")) for n in range(200)]
    assert [call.result().id for call in calls] == [f"m-{n}" for n in range(200)]
    assert len(posts(hub)) <= 3
    assert [each["id"] for post in posts(hub) for each in post] == [f"m-{n}" for n in range(200)]


async def test_a_message_whose_answer_was_lost_is_sent_again_with_the_same_id():
    async with fake_link_hub() as (hub, client):

        async def die_first(connection, frame):
            if len(hub.connections) == 1:
                hub.drop()
            else:
                await hub.accept_all(connection, frame)

        hub.answer = die_first
        receipt = await client.enqueue("orders", 1)
    first, second = (post[0]["id"] for post in posts(hub))
    assert first == second == receipt.id


async def test_the_repeat_of_an_own_id_is_no_duplicate_to_the_caller_but_that_of_a_given_id_is():
    async with fake_link_hub() as (hub, client):

        async def had_it(connection, frame):
            receipts = [frames.Receipt(id=each["id"], duplicate=True) for each in messages_of(frame)]
            await hub.send(frames.Accepted(ref=frame.ref, receipts=receipts))

        hub.answer = had_it
        assert (await client.enqueue("orders", 1)).duplicate is False
        assert (await client.enqueue("orders", 1, id="mine")).duplicate is True
        assert (await client.enqueue("orders", 1, dedupe_id="d")).duplicate is True


async def test_order_is_kept_over_a_broken_connection():
    async with fake_link_hub() as (hub, client):
        await client.append("log", 0)
        hub.drop()
        async with asyncio.TaskGroup() as group:
            for n in range(1, 6):
                group.create_task(client.append("log", n))
    sent = [each["data"] for post in posts(hub) for each in post]
    assert list(dict.fromkeys(sent)) == [0, 1, 2, 3, 4, 5]


async def test_a_hub_that_is_not_there_is_waited_for_and_then_unreachable():
    async with fake_link_hub(send_timeout_s=0.4) as (hub, client):
        await hub.stop()
        with pytest.raises(HubUnreachable, match="meshway up"):
            await client.enqueue("orders", 1)
        await hub.start()
        assert (await client.enqueue("orders", 2, id="later")).id == "later"


@pytest.mark.parametrize("kind", ["command", "query"])
async def test_a_request_to_a_hub_that_is_not_there_fails_long_before_its_reply_would_be_given_up(kind):
    async with MeshwayClient("http://127.0.0.1:9", send_timeout_s=0.3) as client, asyncio.timeout(5):
        with pytest.raises(HubUnreachable, match="meshway up"):
            await getattr(client, kind)("robots.arm", {"move": 1})


async def test_a_hub_that_never_answers_may_have_acted():
    async with fake_link_hub(send_timeout_s=0.3) as (hub, client):

        async def silence(connection, frame):
            return

        hub.answer = silence
        with pytest.raises(ConnectionLost) as caught:
            await client.enqueue("orders", 1)
    assert caught.value.may_have_acted


async def test_unavailable_is_repeated_and_a_full_channel_is_raised_at_once():
    async with fake_link_hub() as (hub, client):
        answers = [problem("engine_unavailable", 503), problem("draining", 503), problem("channel_full", 429)]

        async def refuse(connection, frame):
            if answers:
                await hub.send(frames.Error(ref=frame.ref, problem=answers.pop(0)))
            else:
                await hub.accept_all(connection, frame)

        hub.answer = refuse
        with pytest.raises(HubError) as caught:
            await client.enqueue("orders", 1)
        assert caught.value.code == "channel_full"
        assert len({post[0]["id"] for post in posts(hub)}) == 1
        assert len(posts(hub)) == 3


async def test_one_wrong_message_among_many_fails_its_own_caller_only():
    async with fake_link_hub() as (hub, client):

        async def check(connection, frame):
            sent = messages_of(frame)
            wrong = [n for n, each in enumerate(sent) if each["data"] == "bad"]
            if not wrong:
                await hub.accept_all(connection, frame)
                return
            field = {"field": f"messages.{wrong[0]}.data", "message": "is bad"}
            refusal = problem("invalid_request", 400, errors=[field])
            await hub.send(frames.Error(ref=frame.ref, problem=refusal))

        hub.answer = check
        data = ["a", "b", "bad", "c"]
        results = await asyncio.gather(*(client.enqueue("orders", each) for each in data), return_exceptions=True)
    assert [isinstance(each, HubError) for each in results] == [False, False, True, False]
    assert results[2].fields[0].field == "messages.0.data"


async def test_a_long_list_goes_in_parts_and_a_refusal_says_what_was_kept():
    async with fake_link_hub() as (hub, client):

        async def refuse_second(connection, frame):
            if len(hub.of(frames.Publish)) == 2:
                receipts = [{"id": "m-500", "duplicate": False}, None]
                refusal = problem("channel_full", 429, receipts=receipts)
                await hub.send(frames.Error(ref=frame.ref, problem=refusal))
            else:
                await hub.accept_all(connection, frame)

        hub.answer = refuse_second
        with pytest.raises(HubError) as caught:
            await client.enqueue_many("orders", [NewMessage(data=n, id=f"m-{n}") for n in range(700)])
    assert [len(post) for post in posts(hub)] == [500, 200]
    assert caught.value.accepted == tuple(f"m-{n}" for n in range(501))


async def test_a_caller_that_leaves_before_its_message_is_sent_takes_it_back():
    async with fake_link_hub() as (hub, client):
        await hub.stop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.enqueue("orders", "left")
        kept = asyncio.ensure_future(client.enqueue("orders", "kept"))
        await hub.start()
        await kept
    assert [each["data"] for post in posts(hub) for each in post][-1] == "kept"


async def test_a_wrong_key_is_raised_at_once_and_a_busy_hub_is_tried_again():
    async with fake_link_hub() as (hub, client):
        hub.refuse_with = (401, bytes(problem("unauthenticated", 401)))
        with pytest.raises(HubError) as caught:
            await client.enqueue("orders", 1)
        assert caught.value.code == "unauthenticated"
        hub.refuse_with = (503, bytes(problem("draining", 503)))
        call = asyncio.ensure_future(client.enqueue("orders", 2))
        await hub.until(lambda: len(hub.handshakes) >= 3)
        hub.refuse_with = None
        await call


async def test_a_newer_protocol_is_named():
    async with fake_link_hub() as (hub, client):
        hub.protocol = 2
        with pytest.raises(Exception, match="upgrade meshway"):
            await client.enqueue("orders", 1)


async def test_a_message_larger_than_a_frame_is_refused_here():
    async with fake_link_hub() as (hub, client):
        hub.frame_bytes_max = 1_000
        with pytest.raises(HubError) as caught:
            await client.enqueue("orders", "x" * 2_000)
    assert (caught.value.code, hub.of(frames.Publish)) == ("payload_too_large", [])


async def test_a_draining_hub_gets_nothing_new_and_the_next_one_gets_it():
    async with fake_link_hub() as (hub, client):
        await client.enqueue("orders", 1)
        await hub.send(frames.Draining(within_ms=1_000))
        await hub.send(frames.Subscribed(id="nobody"))
        call = asyncio.ensure_future(client.enqueue("orders", 2))
        await asyncio.sleep(0)
        await hub.connections[0].close(1012)
        await call
    assert len(hub.connections) == 2


async def test_a_command_is_sent_once_and_a_query_again():
    async with fake_link_hub() as (hub, client):
        await client.publish("warm", 1)

        async def die_once(connection, frame):
            if isinstance(frame, frames.Request) and len(hub.of(frames.Request)) in (1, 2):
                hub.drop()
            else:
                await hub.accept_all(connection, frame)

        hub.answer = die_once
        with pytest.raises(ConnectionLost) as caught:
            await client.command("door", "open", timeout_ms=4_000)
        assert caught.value.may_have_acted
        reply = await client.query("price", {"of": "tea"}, cache_key="tea", cache_ttl_ms=10)
    assert (reply.executed, reply.data) == (True, {"of": "tea"})
    assert [frame.kind for frame in hub.of(frames.Request)] == ["commands", "queries", "queries"]


async def test_closing_the_client_fails_what_still_waits():
    async with fake_link_hub() as (hub, _):
        client = MeshwayClient(hub.url)

        async def silence(connection, frame):
            return

        hub.answer = silence
        call = asyncio.ensure_future(client.enqueue("orders", 1))
        await hub.next_of(frames.Publish)
        await client.aclose()
        with pytest.raises(ConnectionLost, match="closed"):
            await call
        with pytest.raises(RuntimeError, match="closed"):
            await client.enqueue("orders", 2)


def test_documents_of_the_fake_hub_are_json():
    assert json.loads(bytes(document("a", 1)))["data"] == 1
