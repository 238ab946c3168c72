"""Configs of tasks: kept, counted, and in memory in step with the store."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from meshway.engine.ports import KvPut
from meshway.kernel.errors import CapacityReached, EngineUnavailable, StoreCorrupt
from meshway.kernel.ids import AgentId, PrincipalId, TaskId
from meshway.tasks.push_configs import PushConfig, PushConfigStore
from meshway.tasks.settings import TaskSettings
from meshway.testing.fake_key_value import FakeKeyValue

ECHO = AgentId("echo")
DAY_MS = 86_400_000


def config(config_id="one", *, task="t", **fields):
    known = {"url": "https://receiver.example/", "created_at_ms": 1} | fields
    return PushConfig(
        agent_id=ECHO, task_id=TaskId(task), config_id=config_id, principal_id=PrincipalId("ann"), **known
    )


class World:
    def __init__(self, clock):
        self.clock = clock
        self.key_value = FakeKeyValue(clock)
        self.store = self.open()

    def open(self):
        return PushConfigStore(self.key_value, settings=TaskSettings(), configs_max=3)

    @asynccontextmanager
    async def followed(self, store):
        async with asyncio.TaskGroup() as group:
            following = group.create_task(store.run())
            async with asyncio.timeout(5):
                await store.wait_ready()
            yield store
            following.cancel()


@pytest.fixture
def world(clock):
    return World(clock)


async def until(question):
    async with asyncio.timeout(5):
        while True:
            if question():
                return
            await asyncio.sleep(0)


async def test_a_config_is_kept_and_in_memory_when_put_returns(world):
    await world.store.put(config())
    assert await world.store.get(ECHO, TaskId("t"), "one") == config()
    assert world.store.has_configs(ECHO, TaskId("t"))
    assert not world.store.has_configs(ECHO, TaskId("u"))
    assert not world.store.has_configs(AgentId("other"), TaskId("t"))


async def test_a_deleted_config_is_gone_and_deleting_it_again_is_nothing(world):
    await world.store.put(config())
    for _ in range(2):
        await world.store.delete(config().key)
        assert await world.store.get(ECHO, TaskId("t"), "one") is None
        assert not world.store.has_configs(ECHO, TaskId("t"))


async def test_configs_of_one_task_are_bounded_and_replacing_one_is_not_one_more(world):
    for name in ("one", "two", "three"):
        await world.store.put(config(name))
    await world.store.put(config("two", url="https://elsewhere.example/"))
    await world.store.put(config("one", task="other"))
    with pytest.raises(CapacityReached, match="3 push notification configs"):
        await world.store.put(config("four"))
    assert len(await world.store.list_of(ECHO, TaskId("t"))) == 3


async def test_a_config_that_replaces_another_goes_on_where_that_one_was(world):
    await world.store.put(config(last_queued=4))
    await world.store.put(config(url="https://new.example/", created_at_ms=9, last_queued=7))
    kept = await world.store.get(ECHO, TaskId("t"), "one")
    assert (kept.url, kept.created_at_ms, kept.last_queued) == ("https://new.example/", 1, 4)


@pytest.mark.parametrize("text", ["a.b", "täsk", "x" * 5_000, "*", ">", "sp ace/=\n"])
async def test_any_ids_can_be_kept(world, text):
    await world.store.put(config(text, task=text))
    assert (await world.store.list_of(ECHO, TaskId(text)))[0].config_id == text
    assert len(config(text, task=text).key) < 500


async def test_another_hub_sees_what_was_there_and_what_changes(world):
    await world.store.put(config())
    heard = []
    other = world.open()
    other.listen(lambda key, seen: heard.append((key, seen is not None)))
    async with world.followed(other):
        assert other.has_configs(ECHO, TaskId("t"))
        await world.store.put(config("two", task="u"))
        await until(lambda: other.has_configs(ECHO, TaskId("u")))
        await world.store.delete(config().key)
        await until(lambda: not other.has_configs(ECHO, TaskId("t")))
    assert heard == [(config().key, True), (config("two", task="u").key, True), (config().key, False)]


async def test_a_config_deleted_while_the_watch_was_lost_is_gone_when_it_is_back(world):
    await world.store.put(config())
    other = world.open()
    async with world.followed(other):
        world.key_value.lose_watches()
        await world.store.delete(config().key)
        await until(lambda: not other.has_configs(ECHO, TaskId("t")))


async def test_a_watch_that_lags_does_not_bring_back_what_this_hub_deleted(world):
    async with world.followed(world.store):
        await world.store.put(config())
        await world.store.delete(config().key)
        await world.store.put(config("two"))
        await until(lambda: set(world.store.keys_of(ECHO, TaskId("t"))) == {config("two").key})


async def test_the_number_served_is_stored_and_never_goes_back(world):
    await world.store.put(config())
    assert await world.store.save_queued({config().key: 5, config("gone").key: 1}) == []
    assert await world.store.save_queued({config().key: 3}) == []
    assert (await world.store.get(ECHO, TaskId("t"), "one")).last_queued == 5


async def test_a_number_whose_write_met_another_one_is_named_to_be_saved_again(world):
    await world.store.put(config())
    world.key_value.undecided = 1
    assert await world.store.save_queued({config().key: 5}) == [config().key]


async def test_a_config_runs_out_with_its_task_and_a_retired_one_sooner(world):
    await world.store.put(config())
    await world.store.put(config("two"))
    await world.store.retire(config("two").key)
    await world.store.retire(config("gone").key)
    world.clock.advance(8 * DAY_MS)
    assert [each.config_id for each in await world.store.list_of(ECHO, TaskId("t"))] == ["one"]
    world.clock.advance(23 * DAY_MS)
    assert await world.store.list_of(ECHO, TaskId("t")) == []


async def test_a_write_of_unknown_outcome_is_repeated_and_an_engine_that_never_says_is_unavailable(world):
    world.key_value.undecided = 2
    await world.store.put(config())
    assert await world.store.get(ECHO, TaskId("t"), "one") == config()
    world.key_value.undecided = 1_000
    with pytest.raises(EngineUnavailable):
        await world.store.put(config())
    with pytest.raises(EngineUnavailable):
        await world.store.delete(config().key)


async def test_a_record_that_cannot_be_read_harms_no_other(world):
    await world.store.put(config("two"))
    await world.key_value.write([KvPut(key=config().key, value=b"{}")])
    other = world.open()
    async with world.followed(other):
        assert list(other.keys_of(ECHO, TaskId("t"))) == [config("two").key]
    assert await other.save_queued({config().key: 1, config("two").key: 1}) == []
    with pytest.raises(StoreCorrupt):
        await other.get(ECHO, TaskId("t"), "one")
