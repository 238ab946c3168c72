"""An instance that goes on at another hub: the first hub lets go of its claim, and nobody gets the task once more."""

import asyncio

import msgspec
import pytest

from meshway.gateway.claim_news import ClaimNews
from support.task_clients import until
from support.task_rig import COMPLETED, artifact, task_rig


@pytest.fixture
async def rig(tmp_path, clock):
    async with task_rig(tmp_path, clock) as rig:
        yield rig


def news_of(hub, *delivery_ids):
    return msgspec.json.encode([1, hub, list(delivery_ids)])


async def test_a_claim_that_is_worked_on_elsewhere_is_over_here_and_its_instance_is_told_nothing(rig):
    await rig.submit()
    handed = await rig.take_one()
    ClaimNews(rig.engine.bus, rig.claims, hub_id="a").heard(news_of("b", handed.claim.delivery_id))
    assert handed.claim.is_over
    assert rig.told == []
    assert len(rig.claims) == 0


async def test_the_task_is_not_given_to_another_when_the_grace_of_the_first_connection_is_over(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    rig.lose_connection("one")
    ClaimNews(rig.engine.bus, rig.claims, hub_id="a").heard(news_of("b", handed.claim.delivery_id))
    await rig.pass_time(rig.settings.reconnect_grace_ms + 1)
    assert await rig.take(instance="two") == []
    assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING"]


async def test_an_instance_that_comes_back_after_that_is_believed_as_before(rig):
    await rig.submit()
    handed = await rig.take_one()
    ClaimNews(rig.engine.bus, rig.claims, hub_id="a").heard(news_of("b", handed.claim.delivery_id))
    shown = await rig.show_hold(handed.claim.delivery_id)
    assert shown.is_held
    assert (await rig.say(handed, artifact("x"), COMPLETED)).outcome == "done"


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'[1,"b"]', b'[1,"b",[1]]', b"\xff"])
async def test_what_cannot_be_read_is_left_alone(rig, data):
    await rig.submit()
    handed = await rig.take_one()
    ClaimNews(rig.engine.bus, rig.claims, hub_id="a").heard(data)
    assert not handed.claim.is_over


async def test_a_hub_lets_go_of_nothing_by_its_own_words_or_by_ids_it_does_not_know(rig):
    await rig.submit()
    handed = await rig.take_one()
    news = ClaimNews(rig.engine.bus, rig.claims, hub_id="a")
    news.heard(news_of("a", handed.claim.delivery_id))
    news.heard(news_of("b", "1.1.t.unknown"))
    assert not handed.claim.is_over


async def test_over_the_bus_it_goes_by_itself(rig):
    await rig.submit()
    handed = await rig.take_one()
    here = ClaimNews(rig.engine.bus, rig.claims, hub_id="a")
    there = ClaimNews(rig.engine.bus, type(rig.claims)(), hub_id="b")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        duties = [group.create_task(each.run()) for each in (here, there)]
        # Whoever listens later than it is said hears nothing, so it is said until it is heard.
        await until(lambda: there.taken_on(handed.claim.delivery_id) or handed.claim.is_over)
        for duty in duties:
            duty.cancel()
