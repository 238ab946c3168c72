"""CloudEvents in each of their modes, and data too large to travel with its message, through a running hub."""

import hashlib
import json
import os
from collections.abc import AsyncIterator

import pytest

from meshway.client import MeshwayClient
from support.hub_process import HubProcess
from support.message_doors import RestDoor, open_door

EVENT = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/orders",
    "type": "order.made",
    "subject": "ü",
    "time": "2026-11-22T10:00:00Z",
    "data": {"order": 7},
}
MEBIBYTE = 1024 * 1024


@pytest.fixture
async def rest(message_hub: HubProcess) -> AsyncIterator[RestDoor]:
    async with open_door("rest", message_hub.url) as rest:
        yield rest


@pytest.mark.parametrize("kind", ["streams", "queues"])
async def test_cloudevents_of_each_mode_are_read_back(rest: RestDoor, kind: str):
    name = f"ce.{kind}"
    path = f"/v1/{kind}/{name}" + ("/messages" if kind == "queues" else "")
    binary = {"ce-" + key: value for key, value in EVENT.items() if key not in ("data", "subject")}
    posts = [
        ("application/cloudevents+json", json.dumps(EVENT).encode(), {}),
        (
            "application/cloudevents-batch+json",
            json.dumps([EVENT | {"id": "e-2"}, EVENT | {"id": "e-3", "data": None}]).encode(),
            {},
        ),
        (
            "application/octet-stream",
            b"\x00\xff",
            binary | {"ce-id": "e-4", "ce-subject": "%C3%BC"},
        ),
    ]
    for content_type, body, headers in posts:
        answer = await rest.http.post(path, content=body, headers={"content-type": content_type, **headers})
        assert answer.status_code == 202, answer.text
    repeated = await rest.http.post(path, content=posts[0][1], headers={"content-type": posts[0][0]})
    assert repeated.json()["receipts"][0]["duplicate"]
    items = await (rest.read(name, "first") if kind == "streams" else rest.peek(name))
    assert len(items) == 4
    for item in items:
        attributes = item["attributes"]
        assert (attributes["ce_type"], attributes["ce_source"], attributes["ce_subject"]) == (
            "order.made",
            "/orders",
            "ü",
        )
    assert [item.get("data") for item in items[:2]] == [{"order": 7}] * 2
    assert (items[3]["data_base64"], items[3]["content_type"]) == ("AP8=", "application/octet-stream")


async def test_a_cloudevent_without_its_attributes_is_refused(rest: RestDoor):
    answer = await rest.http.post(
        "/v1/streams/ce.bad",
        content=json.dumps({"specversion": "1.0", "id": "x"}).encode(),
        headers={"content-type": "application/cloudevents+json"},
    )
    assert answer.status_code == 400
    assert {each["field"] for each in answer.json()["errors"]} == {"source", "type"}


async def test_large_data_travels_by_reference_from_program_to_program(message_hub: HubProcess):
    bytes_data = os.urandom(12 * MEBIBYTE)
    text = "ü" * (9 * MEBIBYTE // 2)
    async with MeshwayClient(message_hub.url) as client:
        await client.enqueue("large", bytes_data, id="b")
        await client.enqueue("large", {"text": text}, id="j")
        first, second = await client.lease("large", count=2)
        assert first.data_ref is not None
        assert (await client.fetch(first)).data == bytes_data
        assert (await client.fetch(second)).data == {"text": text}
        assert await client.ack("large", first, second) == ["done", "done"]


async def test_a_blob_is_stored_once_and_sent_by_its_hash(rest: RestDoor):
    content = os.urandom(9 * MEBIBYTE)
    sha256 = hashlib.sha256(content).hexdigest()

    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(content), MEBIBYTE):
            yield content[begin : begin + MEBIBYTE]

    stored = await rest.http.post("/v1/blobs", content=chunks(), headers={"content-type": "application/octet-stream"})
    assert stored.status_code == 201, stored.text
    assert (stored.json()["sha256"], stored.json()["size"]) == (sha256, len(content))
    message = {"data_ref": {"sha256": sha256, "size": len(content), "encoding": "bytes"}}
    await rest.send("streams", "blobs", message)
    (item,) = await rest.read("blobs", "first")
    assert item["data_ref"]["sha256"] == sha256
    assert (await rest.http.get(f"/v1/blobs/{sha256}")).content == content
    answer = await rest.http.post("/v1/streams/blobs", json={"messages": [{"data_ref": {"sha256": "0" * 64}}]})
    assert (answer.status_code, answer.json()["errors"][0]["field"][:10]) == (400, "messages.0")
