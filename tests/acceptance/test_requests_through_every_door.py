"""Commands and queries of a running hub: callers through every door, responders over the link and by long poll."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from meshway.client import MeshwayClient, Refused, RequestMessage
from support.hub_process import HubProcess
from support.message_doors import DOORS, Door, Refusal, RestDoor, open_door, wait_until

Kind = Literal["commands", "queries"]
Answer = Callable[[Mapping], Awaitable[object]]
every_door = pytest.mark.parametrize("door", DOORS, indirect=True)
every_responder = pytest.mark.parametrize("responding", ["link", "poll"])


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
    return request.node.name.removeprefix("test_").replace("[", ".").replace("]", "").replace("-", ".")


@asynccontextmanager
async def answering(responding: str, rest: RestDoor, kind: Kind, channel: str, answer: Answer) -> AsyncIterator[None]:
    """A responder that is there when the block begins. `answer` raises Refused, or returns the reply's data."""
    if responding == "poll":
        async with asyncio.TaskGroup() as group:
            polling = group.create_task(poll(rest, kind, channel, answer))
            await until_there(rest, kind, channel)
            yield
            polling.cancel()
        return
    async with MeshwayClient(str(rest.http.base_url)) as client:

        async def handle(request: RequestMessage) -> object:
            return await answer({"data": request.data, "timeout_ms": request.timeout_ms})

        async with client.responder(channel, handle, kind=kind):
            await until_there(rest, kind, channel)
            yield


async def poll(rest: RestDoor, kind: Kind, channel: str, answer: Answer) -> None:
    while True:
        taken = await rest.call("POST", f"/v1/{kind}/{channel}/lease", {"count": 5, "wait_ms": 5_000})
        for each in taken["requests"]:
            reply: dict[str, object] = {"request_id": each["request_id"], "executed": True}
            try:
                reply["data"] = await answer({"data": each["message"]["data"], "timeout_ms": each["timeout_ms"]})
            except Refused as refused:
                reply |= {"executed": False, "error": refused.reason}
            await rest.call("POST", f"/v1/{kind}/{channel}/reply", reply)


async def until_there(rest: RestDoor, kind: Kind, channel: str) -> None:
    async def is_there() -> bool:
        try:
            return (await rest.info(kind, channel))["figures"]["responders"] > 0
        except Refusal:
            # Channels that keep nothing are known while somebody uses them.
            return False

    await wait_until(is_there)


async def double(request: Mapping) -> object:
    if request["data"] == "refuse":
        raise Refused("not today")
    return {"twice": request["data"] * 2}


@every_responder
@every_door
async def test_a_command_is_carried_out_or_refused_with_a_reason(
    door: Door, rest: RestDoor, name: str, responding: str
):
    async with answering(responding, rest, "commands", name, double):
        done = await door.ask("commands", name, 4)
        assert done | {"error": None} == {"executed": True, "data": {"twice": 8}, "error": None, "cache": "off"}
        refused = await door.ask("commands", name, "refuse")
        assert (refused["executed"], refused["error"]) == (False, "not today")


@every_door
async def test_nobody_there_is_said_at_once(door: Door, name: str):
    for kind in ("commands", "queries"):
        with pytest.raises(Refusal, match="no_responder"):
            await door.ask(kind, name, 1, timeout_ms=60_000)


@every_responder
@pytest.mark.parametrize("door", ["rest", "sdk"], indirect=True)
async def test_an_answer_that_comes_too_late_is_an_error_and_nobody_is_told_later(
    door: Door, rest: RestDoor, name: str, responding: str
):
    may_answer = asyncio.Event()
    seen: list[Mapping] = []

    async def slow(request: Mapping) -> object:
        seen.append(request)
        await may_answer.wait()
        return "late"

    async with answering(responding, rest, "commands", name, slow):
        with pytest.raises(Refusal, match="deadline_exceeded"):
            await door.ask("commands", name, 1, timeout_ms=300)
        assert 0 < seen[0]["timeout_ms"] <= 300
        may_answer.set()
        assert (await door.ask("commands", name, 2))["data"] == "late"


@every_responder
@every_door
async def test_a_query_is_answered_from_the_cache_the_second_time(
    door: Door, rest: RestDoor, name: str, responding: str
):
    asked: list[object] = []

    async def answer(request: Mapping) -> object:
        asked.append(request["data"])
        return [len(asked), None, "ü"]

    async with answering(responding, rest, "queries", name, answer):
        first = await door.ask("queries", name, "x", cache_key="k", cache_ttl_ms=60_000)
        assert (first["data"], first["cache"]) == ([1, None, "ü"], "miss")
        again = await rest.ask("queries", name, "x", cache_key="k", cache_ttl_ms=60_000)
        assert (again["data"], again["cache"]) == ([1, None, "ü"], "hit")
        assert (await door.ask("queries", name, "x"))["cache"] == "off"
    assert len(asked) == 2
    # The cache needs no responder.
    assert (await rest.ask("queries", name, "x", cache_key="k", cache_ttl_ms=60_000))["cache"] == "hit"


@every_responder
async def test_queries_at_the_same_time_become_one(rest: RestDoor, name: str, responding: str):
    may_answer = asyncio.Event()
    asked: list[object] = []

    async def answer(request: Mapping) -> object:
        asked.append(request["data"])
        await may_answer.wait()
        return "once"

    async with answering(responding, rest, "queries", name, answer), asyncio.TaskGroup() as group:
        asking = [
            group.create_task(rest.ask("queries", name, 1, cache_key="k", cache_ttl_ms=60_000)) for _ in range(20)
        ]

        async def is_asked() -> bool:
            return bool(asked)

        await wait_until(is_asked)
        may_answer.set()
    assert asked == [1]
    assert {task.result()["data"] for task in asking} == {"once"}


async def test_a_responder_that_dies_leaves_its_request_unanswered_and_the_next_one_is_served(
    rest: RestDoor, name: str
):
    is_taken = asyncio.Event()

    async def hang(_request: Mapping) -> object:
        is_taken.set()
        return await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        async with answering("poll", rest, "commands", name, hang):
            asking = group.create_task(rest.ask_for_refusal("commands", name, 1, timeout_ms=700))
            await is_taken.wait()
        async with answering("link", rest, "commands", name, double):
            assert (await rest.ask("commands", name, 1))["executed"]
            assert (await asking).code == "deadline_exceeded"


async def test_a_reply_to_what_nobody_asked_is_refused(rest: RestDoor, name: str):
    with pytest.raises(Refusal) as refused:
        await rest.call("POST", f"/v1/commands/{name}/reply", {"request_id": "nobody", "executed": True})
    assert refused.value.fields == ["request_id"]
