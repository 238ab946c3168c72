"""Events: who gets them, in which order, and what a slow or wrong caller hears."""

import asyncio

import msgspec
import pytest
from request_verbs import OUTSIDER, message, open_verbs

from meshway.engine.embedded.bus import EmbeddedBus
from meshway.kernel.errors import EngineUnavailable, Forbidden, InvalidRequest, TooManyInFlight
from meshway.kernel.principal import LOCAL_OPERATOR
from meshway.messaging.events import MissedEvents
from meshway.messaging.names import ChannelKind, ChannelName


async def publish(verbs, channel, *messages):
    return await verbs.publish_events.execute(LOCAL_OPERATOR, channel, messages)


def subscribe(verbs, pattern, group=None):
    return verbs.subscribe_events.open(LOCAL_OPERATOR, pattern, group=group)


def data_of(found):
    return [msgspec.json.decode(each)["data"] for each in found]


async def test_every_subscriber_gets_the_same_documents_in_order():
    async with open_verbs() as verbs, subscribe(verbs, "a.b") as one, subscribe(verbs, "a.>") as other:
        receipts = await publish(verbs, "a.b", message(1, id="x"), message(2))
        first, second = await one.take(10), await other.take(10)

        assert list(first) == list(second)
        assert data_of(first) == [1, 2]
        document = msgspec.json.decode(first[0])
        assert (document["id"], document["channel"], document["principal"]) == ("x", "a.b", "local")
        assert [receipt.id for receipt in receipts] == ["x", msgspec.json.decode(first[1])["id"]]
        assert all(receipt.duplicate is False for receipt in receipts)


async def test_an_event_goes_to_one_member_of_a_group_whatever_their_patterns():
    async with open_verbs() as verbs, subscribe(verbs, "a.*", "g") as one, subscribe(verbs, "a.>", "g") as other:
        for number in range(10):
            await publish(verbs, "a.b", message(number))
        got = data_of(await one.take(100)) + data_of(await other.take(100))

        assert sorted(got) == list(range(10))


async def test_nobody_listening_is_no_error():
    async with open_verbs() as verbs:
        assert len(await publish(verbs, "nobody", message())) == 1


async def test_a_slow_subscriber_is_told_how_many_it_missed_and_others_miss_none():
    async with open_verbs(event_buffer_max=3) as verbs, subscribe(verbs, "a") as slow, subscribe(verbs, "a") as quick:
        got = []
        for number in range(5):
            await publish(verbs, "a", message(number))
            got += data_of(await quick.take(10))
        assert got == [0, 1, 2, 3, 4]

        *kept, missed = await slow.take(10)
        assert data_of(kept) == [0, 1, 2]
        assert missed == MissedEvents(missed=2)
        assert verbs.activity.figures_of(ChannelKind.EVENTS, ChannelName("a")) == {
            "published": 5, "missed": 2, "subscribers": 2,
        }  # fmt: skip


async def test_a_cancelled_take_loses_nothing():
    async with open_verbs() as verbs, subscribe(verbs, "a") as subscription:
        for number in range(20):
            taking = asyncio.ensure_future(subscription.take(1))
            await asyncio.sleep(0)
            await publish(verbs, "a", message(number))
            taking.cancel()
            await asyncio.wait([taking])
            got = [] if taking.cancelled() else data_of(taking.result())
            assert got or data_of(await subscription.take(1)) == [number]


async def test_the_subscription_of_an_engine_that_closes_ends_with_a_clear_error():
    bus = EmbeddedBus()
    async with open_verbs(bus) as verbs, subscribe(verbs, "a") as subscription:
        bus.close()
        with pytest.raises(EngineUnavailable, match="Subscribe again"):
            await subscription.take(1)


async def test_subscriptions_are_limited_over_all_kinds_and_freed_when_left():
    async with open_verbs(subscriptions_max=2) as verbs:
        async with subscribe(verbs, "a"), verbs.join(ChannelKind.COMMANDS, "c"):
            with pytest.raises(TooManyInFlight, match="subscriptions_max"):
                async with subscribe(verbs, "a"):
                    pass
        async with subscribe(verbs, "a"), subscribe(verbs, "a"):
            assert verbs.places.taken == 2
        assert verbs.places.taken == 0


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ([message()] * 4, "messages"),
        ([message(), message(delay_ms=5)], "messages.1.delay_ms"),
        ([message(), message(priority="high")], "messages.1.priority"),
        ([message(), message(id="")], "messages.1.id"),
    ],
)
async def test_one_wrong_message_refuses_the_post_and_nobody_gets_any_of_it(messages, field):
    async with open_verbs(batch_max=3) as verbs, subscribe(verbs, "a") as subscription:
        with pytest.raises(InvalidRequest) as caught:
            await publish(verbs, "a", *messages)
        assert [each.field for each in caught.value.fields] == [field]
        await publish(verbs, "a", message("next"))
        assert data_of(await subscription.take(10)) == ["next"]


@pytest.mark.parametrize("group", ["", "a b", "a.b", "x" * 64, "*"])
async def test_a_group_is_one_short_token(group):
    async with open_verbs() as verbs:
        with pytest.raises(InvalidRequest, match="group"):
            subscribe(verbs, "a", group)


async def test_large_data_goes_to_the_blobs_for_an_hour_or_more_and_travels_by_reference():
    async with open_verbs(data_bytes_max=1_024) as verbs, subscribe(verbs, "a") as subscription:
        await publish(verbs, "a", message("x" * 2_000), message("small"))
        large, small = [msgspec.json.decode(each) for each in await subscription.take(10)]

        assert verbs.blobs.contents[large["data_ref"]["sha256"]] == b'"%b"' % (b"x" * 2_000)
        assert verbs.blobs.ttls[0] >= 3_600_000
        assert small["data"] == "small"


async def test_a_key_without_the_scope_may_neither_send_nor_listen():
    async with open_verbs() as verbs:
        with pytest.raises(Forbidden):
            await verbs.publish_events.execute(OUTSIDER, "a", [message()])
        with pytest.raises(Forbidden):
            verbs.subscribe_events.open(OUTSIDER, "a", group=None)
