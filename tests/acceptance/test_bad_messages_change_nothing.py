"""What is wrong is refused by a running hub with the field's name, nothing of it is stored, and the hub goes on."""

import json
from collections.abc import AsyncIterator

import pytest

from support.hub_process import HubProcess
from support.link_client import link_client
from support.message_doors import Refusal, RestDoor, open_door

QUEUE, STREAM = "/v1/queues/bad/messages", "/v1/streams/bad"
GOOD = b'{"data":1}'
BOMBS = {
    "deep arrays": b'{"messages":[{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
    "deep objects": b'{"messages":[{"data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}]}",
    "unclosed": b'{"messages":' + b"[" * 500_000,
    "bad UTF-8": b'{"messages":[{"data":"\xff\xfe"}]}',
    "lone surrogate": b'{"messages":[{"data":1,"id":"\\ud800"}]}',
    "NaN": b'{"messages":[{"data":NaN}]}',
    "infinity": b'{"messages":[{"data":-Infinity}]}',
    "control character": b'{"messages":[{"data":"\x01"}]}',
    "two documents": b'{"messages":[{"data":1}]}{}',
    "empty": b"",
}


@pytest.fixture
async def rest(message_hub: HubProcess) -> AsyncIterator[RestDoor]:
    async with open_door("rest", message_hub.url) as rest:
        await rest.configure("queues", "bad")
        yield rest
        # Whatever it was: nothing of it is there, and the hub answers.
        assert await rest.peek("bad") == []
        with pytest.raises(Refusal, match="not_found"):
            await rest.info("streams", "bad")


@pytest.mark.parametrize("path", [QUEUE, STREAM])
@pytest.mark.parametrize("bomb", BOMBS)
async def test_json_that_is_none_is_refused(rest: RestDoor, path: str, bomb: str):
    answer = await rest.http.post(path, content=BOMBS[bomb], headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in ("malformed_body", "invalid_request")
    assert len(answer.content) < 2_000


async def test_huge_numbers_are_data_as_they_are_and_no_terms(rest: RestDoor):
    body = b'{"messages":[{"data":1},{"data":1,"delay_ms":1' + b"0" * 5_000 + b"}]}"
    answer = await rest.http.post(QUEUE, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    data = "1" + "0" * 400
    await rest.http.post(
        "/v1/streams/huge",
        content=b'{"messages":[{"data":%b}]}' % data.encode(),
        headers={"content-type": "application/json"},
    )
    page = await rest.http.get("/v1/streams/huge/messages?from=first")
    assert f'"data":{data},' in page.text


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"delay_ms": -1}, "delay_ms"),
        ({"delay_ms": "5"}, "delay_ms"),
        ({"deliver_at": "tomorrow"}, "deliver_at"),
        ({"expires_in_ms": -5}, "expires_in_ms"),
        ({"priority": "urgentest"}, "priority"),
        ({"attributes": {"a": 1}}, "attributes"),
        ({"delay": 5}, "delay"),
        ({"id": ""}, "id"),
    ],
)
async def test_a_wrong_member_is_named_over_http_and_over_the_link(
    message_hub: HubProcess, rest: RestDoor, wrong: dict, field: str
):
    messages = [{"data": 1}, {"data": 1} | wrong]
    with pytest.raises(Refusal) as refused:
        await rest.send("queues", "bad", *messages)
    assert refused.value.code == "invalid_request"
    assert refused.value.fields[0].startswith(f"messages.1.{field}")
    async with link_client(message_hub.port) as link:
        frame = await link.ask("publish", kind="queues", channel="bad", messages=messages)
        assert frame["type"] == "error"
        assert frame["problem"]["errors"][0]["field"].startswith(f"messages.1.{field}")


@pytest.mark.parametrize("name", ["a..b", "a b", "a.*", ">", ".a", "ü", "_x", "a" * 256])
@pytest.mark.parametrize("kind", ["queues", "streams", "events"])
async def test_an_invalid_name_is_refused(rest: RestDoor, kind: str, name: str):
    path = f"/v1/{kind}/{name}" + ("/messages" if kind == "queues" else "")
    answer = await rest.http.post(path, json={"messages": [{"data": 1}]})
    assert answer.status_code == 400, answer.text
    assert [each["field"] for each in answer.json()["errors"]] == ["channel"]


async def test_a_foreign_or_forged_lease_settles_nothing(rest: RestDoor):
    await rest.configure("queues", "bad.leases", lease_ms=30_000)
    await rest.send("queues", "bad.leases", {"data": 1})
    (held,) = await rest.lease("bad.leases")
    forged = {"delivery_id": held["delivery_id"][:-1] + ("0" if held["delivery_id"][-1] != "0" else "1")}
    assert await rest.settle("bad.leases", forged, {"delivery_id": "x" * 500}) == ["stale", "stale"]
    # A lease of one queue says nothing in another.
    assert await rest.settle("bad", held) == ["stale"]
    assert (await rest.info("queues", "bad.leases"))["figures"]["held"] == 1
    assert await rest.settle("bad.leases", held) == ["done"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/queues/bad/messages?limt=5", "limt"),
        ("/v1/queues/bad/messages?limit=0", "limit"),
        ("/v1/queues/bad/dead-letters?page=2", "page"),
        ("/v1/streams/x/messages?from=yesterday", "from"),
        ("/v1/streams/x?form=first", "form"),
        ("/v1/events/x?groop=a", "groop"),
        ("/v1/queues?colour=red", "colour"),
    ],
)
async def test_an_unknown_or_wrong_parameter_is_named(rest: RestDoor, path: str, field: str):
    answer = await rest.http.get(path)
    assert answer.status_code == 400, answer.text
    assert [each["field"] for each in answer.json()["errors"]] == [field]


async def test_what_is_too_large_is_413_and_another_kind_404(rest: RestDoor):
    too_large = json.dumps({"messages": [{"data": "d" * (64 * 1024 * 1024)}]}).encode()
    answer = await rest.http.post(QUEUE, content=too_large, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    answer = await rest.http.post("/v1/topics/bad", json={"messages": [{"data": 1}]})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    answer = await rest.http.post(QUEUE, content=b"<a/>", headers={"content-type": "text/xml"})
    assert answer.status_code == 415
