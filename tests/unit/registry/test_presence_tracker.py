"""Signs of life become states: visible at once, stored lazily, and nobody blamed for the hub's own sleep."""

import asyncio
import sys

import pytest

from meshway.engine.ports import Durability
from meshway.kernel.errors import AgentNotFound, EngineUnavailable
from meshway.kernel.ids import AgentId
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.presence import Signal, after_signal
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentState
from meshway.testing.fake_key_value import FakeKeyValue
from meshway.testing.registry_fakes import an_agent, an_instance

ECHO = AgentId("echo")
SETTINGS = RegistrySettings(offline_after_failures=3, offline_after_ms=2_000)


class World:
    def __init__(self, clock, key_value=None):
        self.clock = clock
        self.key_value = key_value or FakeKeyValue()
        self.directory = Directory(self.key_value, settings=SETTINGS)
        self.store = AgentStore(self.key_value, self.directory)
        self.tracker = PresenceTracker(self.store, self.directory, clock=clock, settings=SETTINGS)

    async def add(self, agent):
        await self.store.change(agent.id, lambda _: agent)

    def state(self, instance_id="one", agent_id="echo"):
        return self.directory.get(agent_id).instance(instance_id).state

    async def stored(self, agent_id=ECHO):
        return await self.store.read(agent_id)

    def sweep_for(self, ms):
        """Sweeps as the duty would do them."""
        for _ in range(ms // 500):
            self.clock.advance(500)
            self.tracker.sweep()


@pytest.fixture
async def world(clock):
    world = World(clock)
    await world.add(an_agent("echo"))
    return world


async def test_an_answer_of_an_online_instance_writes_and_announces_nothing(world):
    version, writes = world.directory.version, len(world.key_value.writes)
    for _ in range(100):
        world.tracker.saw_traffic("echo", "one", ok=True)
    await world.tracker.flush()
    assert (world.directory.version, len(world.key_value.writes)) == (version, writes)


async def test_the_hot_path_leaves_no_memory_behind(world):
    world.tracker.saw_traffic("echo", "one", ok=True)
    before = sys.getallocatedblocks()
    for _ in range(10_000):
        world.tracker.saw_traffic("echo", "one", ok=True)
    assert sys.getallocatedblocks() - before < 50


async def test_last_contact_is_shown_although_it_is_not_stored(world):
    world.clock.advance(5_000)
    world.tracker.saw_traffic("echo", "one", ok=True)
    shown = world.tracker.seen(world.directory.get("echo"))
    assert shown.instances[0].last_seen_ms == world.clock.now_ms()


async def test_signals_of_unknown_instances_are_ignored(world):
    world.tracker.saw_traffic("nobody", "one", ok=True)
    world.tracker.saw_traffic("echo", "two", ok=False)
    world.tracker.saw_broken("nobody", "one")
    world.tracker.saw_probe("echo", "two", ok=False)
    with pytest.raises(AgentNotFound):
        world.tracker.heartbeat("echo", "two", ttl_ms=1_000)


async def test_a_refusal_makes_suspect_at_once_and_is_stored_lazily(world):
    world.tracker.saw_traffic("echo", "one", ok=False)
    assert world.state() is AgentState.SUSPECT
    assert (await world.stored()).instances[0].state is AgentState.ONLINE
    await world.tracker.flush()
    assert (await world.stored()).instances[0].state is AgentState.SUSPECT
    assert world.key_value.writes[-1].durability is Durability.LAZY


async def test_many_refusals_at_one_moment_do_not_make_offline(world):
    for _ in range(100):
        world.tracker.saw_traffic("echo", "one", ok=False)
    assert world.state() is AgentState.SUSPECT


async def test_refusals_that_go_on_make_offline_and_one_answer_brings_it_back(world):
    for _ in range(3):
        world.tracker.saw_traffic("echo", "one", ok=False)
        world.clock.advance(1_000)
    assert world.state() is AgentState.OFFLINE
    world.tracker.saw_traffic("echo", "one", ok=True)
    assert world.state() is AgentState.ONLINE


async def test_an_answer_between_refusals_starts_the_count_again(world):
    for _ in range(10):
        world.tracker.saw_traffic("echo", "one", ok=False)
        world.clock.advance(1_500)
        world.tracker.saw_traffic("echo", "one", ok=False)
        world.tracker.saw_traffic("echo", "one", ok=True)
    assert world.state() is AgentState.ONLINE


async def test_broken_connections_make_suspect_until_the_next_answer(world):
    world.tracker.saw_broken("echo", "one")
    assert world.state() is AgentState.SUSPECT
    world.tracker.saw_traffic("echo", "one", ok=True)
    assert world.state() is AgentState.ONLINE


async def test_an_instance_that_never_sent_a_heartbeat_has_no_lease_to_lose(world):
    world.sweep_for(3_600_000)
    assert world.state() is AgentState.ONLINE


async def test_a_lease_ends_when_heartbeats_stop_and_one_heartbeat_brings_it_back(world):
    world.tracker.heartbeat("echo", "one", ttl_ms=2_000)
    world.sweep_for(1_500)
    assert world.state() is AgentState.ONLINE
    world.sweep_for(1_000)
    assert world.state() is AgentState.OFFLINE
    world.tracker.heartbeat("echo", "one", ttl_ms=2_000)
    assert world.state() is AgentState.ONLINE


async def test_renewals_write_nothing_after_the_first(world):
    world.tracker.heartbeat("echo", "one", ttl_ms=2_000)
    await world.tracker.flush()
    writes, version = len(world.key_value.writes), world.directory.version
    for _ in range(20):
        world.clock.advance(500)
        renewed = world.tracker.heartbeat("echo", "one", ttl_ms=2_000)
        world.tracker.sweep()
    await world.tracker.flush()
    assert (len(world.key_value.writes), world.directory.version) == (writes, version)
    assert renewed.lease_until_ms == world.clock.now_ms() + 2_000
    assert world.tracker.seen(world.directory.get("echo")).instances[0].lease_until_ms == renewed.lease_until_ms


async def test_an_instance_that_answers_calls_is_not_reaped_for_late_heartbeats(world):
    world.tracker.heartbeat("echo", "one", ttl_ms=2_000)
    world.sweep_for(1_500)
    world.tracker.saw_traffic("echo", "one", ok=True)
    world.sweep_for(1_500)
    assert world.state() is AgentState.ONLINE
    world.sweep_for(1_000)
    assert world.state() is AgentState.OFFLINE


@pytest.mark.parametrize("suspended", [True, False])
async def test_a_hub_that_slept_reaps_nobody_and_gives_a_full_lease(world, suspended):
    world.tracker.heartbeat("echo", "one", ttl_ms=10_000)
    world.tracker.sweep()
    # A suspended machine's monotonic clock stands still; a hub that hung saw both go on.
    if suspended:
        world.clock.set_wall(world.clock.now_ms() + 3_600_000)
    else:
        world.clock.advance(3_600_000)
    assert world.tracker.sweep() == 0
    assert world.state() is AgentState.ONLINE
    world.sweep_for(9_500)
    assert world.state() is AgentState.ONLINE
    world.sweep_for(1_000)
    assert world.state() is AgentState.OFFLINE


async def test_a_wall_clock_set_back_ends_no_lease_and_makes_none_eternal(world):
    world.tracker.heartbeat("echo", "one", ttl_ms=10_000)
    world.tracker.sweep()
    world.clock.set_wall(world.clock.now_ms() - 86_400_000)
    world.tracker.sweep()
    assert world.state() is AgentState.ONLINE
    world.sweep_for(10_500)
    assert world.state() is AgentState.OFFLINE


async def test_a_starting_hub_gives_each_lease_its_full_length(world):
    world.tracker.heartbeat("echo", "one", ttl_ms=5_000)
    await world.tracker.flush()
    world.clock.advance(600_000)
    later = World(world.clock, world.key_value)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        duty = group.create_task(later.directory.run())
        await later.directory.wait_ready()
        duty.cancel()
    later.sweep_for(4_500)
    assert later.state() is AgentState.ONLINE
    later.sweep_for(1_000)
    assert later.state() is AgentState.OFFLINE


async def test_a_store_that_fails_keeps_the_observation_for_the_next_time(world):
    world.tracker.saw_traffic("echo", "one", ok=False)
    world.key_value.fail_with = EngineUnavailable("gone")
    assert not await world.tracker.flush()
    assert world.state() is AgentState.SUSPECT
    world.key_value.fail_with = None
    assert await world.tracker.flush()
    assert (await world.stored()).instances[0].state is AgentState.SUSPECT


async def test_a_write_by_somebody_else_does_not_undo_what_was_just_observed(world):
    world.tracker.saw_traffic("echo", "one", ok=False)
    draining = lambda stored: an_agent("echo", after_signal(stored.instances[0], Signal.DRAIN, 5))  # noqa: E731
    await world.store.change(ECHO, draining)
    assert world.state() is AgentState.DRAINING
    await world.tracker.flush()
    stored = (await world.stored()).instances[0]
    assert (stored.state, stored.state_under_drain) == (AgentState.DRAINING, AgentState.SUSPECT)


async def test_a_write_during_the_flush_does_not_undo_what_was_observed(world):
    world.tracker.saw_traffic("echo", "one", ok=False)
    async with asyncio.TaskGroup() as group:
        group.create_task(world.tracker.flush())
        group.create_task(
            world.store.change(ECHO, lambda s: an_agent("echo", *s.instances, an_instance("two", AgentState.SUSPECT)))
        )
    assert world.state() is AgentState.SUSPECT
    assert (await world.stored()).instance("one").state is AgentState.SUSPECT
    assert (await world.stored()).instance("two") is not None


async def test_the_writer_duty_stores_by_itself(world):
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        duty = group.create_task(world.tracker.run_writer())
        world.tracker.saw_traffic("echo", "one", ok=False)
        for _ in range(100):
            if (await world.stored()).instances[0].state is AgentState.SUSPECT:
                break
        else:
            raise AssertionError("it was never stored")
        duty.cancel()


async def test_an_instance_of_the_same_id_at_another_url_begins_anew(world):
    world.tracker.heartbeat("echo", "one", ttl_ms=1_000)
    await world.tracker.flush()
    await world.add(an_agent("echo", an_instance("one", url="http://elsewhere.test")))
    world.sweep_for(5_000)
    assert world.state() is AgentState.ONLINE


async def test_a_removed_agent_leaves_nothing_behind(world):
    world.tracker.heartbeat("echo", "one", ttl_ms=1_000)
    await world.store.change(ECHO, lambda _: None)
    world.tracker.saw_traffic("echo", "one", ok=False)
    world.sweep_for(5_000)
    await world.tracker.flush()
    assert await world.stored() is None
    assert (world.tracker._live, world.tracker._leased) == ({}, set())


async def test_thousands_that_fall_silent_together_are_all_ended_and_stored(clock):
    world = World(clock)
    for number in range(300):
        await world.add(an_agent(f"a{number}"))
        world.tracker.heartbeat(f"a{number}", "one", ttl_ms=1_000)
    world.sweep_for(2_000)
    await world.tracker.flush()
    assert {agent.instances[0].state for agent in world.directory.all()} == {AgentState.OFFLINE}
    assert {(await world.stored(AgentId(f"a{n}"))).instances[0].state for n in range(300)} == {AgentState.OFFLINE}
