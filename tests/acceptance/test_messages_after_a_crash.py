"""What a hub that was killed at once after its answer knows when it is back: everything it had answered for."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from support.hub_process import HubProcess, running_hub
from support.message_doors import Refusal, RestDoor, open_door, wait_until

LEASE = {"lease_ms": 1_500, "attempts_max": 3, "backoff_initial_ms": 1, "backoff_max_ms": 1}


@dataclass
class Crashing:
    """A hub whose calls go on after a crash."""

    hub: HubProcess
    rest: RestDoor

    async def crash(self) -> None:
        await asyncio.to_thread(self.hub.kill)
        await asyncio.to_thread(self.hub.start)


@pytest.fixture(scope="module")
def crashing_hub():
    with running_hub() as hub:
        yield hub


@pytest.fixture
async def hub(crashing_hub: HubProcess) -> AsyncIterator[Crashing]:
    async with open_door("rest", crashing_hub.url) as rest:
        yield Crashing(crashing_hub, rest)


def numbers(count: int, begin: int = 0) -> list[dict]:
    return [{"data": number} for number in range(begin, begin + count)]


def data(messages: list[dict]) -> list[object]:
    return [message["data"] for message in messages]


async def test_everything_that_was_answered_is_there_again(hub: Crashing):
    rest = hub.rest
    # Settings of each kind.
    await rest.configure("queues", "q", **LEASE, ordered=True, max_messages=100)
    await rest.configure("streams", "s", max_messages=5, when_full="drop_oldest")
    await rest.configure("queries", "ask", timeout_ms=1_234)
    await rest.configure("queues", "rich", **LEASE)
    # A stream that was trimmed, and a reader that got somewhere.
    await rest.send("streams", "s", *numbers(10))
    await rest.call("PUT", "/v1/streams/s/readers/r", {"from": "first"})
    await rest.call("POST", "/v1/streams/s/readers/r/ack", {"sequence": 7})
    # Ordered: one held, its follower behind it; ids and dedupe ids are known.
    await rest.send("queues", "q", *({"data": n, "ordering_key": "k", "id": f"m{n}"} for n in range(3)))
    await rest.send("queues", "rich", {"data": "d", "dedupe_id": "once"}, {"data": "later", "delay_ms": 2_500})
    (held,) = await rest.lease("q", 9)
    # One done, one dead, one given back.
    (first,) = await rest.lease("rich", 1)
    await rest.settle("rich", first, action="dead_letter", reason="no")
    await rest.delete("streams", await used(rest, "gone"))

    await hub.crash()

    settings = (await rest.info("queues", "q"))["settings"]
    assert settings.items() >= (LEASE | {"ordered": True, "max_messages": 100}).items()
    assert (await rest.info("queries", "ask"))["settings"]["timeout_ms"] == 1_234
    with pytest.raises(Refusal, match="not_found"):
        await rest.info("streams", "gone")
    reader = await rest.call("GET", "/v1/streams/s/readers/r")
    assert (reader["position"], reader["lag"]) == (7, 3)
    assert (await rest.send("streams", "s", {"data": 10}))[0]["sequence"] == 11
    assert data(await rest.read("s", "last:3")) == [8, 9, 10]
    again = await rest.send("queues", "q", {"data": 0, "ordering_key": "k", "id": "m0"})
    assert again[0]["duplicate"]
    again = await rest.send("queues", "rich", {"data": "e", "dedupe_id": "once"})
    assert again[0]["duplicate"]
    # The lease is one full lease time longer, its holder still may settle, and its follower waits that long.
    assert await rest.lease("q", 9) == []
    assert await rest.settle("q", held) == ["done"]
    (follower,) = await rest.lease("q", 9)
    assert (follower["message"]["data"], follower["attempt"]) == (1, 1)
    (letter,) = await rest.dead_letters("rich")
    assert (letter["reason"], letter["message"]["data"]) == ("no", "d")
    assert data([each["message"] for each in await rest.lease("rich", 9, wait_ms=5_000)]) == ["later"]


async def used(rest: RestDoor, name: str) -> str:
    await rest.send("streams", name, {"data": 1})
    return name


async def test_a_lease_nobody_settles_runs_out_once_the_hub_is_back(hub: Crashing):
    await hub.rest.configure("queues", "silent", **LEASE)
    await hub.rest.send("queues", "silent", {"data": 1})
    (before,) = await hub.rest.lease("silent")
    await hub.crash()
    (after,) = await hub.rest.lease("silent", wait_ms=5_000)
    assert (before["attempt"], after["attempt"]) == (1, 2)
    assert await hub.rest.settle("silent", before) == ["stale"]
    await hub.crash()
    (last,) = await hub.rest.lease("silent", wait_ms=5_000)
    assert last["attempt"] == 3

    async def is_dead() -> bool:
        assert await hub.rest.lease("silent") == []
        return bool(await hub.rest.dead_letters("silent"))

    await wait_until(is_dead)
    (letter,) = await hub.rest.dead_letters("silent")
    assert letter["reason"] == "attempt 3 of 3 was not settled: its lease ran out"
    assert [each["outcome"] for each in letter["attempts"]] == ["expired"] * 3


async def test_a_redrive_that_a_crash_interrupts_loses_and_doubles_nothing(hub: Crashing):
    rest = hub.rest
    await rest.configure("queues", "redriven", **(LEASE | {"lease_ms": 60_000}))
    await rest.send("queues", "redriven", *numbers(40))
    await rest.settle("redriven", *await rest.lease("redriven", 40), action="dead_letter")
    assert await rest.redrive("redriven", rate=20) == 40

    async def has_begun() -> bool:
        return len(await rest.peek("redriven")) >= 5

    await wait_until(has_begun)
    await hub.crash()
    figures = (await rest.info("queues", "redriven"))["figures"]
    assert figures["waiting"] + figures["dead"] == 40
    await rest.redrive("redriven")
    assert sorted(data([each["message"] for each in await rest.lease("redriven", 100)])) == list(range(40))
    assert await rest.dead_letters("redriven") == []


async def test_data_by_reference_is_there_again(hub: Crashing):
    content = b"x" * 9_000_000
    stored = await hub.rest.http.post("/v1/blobs", content=content)
    reference = {"sha256": stored.json()["sha256"], "size": len(content), "encoding": "bytes"}
    await hub.rest.send("queues", "blobs", {"data_ref": reference})
    await hub.crash()
    (message,) = await hub.rest.receive("blobs", 1)
    answer = await hub.rest.http.get(f"/v1/blobs/{message['data_ref']['sha256']}")
    assert answer.content == content
