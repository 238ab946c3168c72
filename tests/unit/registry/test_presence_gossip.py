"""What one hub hears of an instance keeps it online at all; what nobody hears goes offline everywhere."""

import asyncio

import msgspec
import pytest

from meshway.engine.embedded.bus import EmbeddedBus
from meshway.engine.ports import SubscriptionLost
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.presence_gossip import PresenceGossip
from meshway.registry.presence_tracker import PresenceTracker, SignOfLife
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentState
from meshway.testing.fake_key_value import FakeKeyValue
from meshway.testing.registry_fakes import an_agent, an_instance
from support.task_clients import until

TTL_MS = 3_000
SETTINGS = RegistrySettings()


class Hub:
    """One hub's view of who is there, over a store that all share."""

    def __init__(self, world, name):
        self.name = name
        self.is_cut_off = False
        self.clock = world.clock
        self.directory = Directory(world.key_value, settings=SETTINGS)
        self.store = AgentStore(world.key_value, self.directory)
        self.tracker = PresenceTracker(
            self.store,
            self.directory,
            clock=world.clock,
            settings=SETTINGS,
            is_cut_off=lambda: self.is_cut_off,
        )
        self.gossip = PresenceGossip(world.bus, self.tracker, hub_id=name)

    def state(self):
        return self.directory.get("echo").instance("one").state

    def beat(self):
        self.tracker.heartbeat("echo", "one", ttl_ms=TTL_MS)


class World:
    def __init__(self, clock):
        self.clock = clock
        self.key_value = FakeKeyValue(clock)
        self.bus = EmbeddedBus()
        self.hubs = [Hub(self, name) for name in "ab"]

    async def add(self, agent):
        await self.hubs[0].store.change(agent.id, lambda _: agent)
        await self.follow()

    async def follow(self):
        """What one hub stored, all see."""
        for hub in self.hubs:
            await hub.tracker.flush()
        page = await self.key_value.page("agents")
        for hub in self.hubs:
            for entry in page.entries:
                hub.directory.apply(entry)

    async def run_for(self, ms, *, beats_at=None, told=True):
        """Half seconds: the instance beats at one hub, each second the hubs tell each other, and all sweep."""
        for step in range(ms // 500):
            self.clock.advance(500)
            if beats_at is not None:
                beats_at.beat()
            if told and step % 2:
                await self.tell()
            for hub in self.hubs:
                hub.tracker.sweep()
            if told:
                await self.follow()

    async def tell(self):
        async with self.bus.subscribe("_mesh.presence") as said:
            for hub in self.hubs:
                await hub.gossip.speak()
            heard = await until_quiet(said)
        for hub in self.hubs:
            for message in heard:
                hub.gossip.heard(message.data)

    async def stored_state(self):
        for hub in self.hubs:
            await hub.tracker.flush()
        return (await self.hubs[0].store.read("echo")).instances[0].state


async def until_quiet(said):
    heard = []
    try:
        async with asyncio.timeout(0):
            while True:
                heard += await said.take(1_000)
    except TimeoutError:
        return heard


@pytest.fixture
async def world(clock):
    world = World(clock)
    await world.add(an_agent("echo", an_instance("one", lease_ttl_ms=TTL_MS)))
    return world


async def test_an_instance_that_beats_at_one_hub_stays_online_at_the_other(world):
    a, b = world.hubs
    await world.run_for(5 * TTL_MS, beats_at=a)
    assert (a.state(), b.state()) == (AgentState.ONLINE, AgentState.ONLINE)


async def test_without_a_word_of_the_other_its_lease_would_have_ended(world):
    a, b = world.hubs
    await world.run_for(5 * TTL_MS, beats_at=a, told=False)
    assert (a.state(), b.state()) == (AgentState.ONLINE, AgentState.OFFLINE)


async def test_an_instance_that_falls_silent_goes_offline_at_all_hubs_after_its_lease(world):
    a, b = world.hubs
    await world.run_for(6_000, beats_at=a)
    await world.run_for(TTL_MS - 500)
    assert (a.state(), b.state()) == (AgentState.ONLINE, AgentState.ONLINE)
    await world.run_for(1_500)
    assert (a.state(), b.state()) == (AgentState.OFFLINE, AgentState.OFFLINE)
    assert await world.stored_state() is AgentState.OFFLINE


async def test_an_instance_may_change_hubs_with_every_beat(world):
    for turn in range(8):
        await world.run_for(1_000, beats_at=world.hubs[turn % 2])
    assert [hub.state() for hub in world.hubs] == [AgentState.ONLINE] * 2


async def test_what_was_told_is_not_told_again_and_not_told_on(world):
    a, b = world.hubs
    a.beat()
    (sign,) = a.tracker.signs_of_life()
    assert (sign.agent_id, sign.instance_id, sign.silent_ms, sign.lease_left_ms) == ("echo", "one", 0, TTL_MS)
    assert a.tracker.signs_of_life() == []
    world.clock.advance(100)
    b.tracker.heard_elsewhere([sign])
    assert b.tracker.signs_of_life() == []


async def test_a_sign_that_comes_late_shortens_nothing(world):
    _, b = world.hubs
    b.beat()
    before = b.tracker.seen(b.directory.get("echo")).instances[0]
    b.tracker.heard_elsewhere([SignOfLife("echo", "one", 2_000, 500)])
    assert b.tracker.seen(b.directory.get("echo")).instances[0] == before


async def test_signs_of_whom_nobody_knows_here_are_ignored(world):
    tracker = world.hubs[1].tracker
    tracker.heard_elsewhere([SignOfLife("nobody", "one", 0, 1_000), SignOfLife("echo", "two", 0, 1_000)])


async def test_a_sign_shows_when_the_instance_was_heard(world):
    _, b = world.hubs
    world.clock.advance(1_000)
    b.tracker.heard_elsewhere([SignOfLife("echo", "one", 200, 2_800)])
    shown = b.tracker.seen(b.directory.get("echo")).instances[0]
    assert (shown.last_seen_ms, shown.lease_until_ms) == (world.clock.now_ms() - 200, world.clock.now_ms() + 2_800)


async def test_a_hub_that_is_cut_off_ends_no_lease_and_gives_each_its_time_when_it_is_back(world):
    a, b = world.hubs
    await world.run_for(2_000, beats_at=a)
    b.is_cut_off = True
    await world.run_for(4 * TTL_MS, beats_at=a, told=False)
    assert b.state() is AgentState.ONLINE
    b.is_cut_off = False
    await world.run_for(TTL_MS - 500, told=False)
    assert b.state() is AgentState.ONLINE
    await world.run_for(1_000, told=False)
    assert b.state() is AgentState.OFFLINE


async def test_many_instances_are_told_in_several_messages(world):
    a, b = world.hubs
    instances = [an_instance(f"i{number}", lease_ttl_ms=TTL_MS) for number in range(4_100)]
    await world.add(an_agent("many", *instances))
    world.clock.advance(100)
    for instance in instances:
        a.tracker.heartbeat("many", instance.id, ttl_ms=TTL_MS)
    async with world.bus.subscribe("_mesh.presence") as said:
        await a.gossip.speak()
        messages = await said.take(100)
    assert len(messages) == 3
    for message in messages:
        b.gossip.heard(message.data)
    seen = b.tracker.seen(b.directory.get("many")).instances
    assert {each.last_seen_ms for each in seen} == {world.clock.now_ms()}


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"[1]", b'[1,"x",[["echo"]]]', b"\xff"])
async def test_what_cannot_be_read_is_left_alone(world, data):
    world.hubs[0].gossip.heard(data)


async def test_a_hub_learns_nothing_from_its_own_words(world):
    _, b = world.hubs
    before = b.tracker.seen(b.directory.get("echo")).instances[0]
    sign = SignOfLife("echo", "one", 0, 60_000)
    b.gossip.heard(msgspec.json.encode([1, "b", [sign]]))
    assert b.tracker.seen(b.directory.get("echo")).instances[0] == before


class LossyBus:
    """Its first subscription breaks at once."""

    def __init__(self, bus):
        self._bus = bus
        self.lost = 0

    def publish(self, messages):
        return self._bus.publish(messages)

    def subscribe(self, pattern):
        self.lost += 1
        if self.lost == 1:
            raise SubscriptionLost("asked for by the test")
        return self._bus.subscribe(pattern)


async def test_over_a_bus_that_breaks_it_goes_on_by_itself(world):
    a, b = world.hubs
    world.clock.advance(100)
    bus = LossyBus(world.bus)
    gossips = [PresenceGossip(bus, hub.tracker, hub_id=hub.name) for hub in (a, b)]

    def is_heard():
        a.beat()
        world.clock.advance(1)
        return b.tracker.seen(b.directory.get("echo")).instances[0].last_seen_ms

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        duties = [group.create_task(gossip.run()) for gossip in gossips]
        await until(is_heard)
        for duty in duties:
            duty.cancel()
    assert bus.lost == 3
