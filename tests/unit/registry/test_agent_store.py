"""Compare-and-set of agent records: competition, unknown outcomes, damage."""

import asyncio

import msgspec
import pytest

from meshway.engine.ports import KvPut
from meshway.kernel.errors import EngineUnavailable, StoreCorrupt
from meshway.kernel.ids import AgentId
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.settings import RegistrySettings
from meshway.testing.fake_key_value import FakeKeyValue
from meshway.testing.registry_fakes import an_agent, an_instance

ECHO = AgentId("echo")


def world():
    key_value = FakeKeyValue()
    directory = Directory(key_value, settings=RegistrySettings())
    return key_value, directory, AgentStore(key_value, directory)


async def test_writers_at_the_same_time_lose_no_change():
    _, directory, store = world()
    await store.change(ECHO, lambda _: an_agent("echo"))

    def add(number):
        def decide(stored):
            return msgspec.structs.replace(stored, instances=(*stored.instances, an_instance(f"i{number}")))

        return store.change(ECHO, decide)

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(add(number))
    assert {i.id for i in directory.get("echo").instances} == {"one", *(f"i{n}" for n in range(8))}


@pytest.mark.parametrize("times", [1, 3])
async def test_a_write_of_unknown_outcome_is_repeated_and_counts_once(times):
    key_value, directory, store = world()
    key_value.undecided = times
    changed = await store.change(ECHO, lambda _: an_agent("echo"))
    assert changed.before is None
    assert directory.get("echo") is not None
    key_value.undecided = times
    await store.change(ECHO, lambda stored: msgspec.structs.replace(stored, by_url=False))
    assert directory.get("echo").by_url is False
    key_value.undecided = times
    await store.change(ECHO, lambda _: None)
    assert directory.get("echo") is None


async def test_a_store_that_never_says_is_reported_as_unavailable():
    key_value, _, store = world()
    key_value.undecided = 1_000
    with pytest.raises(EngineUnavailable):
        await store.change(ECHO, lambda _: an_agent("echo"))


async def test_a_damaged_record_is_not_overwritten():
    key_value, _, store = world()
    await key_value.write([KvPut(key="agents.echo", value=b"{")])
    with pytest.raises(StoreCorrupt, match=r"agents\.echo"):
        await store.change(ECHO, lambda _: an_agent("echo"))


async def test_what_the_decision_raises_is_raised_and_nothing_is_written():
    key_value, _, store = world()

    def refuse(stored):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store.change(ECHO, refuse)
    assert key_value.writes == []
