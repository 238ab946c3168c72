"""What an operator sees and relies on: metrics, logs, health, doctor, a full disk."""

import asyncio
import json
import re
import resource
import time
from collections.abc import Callable

import pytest

from support.command import meshway_async
from support.hub_process import HubProcess, running_hub
from support.raw_agent import RawRequest, Wire, answering, message_answer, raw_agent, registered_agent, task_answer
from support.wire_client import JSON, V10, Reply, open_stream, rpc, say, send_params

SEND = rpc("SendMessage", send_params())


async def metrics_of(hub: HubProcess) -> dict[str, float]:
    """By name with labels, as the exposition has them."""
    text = (await say(hub, "GET", "/metrics")).body.decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def labelled(name: str, **labels: str) -> re.Pattern[str]:
    """Labels in any order."""
    looks = "".join(f'(?=.*{key}="{value}")' for key, value in labels.items())
    return re.compile(rf"{name}\{{{looks}.*\}}")


def value_of(metrics: dict[str, float], pattern: re.Pattern[str]) -> float:
    return sum(value for name, value in metrics.items() if pattern.fullmatch(name))


async def test_calls_are_counted_by_agent_method_and_outcome(hub: HubProcess) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        if request.json["method"] == "SendStreamingMessage":
            wire.start_stream()
            wire.event({"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "x"}]}})
            wire.end()
        elif request.json["params"]["message"]["parts"][0]["text"] == "die":
            wire.die()
        else:
            wire.answer(message_answer(request))

    async with registered_agent(hub, raw_agent(script)) as agent:
        path = f"/a2a/{agent.id}"
        for _ in range(3):
            await say(hub, "POST", path, SEND, headers=V10)
        await say(hub, "POST", path, rpc("SendMessage", send_params("die")), headers=V10)
        await say(hub, "POST", path, rpc("GetTask", {"id": "none"}), headers=V10)
        async with await open_stream(
            hub, "POST", path, rpc("SendStreamingMessage", send_params()), headers=V10
        ) as stream:
            await stream.rest()
        metrics = await metrics_of(hub)
        for method, outcome, count in (
            ("SendMessage", "ok", 3),
            ("SendMessage", "upstream_broken", 1),
            ("GetTask", "task_not_found", 1),
            ("SendStreamingMessage", "ok", 1),
        ):
            pattern = labelled("meshway_requests_total", agent=agent.id, method=method, outcome=outcome)
            assert value_of(metrics, pattern) == count, (method, outcome)
        assert value_of(metrics, labelled("meshway_request_seconds_count", agent=agent.id)) == 6
        assert value_of(metrics, labelled("meshway_request_seconds_bucket", agent=agent.id, le=r"\+Inf")) == 6


async def test_every_room_shows_its_figures(hub: HubProcess) -> None:
    names = {name.partition("{")[0] for name in await metrics_of(hub)}
    assert all(name.startswith("meshway_") for name in names)
    wanted = {
        "meshway_agents",
        "meshway_in_flight",
        "meshway_open_streams",
        "meshway_http_connections",
        "meshway_pool_connections_idle",
        "meshway_pool_connections_busy",
        "meshway_engine_writer_queue",
        "meshway_engine_write_seconds_count",
        "meshway_process_resident_memory_bytes",
    }
    assert wanted <= names


async def test_names_that_callers_invent_do_not_become_labels(hub: HubProcess) -> None:
    for number in range(5):
        await say(hub, "POST", f"/a2a/invented-{number}", SEND, headers=V10)
        await say(hub, "POST", f"/a2a/invented-{number}", b"{no json", headers=V10)
        await say(hub, "POST", f"/a2a/invented-{number}", SEND, headers={"A2A-Version": "99.0"})
        await say(hub, "GET", f"/a2a/invented-{number}/.well-known/agent-card.json")
        await say(hub, "GET", f"/v1/agents/invented-{number}")
    assert "invented" not in (await say(hub, "GET", "/metrics")).body.decode()


async def test_log_is_one_json_object_a_line_with_time_level_and_event(hub: HubProcess) -> None:
    lines = [json.loads(line) for line in hub.log.read_text().splitlines()]
    assert lines[0]["event"] == "hub_started"
    assert all({"at", "level", "event"} <= line.keys() for line in lines)


async def test_health_says_what_an_orchestrator_asks(hub: HubProcess) -> None:
    health, ready = await asyncio.gather(say(hub, "GET", "/healthz"), say(hub, "GET", "/readyz"))
    assert health.status == 200
    assert ready.json["ready"] is True
    assert ready.json["engine"] == "embedded"
    assert "disk" in ready.json["durability"]


async def test_documentation_works_without_the_internet(hub: HubProcess) -> None:
    page = (await say(hub, "GET", "/docs")).body.decode()
    assert not re.search(r"(src|href)=.https?://", page)
    for asset in re.findall(r"(?:src|href)=[\"'](/[^\"']+\.(?:js|css))[\"']", page):
        assert (await say(hub, "GET", asset)).status == 200, asset
    document = (await say(hub, "GET", "/v1/openapi.json")).json
    assert document["openapi"].startswith("3.1")
    assert {"/v1/agents", "/v1/agents/{agent}/heartbeat", "/v1/agents/watch", "/v1/keys"} <= set(document["paths"])


async def test_doctor_finds_a_healthy_hub_healthy_and_a_missing_one_missing(hub: HubProcess) -> None:
    env = {"MESHWAY_URL": hub.url}
    well = await meshway_async("doctor", "--data", str(hub.data), "--json", env=env)
    assert well.status == 0, well.out
    assert {item["state"] for item in well.json["items"]} <= {"ok", "warning"}
    assert {"fsync", "lock", "hub"} <= {item["check"] for item in well.json["items"]}
    ill = await meshway_async("doctor", "--data", str(hub.data), "--url", "http://127.0.0.1:9", "--json")
    # No hub yet is no fault of the machine: the check says how to start one.
    assert ill.status == 0
    (check,) = [item for item in ill.json["items"] if item["check"] == "hub"]
    assert check["state"] != "ok"
    assert "meshway up" in check["hint"]


async def test_config_show_says_where_each_value_came_from_and_masks_secrets(tmp_path) -> None:
    file = tmp_path / "meshway.toml"
    file.write_text(
        "[http]\nkeep_alive_ms = 9000\n"
        '[[keys]]\nname = "ci"\nkey = "mw_verysecretverysecretverysecret"\nscopes = ["call"]\n'
    )
    ran = await meshway_async("config", "show", "--config", str(file), "--json", env={"MESHWAY_PORT": "8123"})
    assert ran.status == 0, ran.err
    items = {item["key"]: item for item in ran.json["items"]}
    assert (items["http.keep_alive_ms"]["value"], items["port"]["value"]) == (9000, 8123)
    assert "meshway.toml" in items["http.keep_alive_ms"]["origin"]
    assert "MESHWAY_PORT" in items["port"]["origin"]
    assert items["host"]["origin"] == "default"
    assert "verysecret" not in ran.out


async def test_hub_is_ready_soon_and_small() -> None:
    began = time.monotonic()
    with running_hub() as hub:
        # The aim is 0.6 s on a quiet machine; this one is shared by many tests.
        assert time.monotonic() - began < 6
        memory = (await metrics_of(hub))["meshway_process_resident_memory_bytes"]
    assert memory < 90e6


async def test_demo_agents_answer_the_first_calls_of_the_readme() -> None:
    with running_hub(flags=["--demo"]) as hub:
        env = {"MESHWAY_URL": hub.url}
        async with asyncio.timeout(10):
            while len((await say(hub, "GET", "/v1/agents")).json["items"]) < 3:  # noqa: ASYNC110  another process
                await asyncio.sleep(0.05)
        said = await meshway_async("call", "echo", "good morning", env=env)
        assert (said.status, "good morning" in said.out) == (0, True), said.err
        assert hub.stop() == 0


async def first_refusal(hub: HubProcess, path: str, body_of: Callable[[int], object]) -> Reply:
    """The first of many requests that is not granted."""
    for number in range(60):
        reply = await say(hub, "POST", path, body_of(number), headers=V10)
        if reply.status not in (200, 201) or "error" in reply.json:
            return reply
    raise AssertionError("the limit was never met")


async def registered_again(hub: HubProcess, body: object) -> None:
    async with asyncio.timeout(10):
        while (await say(hub, "POST", "/v1/agents", body, headers=JSON)).status != 201:  # noqa: ASYNC110  as above
            await asyncio.sleep(0.1)


async def test_full_disk_refuses_what_must_be_stored_and_nothing_else() -> None:
    """A file size limit stands in for the disk: the store meets it in the same call, and it can be lifted."""

    def make(request: RawRequest) -> object:
        text = request.json["params"]["message"]["parts"][0]["text"]
        return task_answer(request, task=f"task-{text}") if text != "message" else message_answer(request)

    with running_hub() as hub:
        async with registered_agent(hub, raw_agent(answering(make))) as agent:
            largest = max(path.stat().st_size for path in hub.data.rglob("*") if path.is_file())
            _, hard = resource.prlimit(hub.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, (max(largest, 64_000) + 100_000, hard))
            card = raw_agent().card | {"description": "d" * 20_000}
            refused = await first_refusal(hub, "/v1/agents", lambda n: {"id": f"full-{n}", "card": card})
            assert refused.status == 507, refused
            assert refused.json["code"] == "storage_full"
            path = f"/a2a/{agent.id}"
            # What needs no storage goes on, and reading too.
            message = await say(hub, "POST", path, rpc("SendMessage", send_params("message")), headers=V10)
            assert "result" in message.json
            assert (await say(hub, "GET", "/v1/agents?limit=5")).status == 200
            # A task nobody could own is not shown.
            task = await first_refusal(hub, path, lambda n: rpc("SendMessage", send_params(f"{n}-{'x' * 3_000}")))
            assert task.json["error"]["data"][0]["reason"] == "STORAGE_FULL"
            assert b'"task-' not in task.body
            resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, (hard, hard))
            await registered_again(hub, {"id": "fits-again", "card": card})
            assert (await say(hub, "GET", "/readyz")).status == 200
        assert hub.stop() == 0


@pytest.mark.parametrize("signal_name", ["stop", "kill"])
async def test_hub_starts_again_on_what_it_left_behind(signal_name: str) -> None:
    with running_hub() as hub:
        made = await say(hub, "POST", "/v1/agents", {"id": "left", "card": raw_agent().card}, headers=JSON)
        assert made.status == 201
        getattr(hub, signal_name)()
        hub.start()
        assert (await say(hub, "GET", "/v1/agents/left")).status == 200
