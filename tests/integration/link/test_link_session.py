"""The connection as a whole: order, refusals that leave it standing, keys, limits and the drain."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from meshway.edges.http.websocket import WebSocketConnection
from meshway.edges.link.limits import KEY_CHECK_INTERVAL_S, REQUESTS_MAX
from meshway.messaging.settings import MessagingSettings
from support.channel_hub import ChannelHub, channel_hub
from support.link_client import LinkClient, link_client
from support.raw_websocket import RawWebSocket


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[ChannelHub]:
    async with channel_hub(tmp_path, messaging=MessagingSettings(data_bytes_max=2_048)) as hub:
        yield hub


@pytest.fixture
async def client(hub: ChannelHub) -> AsyncIterator[LinkClient]:
    async with link_client(hub.port) as client:
        yield client


async def create_key(hub: ChannelHub, *scopes: str, key: str | None = None) -> tuple[str, str]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    answer = await hub.http.post("/v1/keys", json={"name": "k", "scopes": list(scopes)}, headers=headers)
    return answer.json()["id"], answer.json()["key"]


# --- order ---


@pytest.mark.parametrize("kind", ["events", "streams"])
async def test_publishes_that_nobody_waits_for_keep_their_order(client: LinkClient, kind: str) -> None:
    """A new channel, hundreds of frames at once, some with data that takes a way of its own through the blobs."""
    if kind == "events":
        await client.subscribe("s", kind, "order", credit=1_000)
    for number in range(400):
        data = "x" * 4_000 if number % 50 == 0 else number
        await client.send("publish", ref=str(number), kind=kind, channel="order", messages=[{"data": data}])
    accepted = [await client.expect("accepted", ref=str(number)) for number in range(400)]
    if kind == "streams":
        assert [each["receipts"][0]["sequence"] for each in accepted] == list(range(1, 401))
        await client.subscribe("s", kind, "order", from_="first", credit=1_000)
    got = await client.messages("s", 400)
    assert [each.get("data") for each in got] == [None if n % 50 == 0 else n for n in range(400)]
    assert all("data_ref" in each for each in got[::50])


async def test_messages_of_one_frame_keep_their_order_in_an_ordered_queue(hub: ChannelHub, client: LinkClient) -> None:
    await hub.http.put("/v1/queues/line", json={"ordered": True})
    for start in range(0, 12, 4):
        messages = [{"data": start + n, "ordering_key": "k"} for n in range(4)]
        await client.send("publish", ref="x", kind="queues", channel="line", messages=messages)
    await client.subscribe("w", "queues", "line", credit=12)
    for number in range(12):
        (delivery,) = (await client.expect("deliveries", id="w"))["deliveries"]
        assert delivery["message"]["data"] == number
        settlement = {"delivery_id": delivery["delivery_id"], "action": "ack"}
        await client.send("settle", ref="s", queue="line", settlements=[settlement])


# --- refusals ---


@pytest.mark.parametrize(
    ("frame", "code", "field"),
    [
        ({"type": "publish", "kind": "queues", "channel": "q", "messages": [{"data": 1, "delay_ms": -1}]},
         "invalid_request", "messages.0.delay_ms"),
        ({"type": "publish", "kind": "queues", "channel": "q", "messages": [{"data": 1}, {"data": 1, "nope": 1}]},
         "invalid_request", "messages.1.nope"),
        ({"type": "publish", "kind": "queues", "channel": "q", "messages": {"data": 1}}, "invalid_request", "messages"),
        ({"type": "publish", "kind": "queues", "channel": "q", "messages": []}, "invalid_request", "messages"),
        ({"type": "publish", "kind": "queues", "channel": "a b", "messages": [{"data": 1}]},
         "invalid_request", "channel"),
        ({"type": "publish", "kind": "events", "channel": "_x", "messages": [{"data": 1}]},
         "invalid_request", "channel"),
        ({"type": "publish", "kind": "queries", "channel": "q", "messages": [{"data": 1}]}, "invalid_request", "kind"),
        ({"type": "publish", "kind": "topics", "channel": "q", "messages": []}, "invalid_request", "kind"),
        ({"type": "publish", "kind": "events", "messages": []}, "invalid_request", "channel"),
        ({"type": "settle", "queue": "q", "settlements": [{"delivery_id": "x", "action": "eat"}]},
         "invalid_request", "settlements.0.action"),
        ({"type": "settle", "queue": "q", "settlements": []}, "invalid_request", "settlements"),
        ({"type": "ack", "channel": "s", "reader": "nobody", "sequence": 0}, "reader_not_found", None),
        ({"type": "reply", "request_id": "made up"}, "invalid_request", "request_id"),
        ({"type": "request", "kind": "events", "channel": "q", "data": 1}, "invalid_request", "kind"),
        ({"type": "request", "kind": "queries", "channel": "q"}, "invalid_request", None),
        ({"type": "request", "kind": "queries", "channel": "q", "data": 1, "timeout_ms": -5},
         "invalid_request", "timeout_ms"),
        ({"type": "teleport"}, "method_unknown", None),
        ({}, "method_unknown", None),
    ],
)  # fmt: skip
async def test_a_wrong_request_is_refused_by_its_ref_and_the_connection_goes_on(
    hub: ChannelHub, client: LinkClient, frame: dict, code: str, field: str | None
) -> None:
    await client.socket.send(json.dumps(frame | {"ref": "mine"}))
    error = await client.expect("error", ref="mine")
    assert error["problem"]["code"] == code
    if field is not None:
        assert [each["field"] for each in error["problem"]["errors"]] == [field]
    assert "id" not in error
    await client.silence()
    assert await hub.stored("q") == 0


@pytest.mark.parametrize(
    ("frame", "code", "field"),
    [
        ({"type": "subscribe", "kind": "topics", "channel": "a"}, "invalid_request", "kind"),
        ({"type": "subscribe", "kind": "events", "channel": "a..b"}, "invalid_request", "channel"),
        ({"type": "subscribe", "kind": "events", "channel": "a", "group": "no spaces"}, "invalid_request", "group"),
        ({"type": "subscribe", "kind": "events", "channel": "a", "credit": -1}, "invalid_request", "credit"),
        ({"type": "subscribe", "kind": "events", "channel": "a", "credit": 10**9}, "invalid_request", "credit"),
        ({"type": "subscribe", "kind": "events", "channel": "a", "credit": "many"}, "invalid_request", "credit"),
        ({"type": "subscribe", "kind": "queues", "channel": "a.*"}, "invalid_request", "channel"),
        ({"type": "subscribe", "kind": "streams", "channel": "a", "from": "yesterday"}, "invalid_request", "from"),
        ({"type": "subscribe", "kind": "streams", "channel": "a", "cursor": "?"}, "invalid_request", "cursor"),
        ({"type": "subscribe", "kind": "streams", "channel": "a", "reader": "nobody"}, "reader_not_found", None),
        ({"type": "credit", "messages": 1}, "not_found", None),
        ({"type": "unsubscribe"}, "not_found", None),
    ],
)
async def test_a_wrong_subscription_is_refused_by_its_id_and_the_connection_goes_on(
    client: LinkClient, frame: dict, code: str, field: str | None
) -> None:
    await client.socket.send(json.dumps(frame | {"id": "mine"}))
    error = await client.expect("error", id="mine")
    assert error["problem"]["code"] == code
    if field is not None:
        assert [each["field"] for each in error["problem"]["errors"]] == [field]
    await client.silence()
    assert client.kept == []
    assert (await client.subscribe("mine", "events", "a"))["type"] == "subscribed"


async def test_credit_that_is_none_leaves_the_subscription_as_it_was(client: LinkClient) -> None:
    await client.subscribe("e", "events", "a", credit=1)
    await client.send("credit", id="e", messages=0)
    assert (await client.expect("error", id="e"))["problem"]["errors"][0]["field"] == "messages"
    await client.publish("events", "a", 1)
    assert len(await client.messages("e", 1)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[1,2]",
        '"text"',
        '{"type":"ping","ref":',
        '{"type":"subscribe","kind":"events","channel":"a"}',
        '{"type":"publish","ref":"","kind":"events","channel":"a","messages":[]}',
        '{"type":"publish","ref":7,"kind":"events","channel":"a","messages":[]}',
        "[" * 100_000,
        '{"type":"publish","ref":"a","kind":"events","channel":"a","messages":' + "[" * 100_000,
        "",
    ],
)
async def test_what_cannot_be_read_ends_the_connection_and_says_why(client: LinkClient, text: str) -> None:
    await client.socket.send(text)
    error = await client.expect("error")
    assert "id" not in error
    assert "ref" not in error
    assert error["problem"]["detail"]
    assert await client.closed() == 1007


async def test_text_that_is_no_utf8_is_not_passed_on(hub: ChannelHub) -> None:
    client = await RawWebSocket.open(hub.port)
    client.send(b'{"type":"publish","ref":"a","kind":"queues","channel":"q","messages":[{"data":"\xff\xfe"}]}')
    assert await client.closed() == 1007
    assert await hub.stored("q") == 0
    client.abort()


async def test_more_requests_than_may_wait_are_refused_one_by_one(client: LinkClient) -> None:
    await client.subscribe("r", "queries", "slow")
    for number in range(REQUESTS_MAX + 1):
        await client.send("request", ref=str(number), kind="queries", channel="slow", data=1, timeout_ms=5_000)
    refused = await client.expect("error")
    assert refused["ref"] == str(REQUESTS_MAX)
    assert refused["problem"]["code"] == "too_many_in_flight"
    assert refused["problem"]["retry_after_ms"] > 0


# --- keys ---


async def test_a_key_is_asked_for_and_its_scope_holds_frame_by_frame(hub: ChannelHub) -> None:
    _, admin = await create_key(hub, "admin")
    _, worker = await create_key(hub, "serve:x", key=admin)
    with pytest.raises(InvalidStatus) as refused:
        async with link_client(hub.port):
            pass
    assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus):
        async with link_client(hub.port, authorization="Bearer mw_wrong"):
            pass
    async with link_client(hub.port, authorization=f"Bearer {worker}") as client:
        for kind in ("events", "streams", "queues", "queries"):
            assert (await client.subscribe("s", kind, "a", credit=1))["problem"]["code"] == "forbidden"
        assert (await client.publish("queues", "a", 1))["problem"]["code"] == "forbidden"
        await client.silence()
        assert client.kept == []


async def test_a_connection_whose_key_was_revoked_is_closed(hub: ChannelHub) -> None:
    _, admin = await create_key(hub, "admin")
    key_id, key = await create_key(hub, "call", key=admin)
    headers = {"authorization": f"Bearer {admin}"}
    async with link_client(hub.port, authorization=f"Bearer {key}") as client:
        await client.subscribe("s", "events", "a", credit=1)
        assert (await hub.http.delete(f"/v1/keys/{key_id}", headers=headers)).status_code == 200
        runtime = hub.hub.server._runtime
        (connection,) = [each for each in runtime.connections if isinstance(each, WebSocketConnection)]
        connection.sweep(asyncio.get_running_loop().time() + KEY_CHECK_INTERVAL_S)
        assert await client.closed() == 4401


# --- the end ---


async def test_what_crosses_with_the_end_of_a_subscription_is_no_mistake(client: LinkClient) -> None:
    """The client hears of the end after it has sent: it must not take this for a refusal."""
    await client.subscribe("e", "events", "a", credit=1)
    await client.send("unsubscribe", id="e")
    await client.expect("unsubscribed", id="e")
    refused = await client.subscribe("s", "streams", "a", reader="nobody")
    assert refused["problem"]["code"] == "reader_not_found"
    for id_ in ("e", "s"):
        await client.send("credit", id=id_, messages=1)
        await client.send("unsubscribe", id=id_)
        await client.expect("unsubscribed", id=id_)
    await client.silence()
    assert client.kept == []
    # The name is free again.
    await client.subscribe("e", "events", "a", credit=1)
    await client.publish("events", "a", 1)
    assert len(await client.messages("e", 1)) == 1


async def test_who_holds_nothing_is_let_go_as_soon_as_the_hub_drains(hub: ChannelHub, client: LinkClient) -> None:
    await client.subscribe("e", "events", "a", credit=10)
    await client.subscribe("w", "queues", "work", credit=10)
    hub.drain()
    assert (await client.expect("draining"))["within_ms"] > 0
    assert await client.closed() == 1012
    async with asyncio.timeout(5):
        await hub.serving


async def test_a_worker_may_settle_what_it_holds_while_the_hub_drains(hub: ChannelHub, client: LinkClient) -> None:
    await client.subscribe("w", "queues", "work", credit=2)
    await client.publish("queues", "work", 1, 2, 3)
    held: list[dict] = []
    while len(held) < 2:
        held += (await client.expect("deliveries"))["deliveries"]
    hub.drain()
    await client.expect("draining")
    await client.send("credit", id="w", messages=5)
    assert (await client.subscribe("late", "events", "a"))["problem"]["code"] == "draining"
    settlements = [{"delivery_id": each["delivery_id"], "action": "ack"} for each in held]
    assert (await client.ask("settle", queue="work", settlements=settlements[:1]))["outcomes"] == ["done"]
    assert (await client.ask("settle", queue="work", settlements=settlements[1:]))["outcomes"] == ["done"]
    assert await client.closed() == 1012
    # The third was not taken on the way out, and credit that met the drain on the way is no mistake.
    assert not [frame for frame in client.kept if frame["type"] in ("deliveries", "error")]


async def test_a_responder_may_answer_what_it_holds_while_the_hub_drains(hub: ChannelHub, client: LinkClient) -> None:
    async with link_client(hub.port) as asking:
        await client.subscribe("r", "queries", "ask", credit=2)
        await asking.send("request", ref="q", kind="queries", channel="ask", data=1)
        (request,) = (await client.expect("requests"))["requests"]
        hub.drain()
        await client.expect("draining")
        assert (await client.ask("reply", request_id=request["request_id"], data=2))["outcome"] == "done"
        assert (await asking.expect("response", ref="q"))["data"] == 2
        assert await client.closed() == 1012
        assert await asking.closed() == 1012


async def test_all_a_client_had_is_gone_with_it(hub: ChannelHub) -> None:
    runtime = hub.hub.server._runtime
    async with link_client(hub.port) as client:
        for number in range(20):
            for kind in ("events", "streams", "queues", "queries"):
                await client.subscribe(f"{kind}{number}", kind, f"a{number}", credit=1)
        before = len(asyncio.all_tasks())
    async with asyncio.timeout(5):
        while [each for each in runtime.connections if isinstance(each, WebSocketConnection)]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while len(asyncio.all_tasks()) > before - 80:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    async with link_client(hub.port) as client:
        answer = await client.ask("request", kind="queries", channel="a1", data=1)
        assert answer["problem"]["code"] == "no_responder"
