"""Registration, presence and search in a real hub, through REST, the CLI and the configuration file."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command import meshway_async
from support.hub_process import HubProcess, running_hub
from support.ports import free_port
from support.raw_agent import raw_agent, registered_agent, running_agent
from support.wire_client import JSON, V10, EventStream, Reply, open_stream, rpc, say, send_params


async def register(hub: HubProcess, body: object) -> Reply:
    return await say(hub, "POST", "/v1/agents", body, headers=JSON)


async def shown(hub: HubProcess, agent: str) -> dict:
    return (await say(hub, "GET", f"/v1/agents/{agent}")).json


async def until(check: Callable[[dict], bool], hub: HubProcess, agent: str, *, within_s: float = 10) -> dict:
    async with asyncio.timeout(within_s):
        while not check(found := await shown(hub, agent)):  # noqa: ASYNC110  another process has no event
            await asyncio.sleep(0.05)
    return found


def fields_of(reply: Reply) -> dict[str, str]:
    return {each["field"]: each["message"] for each in reply.json["errors"]}


async def test_agent_registered_by_url_reads_back_as_the_contract_says(hub: HubProcess) -> None:
    async with running_agent(raw_agent()) as agent:
        reply = await register(hub, {"id": agent.id, "url": agent.url, "labels": {"zone": "eu"}, "capacity": 3})
        assert reply.status == 201
        assert reply.headers["location"].endswith(f"/v1/agents/{agent.id}")
        found = await shown(hub, agent.id)
        again = await register(hub, {"id": agent.id, "url": agent.url})
        assert again.status == 200
        assert again.json["registered_at"] == found["registered_at"]
        await say(hub, "DELETE", f"/v1/agents/{agent.id}")
        assert (await say(hub, "GET", f"/v1/agents/{agent.id}")).status == 404
    assert (found["id"], found["name"], found["state"]) == (agent.id, "Raw", "online")
    assert found["skills"] == [{"id": "raw", "name": "Raw", "description": "Raw bytes", "tags": ["raw"]}]
    assert found["card"]["supportedInterfaces"][0]["url"] == f"{agent.url}/rpc"
    (instance,) = found["instances"]
    assert {key: instance[key] for key in ("url", "state", "labels", "capacity", "in_flight")} == {
        "url": agent.url,
        "state": "online",
        "labels": {"zone": "eu"},
        "capacity": 3,
        "in_flight": 0,
    }
    for moment in (found["registered_at"], found["last_seen"], instance["last_seen"]):
        assert moment.endswith("Z")
        assert len(moment) == len("2026-01-01T00:00:00.000Z")


async def test_agent_registered_by_card_is_never_probed_and_suspect_until_first_contact(hub: HubProcess) -> None:
    agent = raw_agent()
    async with running_agent(agent):
        reply = await register(hub, {"id": agent.id, "card": agent.card})
        assert reply.status == 201
        assert reply.json["state"] == "suspect"
        assert agent.received == b""
        answer = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
        assert "result" in answer.json
        assert (await shown(hub, agent.id))["state"] == "online"
        assert agent.card_reads == []
        await say(hub, "DELETE", f"/v1/agents/{agent.id}")


async def test_url_where_nobody_answers_is_refused_naming_the_field(hub: HubProcess) -> None:
    reply = await register(hub, {"id": "dead", "url": f"http://127.0.0.1:{free_port()}"})
    assert reply.status in (502, 503)
    assert reply.headers["content-type"].startswith("application/problem+json")
    assert reply.json["code"] == "upstream_unreachable"
    assert "url" in fields_of(reply)
    assert (await say(hub, "GET", "/v1/agents/dead")).status == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"id": "Upper", "url": "http://127.0.0.1:1"}, "id"),
        ({"id": "-x", "url": "http://127.0.0.1:1"}, "id"),
        ({"id": "x" * 64, "url": "http://127.0.0.1:1"}, "id"),
        ({"id": "watch", "url": "http://127.0.0.1:1"}, "id"),
        ({"id": "ok"}, "url"),
        ({"id": "ok", "url": "ftp://127.0.0.1/"}, "url"),
        ({"id": "ok", "url": "file:///etc/passwd"}, "url"),
        ({"id": "ok", "url": "http://user:pass@127.0.0.1/"}, "url"),
        ({"id": "ok", "url": "http://127.0.0.1:1", "capacity": 0}, "capacity"),
        ({"id": "ok", "url": "http://127.0.0.1:1", "labels": {"zone": 7}}, "labels"),
        ({"id": "ok", "card": {"name": "x"}}, "card.version"),
        ({"id": "ok", "card": {"name": "x", "url": "ftp://x", "protocolVersion": "0.3.0"}}, "card.url"),
        ({"id": "ok", "url": "http://127.0.0.1:1", "unknwon": 1}, "unknwon"),
    ],
)
async def test_wrong_field_is_named(hub: HubProcess, body: dict, field: str) -> None:
    reply = await register(hub, body)
    assert reply.status in (400, 422), reply.body
    assert reply.json["code"] == "invalid_request"
    assert any(name == field or name.startswith(f"{field}.") for name in fields_of(reply)), reply.body


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://metadata.google.internal/",
    ],
)
async def test_metadata_and_link_local_addresses_are_refused(hub: HubProcess, url: str) -> None:
    reply = await register(hub, {"id": "metadata", "url": url})
    assert reply.status in (400, 403, 422), reply.body
    assert reply.json["code"] in ("egress_denied", "invalid_request")
    assert any("url" in field for field in fields_of(reply)) or "url" in reply.json["detail"]


async def test_card_that_points_to_a_forbidden_address_is_refused(hub: HubProcess) -> None:
    card = raw_agent().card | {
        "supportedInterfaces": [
            {"url": "http://169.254.169.254/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
        ]
    }
    for body in ({"id": "sly", "card": card},):
        reply = await register(hub, body)
        assert reply.json["code"] == "egress_denied", reply.body
    agent = raw_agent()
    agent.card = card
    async with running_agent(agent):
        reply = await register(hub, {"id": "sly", "url": agent.url})
        assert reply.json["code"] == "egress_denied", reply.body


async def test_agent_that_offers_only_grpc_is_refused_with_the_reason(hub: HubProcess) -> None:
    card = raw_agent().card
    interface = {"url": "127.0.0.1:50051", "protocolBinding": "GRPC", "protocolVersion": "1.0"}
    reply = await register(hub, {"id": "grpc-only", "card": card | {"supportedInterfaces": [interface]}})
    assert reply.status in (400, 422)
    assert "GRPC" in reply.body.decode()
    assert "HTTP+JSON" in reply.body.decode()


async def test_redirect_of_a_card_is_not_followed(hub: HubProcess) -> None:
    agent = raw_agent()

    async with running_agent(raw_agent()) as target, running_agent(agent):
        status = f"HTTP/1.1 302 Found\r\nlocation: {target.url}\r\ncontent-length: 0\r\n\r\n"
        agent.raw_card_answer = status.encode()
        reply = await register(hub, {"id": agent.id, "url": agent.url})
        assert reply.json["code"] in ("upstream_invalid", "upstream_unreachable")
        assert target.received == b""


async def test_search_finds_by_text_tag_skill_label_and_state(hub: HubProcess) -> None:
    skills = [{"id": "tides", "name": "Tides", "description": "Says when water is high", "tags": ["sea", "moon"]}]
    async with registered_agent(
        hub, raw_agent(name="Harbour", skills=skills), labels={"zone": "eu", "gpu": "1"}
    ) as one:
        for query, found in (
            ("q=high%20water", True),
            ("q=harbour", True),
            ("q=zebra", False),
            ("tag=moon", True),
            ("tag=sun", False),
            ("skill=tides", True),
            ("label=zone%3Deu", True),
            ("label=zone%3Dus", False),
            ("state=online&tag=sea", True),
            ("state=offline&tag=sea", False),
        ):
            items = (await say(hub, "GET", f"/v1/agents?{query}")).json["items"]
            assert (one.id in [item["id"] for item in items]) == found, query


async def test_heartbeat_lease_that_ends_makes_an_agent_offline_until_its_next_beat(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        beat = await say(hub, "POST", f"/v1/agents/{agent.id}/heartbeat", {"ttl_ms": 1000}, headers=JSON)
        assert beat.status in (200, 204), beat.body
        assert (await shown(hub, agent.id))["state"] == "online"
        gone = await until(lambda found: found["state"] == "offline", hub, agent.id)
        assert gone["instances"][0]["state_since"] > gone["registered_at"]
        await say(hub, "POST", f"/v1/agents/{agent.id}/heartbeat", {"ttl_ms": 60_000, "in_flight": 4}, headers=JSON)
        back = await shown(hub, agent.id)
        assert back["state"] == "online"
        assert back["instances"][0]["in_flight"] == 4


async def watched(stream: EventStream, kind: str, agent: str) -> tuple[bytes, dict]:
    """The id and data of the next event of this kind about this agent."""
    while (frame := await stream.frame()) is not None:
        lines = dict(line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line)
        data = json.loads(lines.get(b"data", b"{}"))
        if lines.get(b"event", b"").decode() == kind and data.get("id") == agent:
            return lines[b"id"], data
    raise AssertionError("the watch ended")


async def test_watch_tells_changes_and_resumes_where_it_stopped(hub: HubProcess) -> None:
    async with await open_stream(hub, "GET", "/v1/agents/watch") as stream:
        assert stream.status == 200
        async with running_agent(raw_agent()) as agent:
            await register(hub, {"id": agent.id, "url": agent.url})
            event_id, value = await watched(stream, "changed", agent.id)
            assert value["instances"][0]["url"] == agent.url
            stream.close()
            await say(hub, "PATCH", f"/v1/agents/{agent.id}", {"labels": {"a": "1"}}, headers=JSON)
            await say(hub, "PATCH", f"/v1/agents/{agent.id}", {"labels": {"a": "2"}}, headers=JSON)
            resumed = {"last-event-id": event_id.decode()}
            async with await open_stream(hub, "GET", "/v1/agents/watch", headers=resumed) as again:
                _, value = await watched(again, "changed", agent.id)
                # The present value of what changed, not each step on the way.
                assert value["instances"][0]["labels"] == {"a": "2"}
                assert not any(b"event: reset" in frame for frame in again.frames)
                await say(hub, "DELETE", f"/v1/agents/{agent.id}")
                await watched(again, "removed", agent.id)


async def test_list_is_paged_with_a_cursor(hub: HubProcess) -> None:
    agent = raw_agent()
    ids = [f"paged-{number}" for number in range(5)]
    for each in ids:
        assert (await register(hub, {"id": each, "card": agent.card, "labels": {"page": "yes"}})).status == 201
    found: list[str] = []
    cursor = ""
    while True:
        page = (await say(hub, "GET", f"/v1/agents?label=page%3Dyes&limit=2{cursor}")).json
        found += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    for each in ids:
        await say(hub, "DELETE", f"/v1/agents/{each}")
    assert sorted(found) == ids


async def test_registrations_outlive_a_stop_and_a_kill() -> None:
    with running_hub() as hub:
        async with registered_agent(hub, raw_agent(), labels={"zone": "eu"}, credential="Bearer kept") as agent:
            before = await shown(hub, agent.id)
            for end in (hub.kill, hub.stop):
                end()
                hub.start()
                after = await shown(hub, agent.id)
                for key in ("id", "name", "card", "registered_at", "has_credential", "settings", "skills"):
                    assert after[key] == before[key]
                assert after["instances"][0]["labels"] == {"zone": "eu"}
                reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
                assert "result" in reply.json
                assert agent.seen[-1].headers["authorization"] == "Bearer kept"


async def test_configuration_file_registers_an_agent_with_two_instances(tmp_path: Path) -> None:
    one, two = raw_agent(), raw_agent()
    config = "".join(
        f'[[agents]]\nid = "from-file"\nurl = "{each.url}"\nlabels = {{ n = "{n}" }}\n'
        for n, each in enumerate((one, two))
    )
    async with running_agent(one):
        hub = HubProcess(tmp_path / "data", config=config)
        await asyncio.to_thread(hub.start)
        try:
            async with running_agent(two):
                # The second came up after the hub; the hub keeps trying.
                await until(lambda found: len(found.get("instances", [])) == 2, hub, "from-file", within_s=15)
                for _ in range(20):
                    await say(hub, "POST", "/a2a/from-file", rpc("SendMessage", send_params()), headers=V10)
                assert one.seen
                assert two.seen
        finally:
            assert await asyncio.to_thread(hub.stop) == 0


async def test_command_line_adds_shows_lists_drains_and_removes(hub: HubProcess) -> None:
    env = {"MESHWAY_URL": hub.url}
    async with running_agent(raw_agent()) as agent:
        added = await meshway_async("agents", "add", agent.id, agent.url, "--label", "zone=eu", "--json", env=env)
        assert added.status == 0, added.err
        assert added.json["id"] == agent.id
        listed, one = await asyncio.gather(
            meshway_async("agents", "list", "--label", "zone=eu", "--json", env=env),
            meshway_async("agents", "show", agent.id, "--json", env=env),
        )
        assert [item["id"] for item in listed.json["items"]] == [agent.id]
        assert one.json["instances"][0]["labels"] == {"zone": "eu"}
        drained = await meshway_async("agents", "drain", agent.id, "--json", env=env)
        assert drained.status == 0, drained.err
        assert (await shown(hub, agent.id))["state"] == "draining"
        removed = await meshway_async("agents", "remove", agent.id, "--yes", env=env)
        if removed.status == 2:
            removed = await meshway_async("agents", "remove", agent.id, env=env)
        assert removed.status == 0, removed.err
        missing = await meshway_async("agents", "show", agent.id, env=env)
        assert missing.status == 5
        assert agent.id in missing.err
