"""Subscriptions over one WebSocket of a whole hub: what arrives, in which order, as far as credit goes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshway.edges.http.websocket import WebSocketConnection
from meshway.edges.link.limits import SUBSCRIPTIONS_MAX
from meshway.messaging.settings import MessagingSettings
from support.channel_hub import ChannelHub, channel_hub
from support.link_client import LinkClient, link_client


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[ChannelHub]:
    async with channel_hub(tmp_path, messaging=MessagingSettings(event_buffer_max=50)) as hub:
        yield hub


@pytest.fixture
async def client(hub: ChannelHub) -> AsyncIterator[LinkClient]:
    async with link_client(hub.port) as client:
        yield client


def numbers(messages: list[dict]) -> list[object]:
    return [message["data"] for message in messages]


async def test_events_arrive_in_order_as_far_as_credit_goes(client: LinkClient) -> None:
    await client.subscribe("e", "events", "a.*", credit=3)
    await client.publish("events", "a.b", *range(5))
    assert numbers(await client.messages("e", 3)) == [0, 1, 2]
    await client.silence()
    assert client.kept == []
    await client.send("credit", id="e", messages=1)
    assert numbers(await client.messages("e", 1)) == [3]
    await client.send("credit", id="e", messages=100)
    assert numbers(await client.messages("e", 1)) == [4]


async def test_a_subscriber_without_credit_hears_how_many_it_missed(client: LinkClient) -> None:
    await client.subscribe("e", "events", "busy")
    for start in range(0, 80, 10):
        await client.publish("events", "busy", *range(start, start + 10))
    await client.send("credit", id="e", messages=1_000)
    missed = await client.expect("missed", id="e")
    assert missed["missed"] == 30
    assert len(await client.messages("e", 50)) == 50


async def test_members_of_a_group_share_events(hub: ChannelHub, client: LinkClient) -> None:
    async with link_client(hub.port) as other:
        for each in (client, other):
            await each.subscribe("e", "events", "shared", group="g", credit=100)
        await client.publish("events", "shared", *range(20))
        await client.silence()
        await other.silence()
        got = [
            numbers(frame["messages"]) for each in (client, other) for frame in each.kept if frame["type"] == "messages"
        ]
        assert sorted(number for each in got for number in each) == list(range(20))


async def test_a_stream_is_replayed_and_then_live_and_resumes_after_its_cursor(
    hub: ChannelHub, client: LinkClient
) -> None:
    await client.publish("streams", "log", *range(5))
    began = await client.subscribe("s", "streams", "log", from_="first", credit=1_000)
    assert began["cursor"] == "0"
    assert numbers(await client.messages("s", 5)) == [0, 1, 2, 3, 4]
    await client.publish("streams", "log", 5)
    frame = await client.expect("messages", id="s")
    assert [(each["sequence"], each["data"]) for each in frame["messages"]] == [(6, 5)]
    assert frame["cursor"] == "6"
    await client.publish("streams", "log", 6, 7)
    async with link_client(hub.port) as again:
        await again.subscribe("s", "streams", "log", cursor=frame["cursor"], credit=10)
        assert numbers(await again.messages("s", 2)) == [6, 7]


async def test_who_is_cut_before_the_first_message_resumes_without_a_gap(hub: ChannelHub, client: LinkClient) -> None:
    await client.publish("streams", "log", 1, 2)
    began = await client.subscribe("s", "streams", "log")
    await client.socket.close()
    async with link_client(hub.port) as again:
        await again.publish("streams", "log", 3)
        await again.subscribe("s", "streams", "log", cursor=began["cursor"], credit=10)
        assert numbers(await again.messages("s", 1)) == [3]


async def test_a_pattern_of_streams_resumes_after_its_cursor(hub: ChannelHub, client: LinkClient) -> None:
    await client.publish("streams", "p.a", 1)
    await client.publish("streams", "p.b", 2)
    await client.publish("streams", "p.a", 3)
    await client.subscribe("s", "streams", "p.*", from_="first", credit=2)
    first = await client.expect("messages", id="s")
    assert numbers(first["messages"]) == [1, 2]
    async with link_client(hub.port) as again:
        await again.subscribe("s", "streams", "p.*", cursor=first["cursor"], credit=10)
        assert numbers(await again.messages("s", 1)) == [3]


async def test_a_reader_goes_on_after_what_it_acknowledged(hub: ChannelHub, client: LinkClient) -> None:
    await client.publish("streams", "log", *range(4))
    answer = await hub.http.put("/v1/streams/log/readers/me", json={"from": "first"})
    assert answer.status_code in (200, 201)
    await client.subscribe("s", "streams", "log", reader="me", credit=10)
    assert numbers(await client.messages("s", 4)) == [0, 1, 2, 3]
    assert (await client.ask("ack", channel="log", reader="me", sequence=3))["sequence"] == 3
    # A position never goes back.
    assert (await client.ask("ack", channel="log", reader="me", sequence=1))["sequence"] == 3
    async with link_client(hub.port) as again:
        await again.subscribe("s", "streams", "log", reader="me", credit=10)
        assert numbers(await again.messages("s", 1)) == [3]


async def test_a_worker_leases_no_more_than_its_credit(hub: ChannelHub, client: LinkClient) -> None:
    await client.subscribe("w", "queues", "work", credit=2)
    await client.publish("queues", "work", *range(5))
    held = []
    while len(held) < 2:
        held += (await client.expect("deliveries", id="w"))["deliveries"]
    await client.silence()
    assert client.kept == []
    # Nothing else is leased: another worker finds the rest.
    answer = await hub.http.post("/v1/queues/work/lease", json={"count": 10, "wait_ms": 0})
    assert [each["message"]["data"] for each in answer.json()["deliveries"]] == [2, 3, 4]
    settlements = [
        {"delivery_id": held[0]["delivery_id"], "action": "ack"},
        {"delivery_id": held[1]["delivery_id"], "action": "retry", "delay_ms": 0},
        {"delivery_id": "1.00000000.nobody", "action": "ack"},
    ]
    settled = await client.ask("settle", queue="work", settlements=settlements)
    assert settled["outcomes"] == ["done", "done", "stale"]
    await client.send("credit", id="w", messages=1)
    (again,) = (await client.expect("deliveries", id="w"))["deliveries"]
    assert (again["attempt"], again["message"]["data"]) == (2, 1)


async def test_a_worker_that_leaves_between_two_leases_takes_nothing_with_it(
    hub: ChannelHub, client: LinkClient
) -> None:
    for _ in range(20):
        async with link_client(hub.port) as worker:
            await worker.subscribe("w", "queues", "work", credit=1)
            # The message and the end of its worker meet in the hub.
            await asyncio.gather(client.publish("queues", "work", 1), worker.send("unsubscribe", id="w"))
            await worker.expect("unsubscribed", id="w")
            handed = [each for frame in worker.kept for each in frame.get("deliveries", [])]
        answer = await hub.http.post("/v1/queues/work/lease", json={"count": 10, "wait_ms": 1_000 if not handed else 0})
        left = answer.json()["deliveries"]
        assert len(left) + len(handed) == 1
        # What was given back inside the hub was no attempt.
        assert all(each["attempt"] == 1 for each in left)
        done = [{"delivery_id": each["delivery_id"], "action": "ack"} for each in left + handed]
        assert (await client.ask("settle", queue="work", settlements=done))["outcomes"] == ["done"]


@pytest.mark.parametrize("kind", ["commands", "queries"])
async def test_requests_go_to_a_responder_and_back(hub: ChannelHub, client: LinkClient, kind: str) -> None:
    async with link_client(hub.port) as responder:
        await responder.subscribe("r", kind, "ask.*", credit=10)
        await client.send("request", ref="q", kind=kind, channel="ask.me", data={"q": 1}, timeout_ms=5_000)
        (request,) = (await responder.expect("requests", id="r"))["requests"]
        assert request["message"]["data"] == {"q": 1}
        assert request["timeout_ms"] <= 5_000
        answer = {"request_id": request["request_id"], "data": {"a": 2}}
        assert (await responder.ask("reply", **answer))["outcome"] == "done"
        response = await client.expect("response", ref="q")
        assert (response["executed"], response["data"]) == (True, {"a": 2})
        assert (await responder.ask("reply", **answer))["outcome"] == "stale"


async def test_a_refused_command_says_why(hub: ChannelHub, client: LinkClient) -> None:
    await client.subscribe("r", "commands", "do", credit=1)
    await client.send("request", ref="q", kind="commands", channel="do", data=1)
    (request,) = (await client.expect("requests", id="r"))["requests"]
    await client.ask("reply", request_id=request["request_id"], executed=False, error="not today")
    response = await client.expect("response", ref="q")
    assert (response["executed"], response["error"]) == (False, "not today")


async def test_nobody_there_is_an_error_at_once(client: LinkClient) -> None:
    answer = await client.ask("request", kind="queries", channel="nobody", data=1)
    assert answer["problem"]["code"] == "no_responder"


async def test_requests_waiting_for_their_replies_do_not_hold_up_the_replies(client: LinkClient) -> None:
    await client.subscribe("r", "queries", "self", credit=500)
    for number in range(200):
        await client.send("request", ref=f"q{number}", kind="queries", channel="self", data=number, timeout_ms=5_000)
    asked: list[dict] = []
    while len(asked) < 200:
        asked += (await client.expect("requests", id="r"))["requests"]
    for request in asked:
        await client.send("reply", ref="x", request_id=request["request_id"], data=request["message"]["data"])
    got = [await client.expect("response") for _ in range(200)]
    assert {each["ref"]: each["data"] for each in got} == {f"q{n}": n for n in range(200)}


async def test_a_thousand_subscriptions_live_on_one_connection_and_one_more_is_refused(client: LinkClient) -> None:
    for number in range(SUBSCRIPTIONS_MAX):
        await client.send("subscribe", id=str(number), kind="events", channel=f"many.{number}", credit=1)
    for number in range(SUBSCRIPTIONS_MAX):
        await client.expect("subscribed", id=str(number))
    refused = await client.subscribe("more", "events", "more")
    assert refused["problem"]["code"] == "too_many_in_flight"
    for number in range(0, SUBSCRIPTIONS_MAX, 100):
        await client.publish("events", f"many.{number}", number)
        assert numbers(await client.messages(str(number), 1)) == [number]
    await client.send("unsubscribe", id="0")
    await client.expect("unsubscribed", id="0")
    assert (await client.subscribe("more", "events", "more"))["type"] == "subscribed"


async def test_an_id_is_free_again_once_its_subscription_has_ended(client: LinkClient) -> None:
    await client.subscribe("e", "events", "a", credit=10)
    again = await client.subscribe("e", "events", "b")
    assert again["problem"]["code"] == "conflict"
    await client.publish("events", "a", 1)
    assert numbers(await client.messages("e", 1)) == [1]
    await client.send("unsubscribe", id="e")
    await client.expect("unsubscribed", id="e")
    await client.publish("events", "a", 2)
    await client.subscribe("e", "events", "b", credit=1)
    await client.publish("events", "b", 3)
    assert numbers(await client.messages("e", 1)) == [3]


async def test_a_subscriber_that_reads_nothing_slows_nobody_and_resumes(hub: ChannelHub, client: LinkClient) -> None:
    async with link_client(hub.port) as slow:
        await slow.subscribe("s", "streams", "log", from_="first", credit=1_000_000)
        await client.subscribe("s", "streams", "log", from_="first", credit=1_000_000)
        slow.socket.transport.pause_reading()
        text = "x" * 100_000
        for _ in range(10):
            await client.publish("streams", "log", *[text] * 20)
            assert len(await client.messages("s", 20)) == 20
        slow.socket.transport.resume_reading()
        assert len(await slow.messages("s", 200)) == 200


async def test_large_messages_have_frames_of_their_own(client: LinkClient) -> None:
    texts = [letter * 700_000 for letter in "abc"]
    for text in texts:
        await client.publish("streams", "big", text)
    await client.subscribe("s", "streams", "big", from_="first", credit=10)
    frames = [await client.expect("messages", id="s") for _ in range(3)]
    assert [frame["messages"][0]["data"] for frame in frames] == texts
    assert [len(frame["messages"]) for frame in frames] == [1, 1, 1]


async def test_many_subscriptions_of_a_client_that_reads_nothing_cost_one_frame(
    hub: ChannelHub, client: LinkClient
) -> None:
    async with link_client(hub.port) as slow:
        for number in range(60):
            await slow.subscribe(str(number), "events", "big", credit=1_000)
        slow.socket.transport.pause_reading()
        for _ in range(10):
            await client.publish("events", "big", "x" * 200_000)
        (connection,) = [
            each
            for each in hub.hub.server._runtime.connections
            if isinstance(each, WebSocketConnection) and each.must_drain
        ]
        assert connection.transport.get_write_buffer_size() < 2_000_000
        slow.socket.transport.resume_reading()
        for number in range(60):
            assert len(await slow.messages(str(number), 10)) == 10
