"""Whom the hub asks for a card, when, and what it makes of the answer."""

import asyncio
import random

import pytest

from meshway.kernel.errors import InvalidRequest, UpstreamInvalid
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.prober import Prober
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentSettings, AgentState
from meshway.testing.fake_key_value import FakeKeyValue
from meshway.testing.registry_fakes import FakeCards, an_agent, an_instance, card_facts

SETTINGS = RegistrySettings(probe_interval_ms=30_000, probe_retry_ms=1_000, offline_after_ms=0)


class World:
    def __init__(self, clock, settings=SETTINGS, **options):
        self.clock = clock
        self.directory = Directory(FakeKeyValue(), settings=settings)
        self.store = AgentStore(self.directory._key_value, self.directory)
        self.tracker = PresenceTracker(self.store, self.directory, clock=clock, settings=settings)
        self.cards = FakeCards()
        self.prober = Prober(
            self.directory,
            self.tracker,
            self.cards,
            clock=clock,
            settings=settings,
            chance=random.Random(7),
            **options,
        )

    async def add(self, agent):
        await self.store.change(agent.id, lambda _: agent)

    async def run_for(self, ms):
        """What the duty does, on virtual time; how many were asked."""
        asked = 0
        for _ in range(ms // 500):
            self.clock.advance(500)
            for agent, instance in self.prober.due():
                await self.prober.probe(agent, instance)
                asked += 1
        return asked

    def state(self, instance_id="one"):
        return self.directory.get("echo").instance(instance_id).state


@pytest.fixture
def world(clock):
    return World(clock)


async def test_a_silent_instance_is_asked_about_once_an_interval(world):
    await world.add(an_agent("echo"))
    world.cards.cards["http://one.test"] = card_facts()
    asked = await world.run_for(300_000)
    assert 8 <= asked <= 21
    assert world.state() is AgentState.ONLINE


async def test_one_that_answers_calls_or_sends_heartbeats_is_not_asked(world):
    await world.add(an_agent("echo", an_instance("one"), an_instance("two")))
    world.tracker.heartbeat("echo", "two", ttl_ms=86_400_000)
    for _ in range(20):
        world.tracker.saw_traffic("echo", "one", ok=True)
        assert await world.run_for(20_000) == 0


async def test_agents_by_card_and_those_that_forbid_it_are_never_asked(world):
    await world.add(an_agent("echo", an_instance("one", AgentState.SUSPECT), by_url=False))
    await world.add(an_agent("shy", settings=AgentSettings(probe=False)))
    assert await world.run_for(300_000) == 0


async def test_silence_makes_suspect_then_offline_and_the_card_brings_it_back(world):
    await world.add(an_agent("echo"))
    await world.run_for(60_000)
    assert world.state() is AgentState.OFFLINE
    world.cards.cards["http://one.test"] = card_facts()
    await world.run_for(31_000)
    assert world.state() is AgentState.ONLINE


async def test_an_instance_that_stays_away_is_asked_less_and_less_often(world):
    await world.add(an_agent("echo", an_instance("one", AgentState.SUSPECT)))
    assert await world.run_for(10_000) >= 3
    await world.run_for(120_000)
    assert await world.run_for(120_000) <= 9


async def test_a_draining_instance_is_watched_too(world):
    draining = an_instance("one", AgentState.DRAINING, state_under_drain=AgentState.ONLINE)
    await world.add(an_agent("echo", draining))
    await world.run_for(60_000)
    assert world.directory.get("echo").instances[0].state_under_drain is AgentState.OFFLINE


@pytest.mark.parametrize(
    ("error", "state"), [(InvalidRequest, AgentState.ONLINE), (UpstreamInvalid, AgentState.SUSPECT)]
)
async def test_a_bad_card_is_an_answer_and_no_card_is_none(world, error, state):
    await world.add(an_agent("echo", an_instance("one", AgentState.SUSPECT)))

    async def fetch(url, *, credential=None):
        raise error("as the test wants")

    world.cards.fetch = fetch
    agent = world.directory.get("echo")
    await world.prober.probe(agent, agent.instances[0])
    assert world.state() is state


async def test_a_card_that_hangs_is_a_failure_after_its_bound(clock):
    world = World(clock, RegistrySettings(probe_timeout_ms=100))
    await world.add(an_agent("echo"))

    async def fetch(url, *, credential=None):
        await asyncio.Event().wait()

    world.cards.fetch = fetch
    agent = world.directory.get("echo")
    async with asyncio.timeout(5):
        assert not await world.prober.probe(agent, agent.instances[0])


async def test_the_credential_is_opened_for_the_probe_and_a_new_card_is_handed_on(clock):
    seen = []

    async def card_seen(agent_id, instance_id, facts):
        seen.append((agent_id, instance_id, facts.name))

    world = World(clock, open_credential=lambda agent: f"for {agent.id}", card_seen=card_seen)
    agent = an_agent("echo")
    await world.add(agent)
    world.cards.cards["http://one.test"] = agent.card
    await world.prober.probe(agent, agent.instances[0])
    world.cards.cards["http://one.test"] = card_facts("New name")
    await world.prober.probe(agent, agent.instances[0])
    assert world.cards.fetched == [("http://one.test", "for echo")] * 2
    assert seen == [("echo", "one", "New name")]


async def test_the_duty_asks_no_more_at_once_than_its_bound(clock):
    world = World(clock, RegistrySettings(probes_max=2))
    for number in range(10):
        await world.add(an_agent(f"a{number}", an_instance("one", AgentState.SUSPECT)))
    at_once, most, asked = 0, 0, 0
    all_asked = asyncio.Event()

    async def fetch(url, *, credential=None):
        nonlocal at_once, most, asked
        at_once, asked = at_once + 1, asked + 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        at_once -= 1
        if asked == 10:
            all_asked.set()
        return card_facts()

    world.cards.fetch = fetch
    world.prober.due()
    clock.advance(2_000)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        duty = group.create_task(world.prober.run())
        await all_asked.wait()
        duty.cancel()
    assert most == 2


async def test_probing_switched_off_ends_the_duty_at_once(clock):
    world = World(clock, RegistrySettings(probe_interval_ms=0))
    async with asyncio.timeout(1):
        await world.prober.run()
