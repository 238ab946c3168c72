"""Channels of a hub that asks for keys: who may use them and who may change them, the same through every door."""

from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from meshway.client import HubError, MeshwayClient
from support.message_doors import DOORS, Door, Refusal, RestDoor, open_door


def key_of(headers: dict[str, str]) -> str:
    return headers["authorization"].removeprefix("Bearer ")


@pytest.fixture
async def ann(request, keyed) -> AsyncIterator[Door]:
    async with open_door(request.param, keyed.hub.url, key=key_of(keyed.ann)) as door:
        yield door


@pytest.fixture
async def bob(keyed) -> AsyncIterator[RestDoor]:
    async with open_door("rest", keyed.hub.url, key=key_of(keyed.bob)) as door:
        yield door


@pytest.fixture
async def admin(keyed) -> AsyncIterator[RestDoor]:
    async with open_door("rest", keyed.hub.url, key=key_of(keyed.admin)) as door:
        yield door


async def test_without_a_key_no_channel_is_used(keyed):
    async with httpx.AsyncClient(base_url=keyed.hub.url) as http:
        for method, path in (
            ("POST", "/v1/events/e"),
            ("GET", "/v1/events/e"),
            ("POST", "/v1/streams/s"),
            ("GET", "/v1/streams/s/messages"),
            ("POST", "/v1/queues/q/messages"),
            ("POST", "/v1/queues/q/lease"),
            ("POST", "/v1/queues/q/settle"),
            ("POST", "/v1/commands/c"),
            ("POST", "/v1/queries/c/lease"),
            ("PUT", "/v1/queues/q"),
            ("GET", "/v1/queues"),
            ("POST", "/v1/blobs"),
        ):
            answer = await http.request(method, path, json={} if method != "GET" else None)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.json()["code"] == "unauthenticated"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://127.0.0.1:{keyed.hub.port}/v1/ws"):
            pass
    assert refused.value.response.status_code == 401


async def test_a_key_that_may_only_serve_agents_uses_no_channel(keyed):
    key = key_of(keyed.server)
    async with open_door("rest", keyed.hub.url, key=key) as rest:
        for call in (
            rest.send("queues", "q", {"data": 1}),
            rest.send("events", "e", {"data": 1}),
            rest.lease("q"),
            rest.read("s", "first"),
            rest.ask("commands", "c", 1),
            rest.configure("streams", "s"),
        ):
            with pytest.raises(Refusal, match="forbidden"):
                await call
    async with MeshwayClient(keyed.hub.url, key) as client:
        with pytest.raises(HubError, match="call"):
            await client.enqueue("q", 1)


@pytest.mark.parametrize("ann", DOORS, indirect=True)
async def test_who_made_a_channel_and_an_admin_may_change_it_others_only_use_it(
    ann: Door, bob: RestDoor, admin: RestDoor, request
):
    name = f"annas.{request.node.callspec.params['ann']}"
    await ann.configure("queues", name, lease_ms=1_000)
    await bob.send("queues", name, {"data": "from bob"})
    (message,) = await ann.receive(name, 1)
    assert message["data"] == "from bob"
    for call in (
        bob.configure("queues", name, lease_ms=2_000),
        bob.purge(name),
        bob.redrive(name),
        bob.delete("queues", name),
    ):
        with pytest.raises(Refusal, match="forbidden"):
            await call
    assert (await bob.info("queues", name))["settings"]["lease_ms"] == 1_000
    await admin.configure("queues", name, lease_ms=3_000)
    assert (await ann.info("queues", name))["settings"]["lease_ms"] == 3_000
    await ann.delete("queues", name)
