"""Figures of channels that keep nothing, as hubs tell each other of them."""

import asyncio

import pytest

from meshway.engine.embedded.bus import EmbeddedBus
from meshway.kernel.metrics import NullMetrics
from meshway.messaging.activity import Activity
from meshway.messaging.activity_gossip import ActivityGossip
from meshway.messaging.names import ChannelKind, ChannelName
from support.task_clients import until

EVENTS = ChannelKind.EVENTS
NAME = ChannelName("a.b")


class TellingHub:
    """What it publishes is in `said` until the test lets another hear it."""

    def __init__(self, name):
        self.said = []
        self.activity = Activity(NullMetrics())
        self.activity.share()
        self.gossip = ActivityGossip(self, self.activity, hub_id=name)

    async def publish(self, messages):
        self.said += [message.data for message in messages]

    async def speak(self, *hearers, is_whole=False):
        await self.gossip.speak(is_whole=is_whole)
        said, self.said = self.said, []
        for data in said:
            for hearer in hearers:
                hearer.gossip.heard(data)
        return said

    def figures(self):
        return self.activity.figures_of(EVENTS, NAME)


@pytest.fixture
def pair():
    return TellingHub("a"), TellingHub("b")


async def test_figures_and_listeners_of_all_hubs_add_up(pair):
    a, b = pair
    a.activity.published(NAME, 3)
    a.activity.joined(EVENTS, "a.*")
    b.activity.published(NAME, 2)
    b.activity.joined(EVENTS, NAME)
    await a.speak(b)
    assert b.figures() == {"published": 5, "missed": 0, "subscribers": 2}
    assert await a.speak(b) == []


async def test_a_listener_whose_end_was_lost_is_gone_with_the_next_whole(pair):
    a, b = pair
    a.activity.joined(EVENTS, NAME)
    await a.speak(b)
    a.activity.left(EVENTS, NAME)
    await a.speak()
    assert b.figures()["subscribers"] == 1
    await a.speak(b, is_whole=True)
    assert b.figures()["subscribers"] == 0


async def test_a_whole_of_more_than_one_message_is_heard_in_full(pair):
    a, b = pair
    for number in range(2_500):
        a.activity.joined(EVENTS, f"n{number}")
    assert len(await a.speak(b, is_whole=True)) == 3
    found = [b.activity.figures_of(EVENTS, ChannelName(f"n{number}"))["subscribers"] for number in (0, 1_500, 2_499)]
    assert found == [1, 1, 1]


async def test_who_listened_at_a_hub_that_is_gone_listens_no_more_and_what_it_counted_stays(pair):
    a, b = pair
    a.activity.published(NAME, 3)
    a.activity.joined(EVENTS, NAME)
    await a.speak(b)
    b.activity.forget_listeners("a")
    assert b.figures() == {"published": 3, "missed": 0, "subscribers": 0}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'[1,"a",[1]]', b"\xff"])
def test_what_cannot_be_read_is_left_alone(pair, data):
    pair[0].gossip.heard(data)
    assert pair[0].figures()["published"] == 0


async def test_over_a_bus_it_goes_by_itself(pair):
    bus = EmbeddedBus()
    gossips = [ActivityGossip(bus, hub.activity, hub_id=name) for hub, name in zip(pair, "ab", strict=True)]
    a, b = pair
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        duties = [group.create_task(gossip.run()) for gossip in gossips]
        a.activity.joined(EVENTS, NAME)
        await until(lambda: b.figures()["subscribers"] == 1)
        a.activity.left(EVENTS, NAME)
        await until(lambda: b.figures()["subscribers"] == 0)
        for duty in duties:
            duty.cancel()
