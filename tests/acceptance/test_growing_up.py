"""A hub of its own grows into a mesh: what callers knew before the copy, two hubs on NATS answer with after it."""

from pathlib import Path

from support.command import meshway
from support.hub_process import HubProcess
from support.message_doors import RestDoor, open_door
from support.nats_process import running_nats

_LEASE = {"lease_ms": 1_500, "attempts_max": 3, "backoff_initial_ms": 1, "backoff_max_ms": 1}
_CARD = {
    "name": "Shell",
    "description": "Connects out.",
    "version": "1",
    "capabilities": {},
    "skills": [],
    "defaultInputModes": ["text/plain"],
    "defaultOutputModes": ["text/plain"],
}


async def test_what_was_answered_before_is_known_to_all_hubs_after(tmp_path: Path) -> None:
    with HubProcess(tmp_path / "one", flags=["--engine", "embedded"]) as before:
        async with open_door("rest", before.url) as rest:
            task, first = await _use(rest)
    with running_nats(tmp_path / "nats") as server:
        ran = meshway("engine", "copy", "--from", str(tmp_path / "one"), "--to", server.url, "--json")
        assert ran.status == 0, ran.err
        assert ran.json["differences"] == 0
        flags, mesh = ["--engine", server.url], {"MESHWAY_NATS_PREFIX": "mw"}
        refused = HubProcess(tmp_path / "stranger", flags=flags, env=mesh)
        refused.spawn()
        assert refused.wait(20) != 0
        assert "secret key" in refused.log.read_text()
        key = mesh | {"MESHWAY_SECRET_KEY": (tmp_path / "one" / "secret.key").read_text().strip()}
        with (
            HubProcess(tmp_path / "two", flags=flags, env=key) as second,
            HubProcess(tmp_path / "three", flags=flags, env=key) as third,
        ):
            async with open_door("rest", second.url) as two, open_door("rest", third.url) as three:
                await _judge(two, three, task, first)


async def _use(rest: RestDoor) -> tuple[str, dict]:
    """The id of a task that waits, and what was held when the hub stopped."""
    await rest.configure("queues", "q", **_LEASE, max_messages=100)
    await rest.configure("streams", "s", max_messages=5, when_full="drop_oldest")
    await rest.send("streams", "s", *({"data": number} for number in range(10)))
    await rest.call("PUT", "/v1/streams/s/readers/r", {"from": "first"})
    await rest.call("POST", "/v1/streams/s/readers/r/ack", {"sequence": 7})
    await rest.send("queues", "q", {"data": "held"}, {"data": "dead"}, {"data": "once", "dedupe_id": "once"})
    held, dead = await rest.lease("q", 2)
    await rest.settle("q", dead, action="dead_letter", reason="no")
    shell = {"instance": "sh-1", "count": 1, "wait_ms": 0, "card": _CARD}
    await rest.call("POST", "/v1/agents/shell/lease", shell)
    task = await rest.call("POST", "/v1/tasks", {"agent": "shell", "text": "work", "idempotency_key": "k"})
    return task["id"], held


async def _judge(two: RestDoor, three: RestDoor, task: str, held: dict) -> None:
    assert (await three.info("queues", "q"))["settings"].items() >= (_LEASE | {"max_messages": 100}).items()
    reader = await two.call("GET", "/v1/streams/s/readers/r")
    assert (reader["position"], reader["lag"]) == (7, 3)
    assert (await two.send("streams", "s", {"data": 10}))[0]["sequence"] == 11
    assert [each["data"] for each in await three.read("s", "last:3")] == [8, 9, 10]
    assert (await three.send("queues", "q", {"data": "again", "dedupe_id": "once"}))[0]["duplicate"]
    (letter,) = await two.dead_letters("q")
    assert (letter["reason"], letter["message"]["data"]) == ("no", "dead")
    assert await two.redrive("q") == 1
    assert await two.settle("q", held) == ["stale"]
    taken: dict[str, int] = {}
    while len(taken) < 3:
        for lease in await three.lease("q", 3, wait_ms=5_000):
            taken[lease["message"]["data"]] = lease["attempt"]
            assert await three.settle("q", lease) == ["done"]
    assert taken == {"held": 2, "once": 1, "dead": 1}
    same = await three.call("POST", "/v1/tasks", {"agent": "shell", "text": "work", "idempotency_key": "k"})
    assert same["id"] == task
    shell = {"instance": "sh-2", "count": 1, "wait_ms": 5_000, "card": _CARD}
    (work,) = (await two.call("POST", "/v1/agents/shell/lease", shell))["tasks"]
    assert (work["task_id"], work["attempt"]) == (task, 1)
