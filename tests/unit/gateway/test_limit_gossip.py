"""Limits of a mesh as hubs tell each other of them: what was lost is made good, and what is gone leaves nothing."""

import asyncio
import random
from contextlib import asynccontextmanager

import msgspec
import pytest

from meshway.gateway.limit_gossip import LimitGossip
from meshway.gateway.root_ledger import RootLedger
from meshway.kernel.delegation import Hop
from meshway.kernel.errors import TooManyInFlight
from meshway.routing.balancer import Balancer
from meshway.routing.settings import RoutingSettings
from meshway.testing.registry_fakes import an_agent, an_instance
from support.mesh_hubs import LOST_MS, MeshRig, hub_record
from support.task_clients import until

ROOT = Hop("a", "root")


class LimitedHub:
    """One hub's limits; what it tells is in `said` until the test lets others hear it."""

    def __init__(self, mesh, name):
        self.name = name
        self.rig = mesh.add(name)
        self.balancer = Balancer(clock=mesh.clock, settings=RoutingSettings(), chance=random.Random(1))
        self.ledger = RootLedger()
        self.said = []
        self.gossip = LimitGossip(self, self.rig.hubs, self.balancer, self.ledger)

    async def publish(self, messages):
        self.said += [message.data for message in messages]

    async def speak(self, *hearers, is_whole=False):
        await self.gossip.speak(is_whole=is_whole)
        said, self.said = self.said, []
        for data in said:
            for hearer in hearers:
                hearer.gossip.heard(data)
        return said

    def under_way(self):
        return self.balancer.in_flight("a", "x")

    def begin(self, count=1):
        for _ in range(count):
            self.balancer.begin("a", "x")

    def end(self, count=1):
        for _ in range(count):
            self.balancer.end("a", "x")


@pytest.fixture
def mesh(clock):
    return MeshRig(clock)


@pytest.fixture
def pair(mesh):
    hubs = LimitedHub(mesh, "a"), LimitedHub(mesh, "b")
    mesh.settle()
    return hubs


async def test_what_one_lets_through_counts_at_the_other(pair):
    a, b = pair
    a.begin(3)
    await a.speak(b)
    assert b.under_way() == 3
    a.end(2)
    await a.speak(b)
    assert b.under_way() == 1
    assert await a.speak(b) == []


async def test_what_was_lost_is_made_good_by_the_next_whole(pair):
    a, b = pair
    a.begin(3)
    await a.speak()
    assert b.under_way() == 0
    await a.speak(b, is_whole=True)
    assert b.under_way() == 3


async def test_an_end_that_was_lost_is_made_good_by_the_next_whole(pair):
    a, b = pair
    a.begin(3)
    await a.speak(b)
    a.end(3)
    await a.speak()
    assert b.under_way() == 3
    await a.speak(b, is_whole=True)
    assert b.under_way() == 0


async def test_a_whole_of_one_hub_leaves_alone_what_others_told(mesh, pair):
    a, b = pair
    c = LimitedHub(mesh, "c")
    mesh.settle()
    a.begin(2)
    c.begin(3)
    await a.speak(b)
    await c.speak(b)
    a.end(2)
    await a.speak(b, is_whole=True)
    assert b.under_way() == 3


async def test_a_whole_of_more_than_one_message_is_heard_in_full(pair):
    a, b = pair
    for number in range(4_500):
        a.balancer.begin("a", f"i{number}")
    said = await a.speak(b, is_whole=True)
    assert len(said) == 3
    assert [b.balancer.in_flight("a", f"i{number}") for number in (0, 2_000, 4_499)] == [1, 1, 1]


async def test_the_calls_of_a_lost_hub_are_forgotten_and_of_one_that_is_back_known_again(mesh, pair):
    a, b = pair
    a.begin(3)
    await a.speak(b)
    mesh.run_for(LOST_MS + 500, "a")
    assert b.under_way() == 0
    mesh.run_for(LOST_MS)
    await a.speak(b, is_whole=True)
    assert b.under_way() == 3


async def test_what_a_hub_that_is_gone_had_said_last_comes_too_late(pair):
    a, b = pair
    a.begin(3)
    await a.gossip.speak(is_whole=False)
    b.rig.hubs.heard(msgspec.json.encode(hub_record("a", is_leaving=True)))
    for data in a.said:
        b.gossip.heard(data)
    assert b.under_way() == 0


async def test_room_is_shared_by_the_hubs_that_are_alive(mesh, pair):
    a, b = pair
    agent = an_agent("a", an_instance("x", capacity=4))

    def taken_at_once():
        count = 0
        while True:
            try:
                a.balancer.pick(agent)
            except TooManyInFlight:
                return count
            a.begin()
            count += 1

    assert taken_at_once() == 2
    await a.speak(b)
    a.end(2)
    await a.speak(b)
    mesh.run_for(LOST_MS + 500, "b")
    assert taken_at_once() == 4


async def test_what_was_caused_elsewhere_counts_and_stays_when_its_hub_is_gone(mesh, pair):
    a, b = pair
    b.ledger.count_call(ROOT, 1)
    a.ledger.count_call(ROOT, 1)
    a.ledger.report_cost(ROOT, 2.5)
    await a.speak(b)
    mesh.run_for(LOST_MS + 500, "a")
    usage = b.ledger.usage(ROOT)
    assert (usage.calls, usage.own_calls, usage.cost) == (2, 1, 2.5)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"[1]", b'[1,"a",3]', b"\xff"])
def test_what_cannot_be_read_is_left_alone(pair, data):
    pair[0].gossip.heard(data)
    assert pair[0].under_way() == 0


async def test_a_hub_does_not_count_its_own_words(pair):
    a, _ = pair
    a.begin(2)
    await a.speak(a)
    assert a.under_way() == 2


@asynccontextmanager
async def running(*gossips):
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        duties = [group.create_task(gossip.run()) for gossip in gossips]
        yield
        for duty in duties:
            duty.cancel()


async def test_over_a_bus_it_goes_by_itself(mesh, pair):
    a, b = pair
    gossips = [LimitGossip(mesh.bus, hub.rig.hubs, hub.balancer, hub.ledger) for hub in pair]
    async with running(*gossips):
        a.begin(3)
        await until(lambda: b.under_way() == 3)
        a.end(3)
        b.ledger.count_call(ROOT, 1)
        await until(lambda: b.under_way() == 0 and a.ledger.usage(ROOT).calls == 1)
