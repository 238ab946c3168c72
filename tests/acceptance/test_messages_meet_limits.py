"""Back-pressure of a running hub: full queues, full disks, slow readers, much that waits, many that listen."""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.hub_process import HubProcess, running_hub
from support.link_client import link_client
from support.message_doors import RestDoor, open_door, wait_until

# Resident memory that waiting messages of 1 KiB may take: the page cache of the store, no copy of what waits.
_GROWTH_MAX_BYTES = 200 * 1024 * 1024


@pytest.fixture
async def rest(message_hub: HubProcess) -> AsyncIterator[RestDoor]:
    async with open_door("rest", message_hub.url) as rest:
        yield rest


def numbers(count: int) -> list[dict]:
    return [{"data": number} for number in range(count)]


@pytest.mark.parametrize(
    ("kind", "settings", "limit"),
    [
        ("queues", {"max_messages": 3}, "max_messages"),
        ("queues", {"max_bytes": 700}, "max_bytes"),
        ("streams", {"max_messages": 3, "when_full": "refuse"}, "max_messages"),
    ],
)
async def test_a_full_channel_refuses_names_the_limit_and_takes_more_once_there_is_room(
    rest: RestDoor, kind: str, settings: dict, limit: str
):
    name = f"full.{kind}.{limit}"
    await rest.configure(kind, name, **settings)
    path = f"/v1/{kind}/{name}" + ("/messages" if kind == "queues" else "")
    accepted = 0
    for number in range(20):
        answer = await rest.http.post(path, json={"messages": [{"data": number, "id": f"m{number}"}]})
        if answer.status_code != 202:
            break
        accepted += 1
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (429, "channel_full")
    assert limit in problem["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert 3 <= accepted <= 5
    if kind == "queues":
        assert len(await rest.peek(name)) == accepted
        await rest.receive(name, 1)
        await rest.send("queues", name, {"data": "room"})
    else:
        assert [item["data"] for item in await rest.read(name, "first")] == list(range(accepted))


async def test_a_full_disk_is_507_and_what_is_stored_is_read_and_worked_off():
    """A file size limit stands in for the disk: the store meets it in the same call, and it can be lifted."""
    with running_hub() as hub:
        async with open_door("rest", hub.url) as rest:
            await rest.send("streams", "streams", *numbers(3))
            await rest.send("queues", "q", *numbers(3))
            largest = max(path.stat().st_size for path in hub.data.rglob("*") if path.is_file())
            _, hard = resource.prlimit(hub.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, (max(largest, 64_000) + 200_000, hard))
            accepted = {kind: await fill_disk(rest, kind) for kind in ("streams", "queues")}
            # What needs no storage goes on, and so does reading.
            await rest.send("events", "e", {"data": 1})
            items = (await rest.call("GET", "/v1/streams/streams/messages", limit=500, **{"from": "first"}))["items"]
            assert len(items) == accepted["streams"] + 3
            assert len(await rest.peek("queues")) == accepted["queues"]
            resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
            receipts = await rest.send("streams", "streams", {"data": "room"})
            assert receipts[0]["sequence"] == accepted["streams"] + 4
            assert [each["data"] for each in await rest.receive("q", 5)] == [0, 1, 2]


async def fill_disk(rest: RestDoor, kind: str) -> int:
    """How many were accepted before one was refused."""
    path = f"/v1/{kind}/{kind}" + ("/messages" if kind == "queues" else "")
    for accepted in range(1_000):
        answer = await rest.http.post(path, json={"messages": [{"data": "d" * 20_000}]})
        if answer.status_code != 202:
            assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
            return accepted
    raise AssertionError("the disk does not fill")


async def test_slow_listeners_hold_nobody_up_and_are_told_what_they_missed(message_hub: HubProcess, rest: RestDoor):
    """Neither reads: one on a socket that is full, one that grants no credit. The third gets everything at once."""
    name = "slow.events"
    data = "d" * 2_000
    reader, writer = await asyncio.open_connection("127.0.0.1", message_hub.port, limit=1_024)
    writer.write(f"GET /v1/events/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    # Streams subscribe by themselves; a StreamReader stops reading at twice its limit.
    async with link_client(message_hub.port) as link, rest.feed("events", name) as quick:
        await link.subscribe("s", "events", name, credit=0)

        async def are_there() -> bool:
            return (await rest.info("events", name))["figures"]["subscribers"] == 3

        await wait_until(are_there)
        begin = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(publish(rest, name, data, 8_000))
            got = [(await quick.next())["data"][0] for _ in range(8_000)]
        assert got == list(range(8_000))
        assert time.monotonic() - begin < 30
        await link.send("credit", id="s", messages=10_000)
        arrived = missed = 0
        while arrived + missed < 8_000:
            frame = await link.next()
            arrived += len(frame.get("messages", ()))
            missed += frame.get("missed") or 0
        assert (arrived + missed, missed > 0) == (8_000, True)
        assert await count_sse(reader, 8_000) > 0
    writer.close()


async def publish(rest: RestDoor, name: str, data: str, count: int) -> None:
    for begin in range(0, count, 200):
        await rest.send("events", name, *({"data": [number, data]} for number in range(begin, begin + 200)))


async def count_sse(reader: asyncio.StreamReader, count: int) -> int:
    """Reads until events and missed ones make up `count`; how many were missed."""
    arrived = missed = 0
    event = ""
    async with asyncio.timeout(20):
        while arrived + missed < count:
            line = (await read_line(reader)).strip()
            if line.startswith(b"event:"):
                event = line[6:].strip().decode()
            elif line.startswith(b"data:"):
                if event == "missed":
                    missed += json.loads(line[5:])["missed"]
                else:
                    arrived += 1
            elif not line:
                event = ""
    return missed


async def read_line(reader: asyncio.StreamReader) -> bytes:
    """A line that may be longer than the reader's limit."""
    line = b""
    while not line.endswith(b"\n"):
        try:
            line += await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            line += await reader.readexactly(error.consumed)
    return line


async def test_memory_stays_flat_with_200_000_messages_waiting():
    await fill_and_drain(200_000)


@pytest.mark.soak
async def test_memory_stays_flat_with_a_million_messages_waiting():
    await fill_and_drain(1_000_000)


async def fill_and_drain(count: int) -> None:
    body = json.dumps({"messages": [{"data": "d" * 1_000}] * 1_000}).encode()
    with running_hub() as hub:
        async with open_door("rest", hub.url) as rest:
            await post(rest, body)
            at_first = resident_bytes(hub.pid)
            begin = time.monotonic()
            async with asyncio.TaskGroup() as group:
                posts = iter(range(count // 1_000 - 1))
                for _ in range(4):
                    group.create_task(post_each(rest, body, posts))
            filled_s = time.monotonic() - begin
            growth = resident_bytes(hub.pid) - at_first
            assert (await rest.info("queues", "deep"))["figures"]["waiting"] == count
            begin = time.monotonic()
            for _ in range(5):
                deliveries = await rest.lease("deep", 200)
                assert len(deliveries) == 200
                assert set(await rest.settle("deep", *deliveries)) == {"done"}
            worked_s = time.monotonic() - begin
            after = resident_bytes(hub.pid) - at_first
    print(
        f"{count} messages of 1 KiB in {filled_s:.1f} s ({count / filled_s:.0f}/s): {growth / 2**20:.0f} MiB more; "
        f"1,000 leased and acked in {worked_s:.2f} s, {after / 2**20:.0f} MiB more in the end"
    )
    assert max(growth, after) < _GROWTH_MAX_BYTES
    # What waits behind costs nothing: a thousand are worked off as fast as from a short queue.
    assert worked_s < 10


async def post_each(rest: RestDoor, body: bytes, posts: object) -> None:
    for _ in posts:
        await post(rest, body)


async def post(rest: RestDoor, body: bytes) -> None:
    answer = await rest.http.post(
        "/v1/queues/deep/messages", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 202, answer.text


def resident_bytes(pid: int) -> int:
    """What the process holds now, without pages of files it only maps."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
