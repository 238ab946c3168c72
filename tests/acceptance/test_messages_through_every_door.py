"""Every promise of the five kinds of channels, through REST, the SDK and the command line of a running hub."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from support.hub_process import HubProcess
from support.message_doors import DOORS, Door, Refusal, RestDoor, open_door, wait_until

FAST_DOORS = ("rest", "sdk")
QUICK = {"lease_ms": 500, "attempts_max": 2, "backoff_initial_ms": 1, "backoff_max_ms": 1}


@pytest.fixture
async def rest(message_hub: HubProcess) -> AsyncIterator[RestDoor]:
    async with open_door("rest", message_hub.url) as rest:
        yield rest


@pytest.fixture
async def door(request: pytest.FixtureRequest, message_hub: HubProcess) -> AsyncIterator[Door]:
    async with open_door(request.param, message_hub.url) as door:
        yield door


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A channel of the test's own."""
    return request.node.name.removeprefix("test_").replace("[", ".").replace("]", "")


every_door = pytest.mark.parametrize("door", DOORS, indirect=True)
fast_door = pytest.mark.parametrize("door", FAST_DOORS, indirect=True)


def data(messages: list[dict]) -> list[object]:
    return [message["data"] for message in messages]


def numbers(count: int, begin: int = 0) -> list[dict]:
    return [{"data": number} for number in range(begin, begin + count)]


# Events


async def listeners(rest: RestDoor, channel: str, count: int) -> None:
    async def are_there() -> bool:
        return (await rest.info("events", channel))["figures"]["subscribers"] >= count

    await wait_until(are_there)


@every_door
async def test_each_event_reaches_all_who_listen_in_order(door: Door, rest: RestDoor, name: str):
    async with door.feed("events", name) as one, rest.feed("events", name) as other:
        await listeners(rest, name, 2)
        await door.send("events", name, *numbers(3), {"data": "x", "attributes": {"a": "b"}, "id": "mine"})
        for feed in (one, other):
            got = [await feed.next() for _ in range(4)]
            assert data(got) == [0, 1, 2, "x"]
            assert got[3] | {"timestamp": ""} == {
                "id": "mine",
                "channel": name,
                "data": "x",
                "content_type": "application/json",
                "attributes": {"a": "b"},
                "timestamp": "",
                "principal": "local",
            }


@fast_door
async def test_an_event_reaches_those_whose_pattern_matches(door: Door, rest: RestDoor, name: str):
    async with door.feed("events", f"{name}.*.x") as one, door.feed("events", f"{name}.>") as rest_of_it:
        await listeners(rest, f"{name}.a.x", 2)
        for channel in ("a.x", "a.y", "a.x.z", "b.x"):
            await door.send("events", f"{name}.{channel}", {"data": channel})
        assert data([await one.next() for _ in range(2)]) == ["a.x", "b.x"]
        assert data([await rest_of_it.next() for _ in range(4)]) == ["a.x", "a.y", "a.x.z", "b.x"]


@fast_door
async def test_each_event_goes_to_one_member_of_a_group(door: Door, rest: RestDoor, name: str):
    async with (
        door.feed("events", name, group="g") as one,
        door.feed("events", name, group="g") as other,
        rest.feed("events", name) as alone,
    ):
        await listeners(rest, name, 3)
        await door.send("events", name, *numbers(40))
        assert data([await alone.next() for _ in range(40)]) == list(range(40))
        await door.send("events", name, {"data": "end"}, {"data": "end"})
        shares: list[list[object]] = [[], []]
        async with asyncio.TaskGroup() as group:
            for share, feed in zip(shares, (one, other), strict=True):
                group.create_task(take_share(share, feed, lambda: sum(map(len, shares)) >= 42))
        taken = [each for share in shares for each in share if each != "end"]
        assert sorted(taken) == list(range(40))


async def take_share(share: list[object], feed: object, is_all: object) -> None:
    """What one member gets until all have all of it."""
    taking: asyncio.Task[dict] | None = None
    while not is_all():
        taking = taking or asyncio.ensure_future(feed.next())
        await asyncio.wait([taking], timeout=0.05)
        if taking.done():
            share.append(taking.result()["data"])
            taking = None
    if taking is not None:
        taking.cancel()
        await asyncio.wait([taking])


# Streams


@every_door
async def test_a_stream_is_read_from_wherever_one_likes(door: Door, name: str):
    receipts = await door.send("streams", name, *numbers(3))
    assert [receipt["sequence"] for receipt in receipts] == [1, 2, 3]
    before = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    again = await door.send("streams", name, {"data": 3, "id": "once"}, {"data": 4, "id": "once"})
    assert [(receipt["sequence"], receipt["duplicate"]) for receipt in again] == [(4, False), (4, True)]
    items = await door.read(name, "first")
    assert [(item["sequence"], item["data"]) for item in items] == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert data(await door.read(name, "last:2")) == [2, 3]
    assert data(await door.read(name, "3")) == [2, 3]
    assert data(await door.read(name, f"time:{before}")) == [3]
    assert await door.read(name, "new") == []


@every_door
async def test_a_tail_replays_and_goes_on_where_another_stopped(door: Door, rest: RestDoor, name: str):
    await rest.send("streams", name, *numbers(4))
    async with door.feed("streams", name, **{"from": "2"}) as feed:
        assert data([await feed.next() for _ in range(3)]) == [1, 2, 3]
        await rest.send("streams", name, {"data": "live"})
        assert await feed.next() | {"timestamp": "", "id": ""} == {
            "sequence": 5,
            "id": "",
            "channel": name,
            "data": "live",
            "content_type": "application/json",
            "attributes": {},
            "timestamp": "",
            "principal": "local",
        }
    async with door.feed("streams", name, cursor="3") as feed:
        assert [(await feed.next())["sequence"] for _ in range(2)] == [4, 5]


@fast_door
async def test_replay_becomes_live_without_gap_under_appends(door: Door, rest: RestDoor, name: str):
    await rest.send("streams", name, *numbers(300))

    async def append() -> None:
        for begin in range(300, 700, 20):
            await rest.send("streams", name, *numbers(20, begin))

    async with asyncio.TaskGroup() as group:
        appending = group.create_task(append())
        for _ in range(5):
            async with door.feed("streams", name, **{"from": "first"}) as feed:
                found = [await feed.next() for _ in range(300)]
                while not appending.done() and len(found) < 700:
                    found.append(await feed.next())
            assert [item["sequence"] for item in found] == list(range(1, len(found) + 1))
            assert data(found) == list(range(len(found)))


async def test_an_event_source_that_comes_back_by_its_last_id_misses_nothing_of_a_pattern(rest: RestDoor, name: str):
    for channel in ("a", "b"):
        await rest.send("streams", f"{name}.{channel}", *numbers(3))
    async with rest.feed("streams", f"{name}.>", **{"from": "first"}) as feed:
        first = [await feed.next() for _ in range(4)]
        last_id = feed.last_id
    await rest.send("streams", f"{name}.b", {"data": "late"})
    async with rest.feed("streams", f"{name}.>", cursor=last_id) as feed:
        rest_of_it = [await feed.next() for _ in range(3)]
    seen = [(item["channel"][-1], item["data"]) for item in first + rest_of_it]
    assert sorted(seen, key=str) == sorted([(c, n) for c in "ab" for n in range(3)] + [("b", "late")], key=str)


@fast_door
async def test_the_hub_keeps_a_readers_position(door: Door, rest: RestDoor, name: str):
    await rest.send("streams", name, *numbers(5))
    path = f"/v1/streams/{name}/readers/r"
    assert (await rest.call("PUT", path, {"from": "first"}))["position"] == 0
    assert (await rest.call("POST", f"{path}/ack", {"sequence": 3}))["sequence"] == 3
    assert (await rest.call("POST", f"{path}/ack", {"sequence": 2}))["sequence"] == 3
    async with door.feed("streams", name, reader="r") as feed:
        assert [(await feed.next())["sequence"] for _ in range(2)] == [4, 5]
    assert (await rest.call("GET", path))["lag"] <= 2


# Queues


@every_door
async def test_a_queue_hands_out_the_most_urgent_first_and_what_is_acknowledged_is_gone(door: Door, name: str):
    priorities = ("low", "normal", "high", "urgent", "low", "urgent")
    messages = [{"data": f"{number}-{each}", "priority": each} for number, each in enumerate(priorities)]
    receipts = await door.send("queues", name, *messages)
    assert [receipt["duplicate"] for receipt in receipts] == [False] * 6
    assert len(await door.peek(name)) == 6
    expected = ["3-urgent", "5-urgent", "2-high", "1-normal", "0-low", "4-low"]
    assert data(await door.receive(name, 4)) == expected[:4]
    assert data(await door.receive(name, 9)) == expected[4:]
    assert await door.receive(name, 1) == []


@every_door
async def test_a_queue_keeps_its_settings_and_can_be_purged_and_deleted(door: Door, name: str):
    made = await door.configure("queues", name, lease_ms=700, attempts_max=3)
    assert (made["settings"]["lease_ms"], made["settings"]["attempts_max"]) == (700, 3)
    await door.send("queues", name, *numbers(3), {"data": 1, "delay_ms": 60_000})
    assert (await door.info("queues", name))["figures"] == {"waiting": 3, "held": 0, "delayed": 1, "dead": 0}
    assert await door.purge(name) == 4
    await door.delete("queues", name)
    with pytest.raises(Refusal, match="not_found"):
        await door.info("queues", name)


@fast_door
async def test_delay_schedule_and_expiry_are_kept(door: Door, rest: RestDoor, name: str):
    begin = datetime.now(UTC)
    at = (begin + timedelta(milliseconds=400)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    await door.send(
        "queues",
        name,
        {"data": "later", "delay_ms": 300},
        {"data": "then", "deliver_at": at},
        {"data": "in a year", "delay_ms": 365 * 86_400_000},
        {"data": "now"},
    )
    assert data(await rest.receive(name, 10)) == ["now"]
    came = []
    while len(came) < 2:
        for delivery in await rest.lease(name, 10, wait_ms=3_000):
            came.append((delivery["message"]["data"], datetime.now(UTC) - begin))
            await rest.settle(name, delivery)
    assert [what for what, _ in came] == ["later", "then"]
    assert came[0][1] >= timedelta(milliseconds=300)
    assert came[1][1] >= timedelta(milliseconds=395)
    await door.send("queues", name, {"data": "soon gone", "expires_in_ms": 500})

    async def is_expired() -> bool:
        return (await rest.info("queues", name))["figures"] == {"waiting": 0, "held": 0, "delayed": 1, "dead": 0}

    await wait_until(is_expired)


@fast_door
async def test_a_dedupe_id_keeps_repeats_out(door: Door, name: str):
    receipts = await door.send("queues", name, *({"data": each, "dedupe_id": "d"} for each in (1, 2)), {"data": 3})
    assert [receipt["duplicate"] for receipt in receipts] == [False, True, False]
    again = await door.send("queues", name, {"data": 4, "dedupe_id": "d"})
    assert again[0]["duplicate"]
    assert data(await door.receive(name, 9)) == [1, 3]


@fast_door
async def test_an_ordered_queue_hands_out_one_message_of_a_key_at_a_time(door: Door, rest: RestDoor, name: str):
    await door.configure("queues", name, ordered=True, **QUICK)
    keys = ("a", "a", "b", "a", "b")
    await door.send("queues", name, *({"data": f"{k}{n}", "ordering_key": k} for n, k in enumerate(keys)))
    first = await rest.lease(name, 9)
    assert [each["message"]["data"] for each in first] == ["a0", "b2"]
    assert await rest.lease(name, 9) == []
    assert await rest.settle(name, first[0]) == ["done"]
    assert await rest.settle(name, first[1], action="retry", delay_ms=0) == ["done"]
    second = await rest.lease(name, 9)
    assert sorted(each["message"]["data"] for each in second) == ["a1", "b2"]
    assert {each["attempt"] for each in second} == {1, 2}


async def test_a_lease_is_extended_given_back_and_runs_out(rest: RestDoor, name: str):
    await rest.configure("queues", name, **(QUICK | {"attempts_max": 9}))
    await rest.send("queues", name, {"data": 1})
    (first,) = await rest.lease(name)
    for _ in range(4):
        await asyncio.sleep(0.2)
        assert await rest.settle(name, first, action="extend") == ["done"]
    assert await rest.lease(name) == []
    assert await rest.settle(name, first, action="retry", delay_ms=150, reason="busy") == ["done"]
    assert await rest.lease(name) == []
    (second,) = await rest.lease(name, wait_ms=2_000)
    assert second["attempt"] == 2
    (third,) = await rest.lease(name, wait_ms=3_000)
    assert third["attempt"] == 3
    assert await rest.settle(name, first, second) == ["stale", "stale"]
    assert await rest.settle(name, third) == ["done"]


@every_door
async def test_dead_letters_say_why_and_go_back_one_many_or_all(door: Door, rest: RestDoor, name: str):
    await rest.configure("queues", name, **QUICK)
    await rest.send("queues", name, *({"data": number, "id": f"m{number}"} for number in range(6)))

    async def bury() -> None:
        held = await rest.lease(name, 9)
        await rest.settle(name, *held, action="dead_letter", reason="no such order")

    await bury()
    letters = await door.dead_letters(name)
    assert [letter["message"]["data"] for letter in letters] == list(range(6))
    assert {letter["reason"] for letter in letters} == {"no such order"}
    assert [attempt["outcome"] for attempt in letters[0]["attempts"]] == ["dead_letter"]
    assert await door.redrive(name, "m1") == 1
    assert await door.redrive(name, "m2", "m4") == 2
    back = await rest.lease(name, 9)
    assert [(each["message"]["data"], each["attempt"]) for each in back] == [(1, 1), (2, 1), (4, 1)]
    await rest.settle(name, *back)
    assert await door.redrive(name) == 3
    assert data(await rest.receive(name, 9)) == [0, 3, 5]
    assert await door.dead_letters(name) == []


@fast_door
async def test_dead_letters_go_back_at_a_rate(door: Door, rest: RestDoor, name: str):
    await rest.configure("queues", name, **(QUICK | {"lease_ms": 30_000}))
    await rest.send("queues", name, *numbers(10))
    await rest.settle(name, *await rest.lease(name, 10), action="dead_letter")
    begin = asyncio.get_running_loop().time()
    assert await door.redrive(name, rate=20) == 10
    came = 0
    while came < 10:
        came += len(await rest.lease(name, 10, wait_ms=2_000))
    took_s = asyncio.get_running_loop().time() - begin
    assert 0.35 <= took_s < 5


async def test_a_message_that_failed_every_time_tells_its_history(rest: RestDoor, name: str):
    await rest.configure("queues", name, **QUICK)
    await rest.send("queues", name, {"data": 1})
    await rest.settle(name, *await rest.lease(name), action="retry", reason="first")
    await rest.settle(name, *await rest.lease(name, wait_ms=2_000), action="retry", reason="second")
    (letter,) = await rest.dead_letters(name)
    assert letter["reason"] == "attempt 2 of 2 failed: second"
    assert [(each["attempt"], each["outcome"]) for each in letter["attempts"]] == [(1, "retry"), (2, "dead_letter")]
    assert letter["attempts"][0]["reason"] == "first"


async def test_one_name_may_stand_once_for_each_kind(rest: RestDoor, name: str):
    for kind in ("events", "streams", "queues"):
        await rest.send(kind, name, {"data": kind})
    for kind in ("commands", "queries"):
        with pytest.raises(Refusal, match="no_responder"):
            await rest.ask(kind, name, 1)
    assert data(await rest.read(name, "first")) == ["streams"]
    assert data(await rest.receive(name, 9)) == ["queues"]
    await rest.delete("streams", name)
    assert (await rest.info("queues", name))["kind"] == "queues"
