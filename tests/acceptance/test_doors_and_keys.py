"""Who may come in: keys, scopes, hosts, origins and addresses, in a real hub."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.command import meshway, meshway_async
from support.hub_process import HubProcess, running_hub
from support.raw_agent import raw_agent, registered_agent, running_agent
from support.wire_client import JSON, V10, Reply, rpc, say, send_params

SEND = rpc("SendMessage", send_params())
OPEN_PATHS = ("/healthz", "/readyz")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def make_key(hub: HubProcess, who: dict[str, str], name: str, *scopes: str, **more: object) -> dict:
    body = {"name": name, "scopes": list(scopes), **more}
    reply = await say(hub, "POST", "/v1/keys", body, headers=JSON | who)
    assert reply.status == 201, reply.body
    return reply.json


async def call(hub: HubProcess, agent: str, who: dict[str, str]) -> Reply:
    return await say(hub, "POST", f"/a2a/{agent}", SEND, headers=V10 | who)


async def test_first_key_closes_the_hub_for_everybody_without_one() -> None:
    with running_hub() as hub:
        async with registered_agent(hub, raw_agent()) as agent:
            assert "result" in (await call(hub, agent.id, {})).json
            made = await meshway_async(
                "keys", "create", "first", "--scope", "admin", "--json", env={"MESHWAY_URL": hub.url}
            )
            assert made.status == 0, made.err
            assert set(made.json) >= {"id", "name", "scopes", "key"}
            hub.key = made.json["key"]
            for method, path in (
                ("GET", "/v1/agents"),
                ("GET", "/v1/agents/watch"),
                ("POST", "/v1/agents"),
                ("DELETE", f"/v1/agents/{agent.id}"),
                ("GET", "/v1/keys"),
                ("POST", f"/a2a/{agent.id}"),
                ("GET", f"/a2a/{agent.id}/tasks"),
            ):
                refused = await say(hub, method, path, SEND if method == "POST" else None, headers=V10)
                assert refused.status == 401, (method, path, refused)
                assert refused.headers["www-authenticate"].startswith("Bearer")
            for path in (*OPEN_PATHS, f"/a2a/{agent.id}/.well-known/agent-card.json"):
                assert (await say(hub, "GET", path)).status == 200, path
            assert "result" in (await call(hub, agent.id, bearer(hub.key))).json
            assert "result" in (await call(hub, agent.id, {"x-api-key": hub.key})).json


async def test_key_made_by_the_command_while_no_hub_runs_opens_it_afterwards(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = meshway("keys", "create", "ci", "--scope", "call", "--scope", "serve:x-*", "--data", str(data), "--json")
    assert made.status == 0, made.err
    with HubProcess(data) as hub:
        assert (await say(hub, "GET", "/v1/agents", headers=bearer(made.json["key"]))).status == 200
        assert (await say(hub, "GET", "/v1/agents")).status == 401
        # The data directory belongs to the running hub: the command asks the hub instead of waiting for the lock.
        listed = await meshway_async(
            "keys", "list", "--json", env={"MESHWAY_URL": hub.url, "MESHWAY_API_KEY": made.json["key"]}
        )
        assert listed.status == 4
    revoked = meshway("keys", "revoke", made.json["id"], "--data", str(data), "--json")
    assert revoked.status == 0, revoked.err
    with HubProcess(data) as hub:
        assert (await say(hub, "GET", "/v1/agents", headers=bearer(made.json["key"]))).status == 401
        # The last key is gone, the door stays closed.
        assert (await say(hub, "GET", "/v1/agents")).status == 401


async def test_key_is_shown_once_and_stored_as_a_hash(keyed) -> None:
    made = await make_key(keyed.hub, keyed.admin, "once", "call")
    listed = await say(keyed.hub, "GET", "/v1/keys", headers=keyed.admin)
    (shown,) = [item for item in listed.json["items"] if item["id"] == made["id"]]
    assert shown["name"] == "once"
    assert "key" not in shown
    assert made["key"] not in listed.body.decode()
    files = b"".join(path.read_bytes() for path in keyed.hub.data.rglob("*") if path.is_file())
    assert made["key"].encode() not in files
    assert made["key"] not in keyed.hub.log.read_text()


async def test_revoked_key_is_refused_at_once_even_on_an_open_connection(keyed) -> None:
    made = await make_key(keyed.hub, keyed.admin, "brief", "call")
    async with registered_agent(keyed.hub, raw_agent()) as agent:
        body = json.dumps(SEND).encode()
        head = (
            f"POST /a2a/{agent.id} HTTP/1.1\r\nhost: 127.0.0.1:{keyed.hub.port}\r\ncontent-type: application/json\r\n"
        )
        head += f"a2a-version: 1.0\r\nauthorization: Bearer {made['key']}\r\ncontent-length: {len(body)}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", keyed.hub.port)
        statuses = []
        for turn in range(3):
            if turn == 2:
                await say(keyed.hub, "DELETE", f"/v1/keys/{made['id']}", headers=keyed.admin)
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            statuses.append(int(answer.split(" ")[1]))
            await reader.readexactly(int(answer.partition("content-length: ")[2].partition("\r\n")[0]))
        writer.close()
        assert statuses == [200, 200, 401]
        assert len(agent.seen) == 2


async def test_each_request_of_a_connection_is_judged_by_its_own_headers(keyed) -> None:
    async with registered_agent(keyed.hub, raw_agent()) as agent:
        body = json.dumps(SEND).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", keyed.hub.port)

        async def turn(path: str, *lines: str) -> int:
            fixed = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{keyed.hub.port}", "content-type: application/json"]
            head = "\r\n".join([*fixed, *lines, f"content-length: {len(body)}", "", ""])
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(answer.partition("content-length: ")[2].partition("\r\n")[0]))
            return int(answer.split(" ")[1])

        path, ann = f"/a2a/{agent.id}", f"authorization: {keyed.ann['authorization']}"
        bob = f"authorization: {keyed.bob['authorization']}"
        server = f"authorization: {keyed.server['authorization']}"
        assert await turn(path, ann, "a2a-version: 1.0") == 200
        assert await turn(path, ann, "a2a-version: 1.0", "meshway-timeout-ms: 9000") == 200
        assert await turn(path, "a2a-version: 1.0") == 401
        assert await turn(path, server, "a2a-version: 1.0") == 403
        assert await turn(path, bob, "a2a-version: 1.0") == 200
        assert await turn("/a2a/nobody", bob, "a2a-version: 1.0") == 404
        assert await turn(path, bob + "x", "a2a-version: 1.0") == 401
        assert await turn(path, ann, "a2a-version: 1.0") == 200
        writer.close()
        assert len(agent.seen) == 4


async def test_expired_key_is_refused(keyed) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="milliseconds")
    made = await make_key(keyed.hub, keyed.admin, "soon", "call", expires_at=soon)
    assert (await say(keyed.hub, "GET", "/v1/agents", headers=bearer(made["key"]))).status == 200
    async with asyncio.timeout(4):
        reply = await say(keyed.hub, "GET", "/v1/agents", headers=bearer(made["key"]))
        while reply.status == 200:
            await asyncio.sleep(0.1)
            reply = await say(keyed.hub, "GET", "/v1/agents", headers=bearer(made["key"]))
    assert reply.status == 401
    assert "expired" in reply.json["detail"]


async def test_key_reaches_as_far_as_its_scopes(keyed) -> None:
    hub = keyed.hub
    async with running_agent(raw_agent()) as agent:
        mine = {"id": agent.id, "url": agent.url}
        other = {"id": "not-raw", "url": agent.url}
        assert (await say(hub, "POST", "/v1/agents", mine, headers=JSON | keyed.ann)).status == 403
        assert (await say(hub, "POST", "/v1/agents", other, headers=JSON | keyed.server)).status == 403
        assert (await say(hub, "POST", "/v1/agents", mine, headers=JSON | keyed.server)).status == 201
        assert (await say(hub, "GET", "/v1/keys", headers=keyed.server)).status == 403
        assert (await say(hub, "GET", "/v1/keys", headers=keyed.ann)).status == 403
        path = f"/v1/agents/{agent.id}"
        # Another key that may serve the name did not register this agent.
        rival = await make_key(hub, keyed.admin, "rival", "serve:raw-*")
        for method, below, body in (
            ("PATCH", "", {"labels": {"a": "b"}}),
            ("POST", "/drain", {}),
            ("POST", "/instances", {"url": agent.url}),
            ("DELETE", "", None),
        ):
            for who in (keyed.ann, bearer(rival["key"])):
                reply = await say(hub, method, path + below, body, headers=JSON | who)
                assert reply.status == 403, (method, below, reply)
                assert reply.json["code"] == "forbidden"
        assert (await say(hub, "POST", "/v1/agents", mine, headers=JSON | bearer(rival["key"]))).status == 403
        assert (await say(hub, "PATCH", path, {"labels": {"a": "b"}}, headers=JSON | keyed.server)).status == 200
        assert (await say(hub, "DELETE", path, headers=keyed.admin)).status == 204


async def test_key_of_a_caller_never_reaches_the_agent_nor_the_log(keyed) -> None:
    made = await make_key(keyed.hub, keyed.admin, "canary", "call")
    key = made["key"]
    async with registered_agent(keyed.hub, raw_agent(), credential="Bearer upstream") as agent:
        for who in (bearer(key), {"x-api-key": key}):
            assert "result" in (await call(keyed.hub, agent.id, who)).json
        assert key.encode() not in agent.received
        assert {request.headers["authorization"] for request in agent.seen} == {"Bearer upstream"}
        # Also where something is refused, or mistyped.
        await say(keyed.hub, "GET", f"/v1/agents?api_key={key}", headers=bearer(key + "x"))
        await say(keyed.hub, "POST", f"/a2a/{agent.id}", b"{", headers=V10 | bearer(key))
        metrics = await say(keyed.hub, "GET", "/metrics", headers=bearer(key))
    assert key not in keyed.hub.log.read_text()
    assert key.encode() not in metrics.body


async def test_authorization_twice_is_refused(keyed) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", keyed.hub.port)
    lines = f"authorization: {keyed.ann['authorization']}\r\nauthorization: Bearer other\r\n"
    writer.write(f"GET /v1/agents HTTP/1.1\r\nhost: 127.0.0.1:{keyed.hub.port}\r\n{lines}\r\n".encode())
    assert b" 400 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
    writer.close()


EVERY_DOOR = ("/a2a/x", "/a2a/x/.well-known/agent-card.json", "/v1/agents", "/metrics", "/docs", "/healthz", "/", "/x")


@pytest.mark.parametrize("path", EVERY_DOOR)
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:7070"},
        {"host": "127.0.0.1.evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"x-forwarded-for": "10.0.0.1"},
        {"x-forwarded-host": "hub.example"},
        {"forwarded": "for=10.0.0.1"},
    ],
    ids=lambda headers: "=".join(next(iter(headers.items()))),
)
async def test_strangers_host_origin_and_proxies_are_refused_at_every_door_of_an_open_hub(
    hub: HubProcess, path: str, headers: dict[str, str]
) -> None:
    reply = await say(hub, "GET", path, headers=headers)
    assert reply.status == 403, reply
    assert reply.json["code"] == "forbidden"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
async def test_names_of_this_machine_are_answered(hub: HubProcess, host: str) -> None:
    assert (await say(hub, "GET", "/healthz", headers={"host": f"{host}:{hub.port}"})).status == 200


async def test_hub_behind_a_proxy_takes_forwarded_requests_once_it_asks_for_keys(keyed) -> None:
    headers = keyed.ann | {"x-forwarded-for": "10.0.0.1"}
    assert (await say(keyed.hub, "GET", "/v1/agents", headers=headers)).status == 200


def refused_to_start(hub: HubProcess) -> str:
    """What a hub says that ends with a failure instead of serving."""
    process = hub.spawn()
    try:
        assert process.wait(10) in (1, 2)
    finally:
        process.kill()
        process.wait(5)
    said = hub.log.read_text()
    assert "Traceback" not in said
    return " ".join(said.split())


def test_address_beyond_this_machine_without_a_key_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    said = refused_to_start(HubProcess(tmp_path / "data", flags=["--host", "0.0.0.0"]))
    for way in ("meshway keys create", "--insecure", "127.0.0.1"):
        assert way in said


async def test_address_beyond_this_machine_is_served_once_a_key_exists(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = await meshway_async("keys", "create", "ops", "--scope", "admin", "--data", str(data), "--json")
    with HubProcess(data, flags=["--host", "0.0.0.0"]) as wide:
        assert (await say(wide, "GET", "/v1/agents")).status == 401
        assert (await say(wide, "GET", "/v1/agents", headers=bearer(made.json["key"]))).status == 200


@pytest.fixture
def wide_hub(tmp_path: Path) -> Iterator[HubProcess]:
    with HubProcess(tmp_path / "data", flags=["--host", "0.0.0.0", "--insecure"]) as hub:
        yield hub


async def test_insecure_hub_listens_everywhere_and_minds_private_addresses(wide_hub: HubProcess) -> None:
    async with running_agent(raw_agent()) as agent:
        assert (await say(wide_hub, "GET", "/v1/agents")).status == 200
        # Beyond loopback, an agent at a private address needs the operator's word.
        reply = await say(wide_hub, "POST", "/v1/agents", {"id": agent.id, "url": agent.url}, headers=JSON)
        assert reply.json["code"] == "egress_denied"
        assert "egress.allow_private" in reply.body.decode()
        assert (await say(wide_hub, "GET", "/v1/agents", headers={"host": "evil.example"})).status == 403


def test_second_hub_on_the_data_directory_is_refused_naming_the_first(hub: HubProcess) -> None:
    second = HubProcess(hub.data)
    second.log = hub.data.parent / "second.log"
    assert str(hub.pid) in refused_to_start(second)


def test_port_in_use_is_said_before_anything_else(hub: HubProcess, tmp_path: Path) -> None:
    second = HubProcess(tmp_path / "data")
    second.port = hub.port
    said = refused_to_start(second)
    assert f"127.0.0.1:{hub.port}" in said
    assert "--port" in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("[htpp]\nx = 1\n", "http"),
        ("[http]\nkeep_alive = 1\n", "keep_alive_ms"),
        ("[http]\nheaders_max = 0\n", "headers_max"),
        ("[[agents]]\nid = 'Wrong Id'\nurl = 'http://127.0.0.1:1'\n", "agents"),
        ("port = \n", "line 1"),
    ],
)
def test_mistake_in_the_configuration_stops_the_start_with_a_hint(tmp_path: Path, config: str, said: str) -> None:
    assert said in refused_to_start(HubProcess(tmp_path / "data", config=config))


async def test_slow_headers_and_idle_connections_are_cut() -> None:
    with running_hub(config="[http]\nheader_timeout_ms = 500\n") as hub:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ")
        async with asyncio.timeout(4):
            rest = await reader.read()
        writer.close()
    assert rest == b"" or b" 408 " in rest
