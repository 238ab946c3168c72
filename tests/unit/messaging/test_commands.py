"""Commands: one responder each, an honest answer about what became of them, and pools that come and go."""

import asyncio
import time
from contextlib import AsyncExitStack

import msgspec
import pytest
from request_verbs import COMMANDS, OUTSIDER, QUERIES, open_verbs, running, until

from meshway.engine.embedded.bus import EmbeddedBus
from meshway.kernel.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    Forbidden,
    InvalidRequest,
    PayloadTooLarge,
    ResponderMissing,
    TooManyInFlight,
)
from meshway.kernel.ids import PrincipalId
from meshway.kernel.principal import LOCAL_OPERATOR
from meshway.messaging.channel import RequestSettings
from meshway.messaging.names import ChannelKind, ChannelName
from meshway.messaging.requests import ReplyIn, RequestIn


async def poll(verbs, channel, *, count=10, wait_ms=1_000, kind=COMMANDS):
    return await verbs.answer_requests.poll(LOCAL_OPERATOR, kind, channel, count=count, wait_ms=wait_ms)


async def test_a_command_is_answered_by_one_responder_with_what_it_says():
    async with (
        open_verbs() as verbs,
        verbs.answering(COMMANDS, "door.*", lambda document: {"did": document["data"]}) as one,
        verbs.answering(COMMANDS, "door.>", lambda document: {"did": document["data"]}) as other,
    ):
        for number in range(6):
            reply = await verbs.ask(COMMANDS, "door.open", data=number, attributes={"a": "b"})
            assert (reply.executed, msgspec.json.decode(reply.data), reply.cache) == (True, {"did": number}, "off")
        assert sorted(each["data"] for each in one + other) == list(range(6))
        document = (one + other)[0]
        assert document["channel"] == "door.open"
        assert document["attributes"] == {"a": "b"}
        assert document["id"]
        assert document["principal"] == "local"


async def test_a_command_that_was_not_executed_says_why():
    async with open_verbs() as verbs, verbs.join(COMMANDS, "c") as responder:

        async def refuse():
            (held,) = await responder.take(1)
            answer = ReplyIn(request_id=held.request_id, executed=False, error="out of paper")
            assert await verbs.answer_requests.reply(LOCAL_OPERATOR, COMMANDS, "c", answer) == "done"

        async with running(refuse()):
            reply = await verbs.ask(COMMANDS, "c")
        assert (reply.executed, reply.error, reply.data) == (False, "out of paper", msgspec.UNSET)
        assert msgspec.json.encode(reply) == b'{"executed":false,"error":"out of paper","cache":"off"}'


async def test_nobody_there_is_known_at_once_and_nobody_has_acted():
    async with open_verbs() as verbs:
        started = time.monotonic()
        with pytest.raises(ResponderMissing, match="'c'") as caught:
            await verbs.ask(COMMANDS, "c", timeout_ms=60_000)
        assert time.monotonic() - started < 1
        assert not caught.value.may_have_acted
        async with verbs.answering(QUERIES, "c", lambda _: 1):
            with pytest.raises(ResponderMissing):
                await verbs.ask(COMMANDS, "c")
        async with verbs.answering(COMMANDS, "c", lambda _: 1):
            await verbs.ask(COMMANDS, "c")
        with pytest.raises(ResponderMissing):
            await verbs.ask(COMMANDS, "c")


async def test_an_answer_that_comes_too_late_is_stale_and_its_caller_is_told_somebody_may_have_acted():
    async with open_verbs() as verbs, verbs.join(COMMANDS, "c") as responder:
        with pytest.raises(DeadlineExceeded, match="30 ms") as caught:
            await verbs.ask(COMMANDS, "c", timeout_ms=30)
        assert caught.value.may_have_acted

        asking = asyncio.ensure_future(verbs.ask(COMMANDS, "c", timeout_ms=30))
        (held,) = await responder.take(10)
        assert held.timeout_ms in (29, 30)
        with pytest.raises(DeadlineExceeded):
            await asking
        assert await verbs.reply(COMMANDS, held.request_id) == "stale"


async def test_the_first_answer_counts_and_a_second_is_stale():
    async with open_verbs() as verbs, verbs.join(COMMANDS, "c") as responder:
        asking = asyncio.ensure_future(verbs.ask(COMMANDS, "c"))
        (held,) = await responder.take(1)
        assert await verbs.reply(COMMANDS, held.request_id, "first") == "done"
        assert await verbs.reply(COMMANDS, held.request_id, "second") == "stale"
        assert msgspec.json.decode((await asking).data) == "first"


async def test_a_caller_who_left_makes_the_answer_stale():
    async with open_verbs() as verbs, verbs.join(COMMANDS, "c") as responder:
        asking = asyncio.ensure_future(verbs.ask(COMMANDS, "c"))
        (held,) = await responder.take(1)
        asking.cancel()
        await asyncio.wait([asking])
        assert await verbs.reply(COMMANDS, held.request_id) == "stale"


async def test_an_answer_that_is_too_large_is_refused_and_leaves_the_request_open():
    async with open_verbs(data_bytes_max=1_024) as verbs, verbs.join(COMMANDS, "c") as responder:
        asking = asyncio.ensure_future(verbs.ask(COMMANDS, "c"))
        (held,) = await responder.take(1)
        with pytest.raises(PayloadTooLarge, match="data_bytes_max"):
            await verbs.reply(COMMANDS, held.request_id, "x" * 2_000)
        assert await verbs.reply(COMMANDS, held.request_id, "short") == "done"
        assert msgspec.json.decode((await asking).data) == "short"


async def test_an_answer_may_come_through_another_hub():
    bus = EmbeddedBus()
    async with open_verbs(bus) as one, open_verbs(bus) as other, one.join(COMMANDS, "c") as responder:
        asking = asyncio.ensure_future(other.ask(COMMANDS, "c"))
        (held,) = await responder.take(1)
        assert await other.reply(COMMANDS, held.request_id, "there") == "done"
        assert msgspec.json.decode((await asking).data) == "there"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: text.replace("~", ".", 1),
        lambda _: "x~y~z",
        lambda _: "",
        lambda _: "~" * 5_000,
        lambda _: "\udcff~\udcff~\udcff",
    ],
)
async def test_a_request_id_that_is_not_ours_names_the_field(change):
    async with open_verbs() as verbs, verbs.join(COMMANDS, "c") as responder:
        asking = asyncio.ensure_future(verbs.ask(COMMANDS, "c"))
        (held,) = await responder.take(1)
        with pytest.raises(InvalidRequest) as caught:
            await verbs.reply(COMMANDS, change(held.request_id))
        assert caught.value.fields[0].field == "request_id"
        with pytest.raises(InvalidRequest, match="request_id"):
            await verbs.reply(QUERIES, held.request_id)
        with pytest.raises(InvalidRequest, match="answer there"):
            await verbs.reply(COMMANDS, held.request_id, channel="d")
        assert await verbs.reply(COMMANDS, held.request_id, channel="c") == "done"
        await asking


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({"executed": True, "error": "x"}, "error"),
        ({"executed": False}, "error"),
        ({"executed": False, "error": ""}, "error"),
        ({"executed": False, "error": "x" * 1_025}, "error"),
        ({"executed": False, "error": "x", "data": msgspec.Raw(b"1")}, "data"),
    ],
)
async def test_an_answer_that_contradicts_itself_names_the_field(answer, field):
    async with open_verbs() as verbs, verbs.join(COMMANDS, "c") as responder:
        asking = asyncio.ensure_future(verbs.ask(COMMANDS, "c"))
        (held,) = await responder.take(1)
        wrong = ReplyIn(request_id=held.request_id, **answer)
        with pytest.raises(InvalidRequest) as caught:
            await verbs.answer_requests.reply(LOCAL_OPERATOR, COMMANDS, "c", wrong)
        assert caught.value.fields[0].field == field
        assert await verbs.reply(COMMANDS, held.request_id) == "done"
        await asking


# Polling


async def test_a_poller_is_found_between_its_polls_until_its_grace_is_over():
    async with open_verbs(responder_grace_ms=150) as verbs:
        assert await poll(verbs, "c", wait_ms=0) == []
        asking = asyncio.ensure_future(verbs.ask(COMMANDS, "c"))
        await asyncio.sleep(0)
        (held,) = await poll(verbs, "c")
        assert await verbs.reply(COMMANDS, held.request_id) == "done"
        assert (await asking).executed
        failures = []
        while not failures or type(failures[-1]) is DeadlineExceeded:
            assert len(failures) < 1_000
            failures += await asyncio.gather(verbs.ask(COMMANDS, "c", timeout_ms=5), return_exceptions=True)
        assert isinstance(failures[-1], ResponderMissing)


async def test_a_request_that_waits_when_the_last_poller_is_gone_hears_that_nobody_answers():
    async with open_verbs(responder_grace_ms=50) as verbs:
        await poll(verbs, "c", wait_ms=0)
        started = time.monotonic()
        with pytest.raises(ResponderMissing) as caught:
            await verbs.ask(COMMANDS, "c", timeout_ms=60_000)
        assert time.monotonic() - started < 5
        assert not caught.value.may_have_acted


async def test_a_request_that_waits_at_a_hub_that_is_left_goes_to_a_responder_of_another():
    bus = EmbeddedBus()
    async with open_verbs(bus) as one, open_verbs(bus) as other, AsyncExitStack() as later:
        async with one.join(COMMANDS, "c"):
            asking = asyncio.ensure_future(one.ask(COMMANDS, "c"))
            await until(lambda: one.pools.waiting == 1)
            await later.enter_async_context(other.answering(COMMANDS, "c", lambda _: "other"))
        assert msgspec.json.decode((await asking).data) == "other"


async def test_a_poll_takes_what_there_is_and_waits_no_longer_than_it_says():
    async with open_verbs() as verbs:
        await poll(verbs, "c", wait_ms=0)
        asking = [asyncio.ensure_future(verbs.ask(COMMANDS, "c", data=number)) for number in range(5)]
        await until(lambda: verbs.pools.waiting == 5)
        first, rest = await poll(verbs, "c", count=2), await poll(verbs, "*", count=10, wait_ms=0)
        assert len(first) == 2
        assert rest == []
        rest = await poll(verbs, "c", count=10, wait_ms=0)
        for held in [*first, *rest]:
            await verbs.reply(COMMANDS, held.request_id, msgspec.json.decode(held.document)["data"])
        assert [msgspec.json.decode((await each).data) for each in asking] == list(range(5))


@pytest.mark.parametrize(("count", "wait_ms", "field"), [(0, 1, "count"), (1_001, 1, "count"), (1, -1, "wait_ms")])
async def test_a_poll_out_of_bounds_names_the_field(count, wait_ms, field):
    async with open_verbs() as verbs:
        with pytest.raises(InvalidRequest) as caught:
            await poll(verbs, "c", count=count, wait_ms=wait_ms)
        assert caught.value.fields[0].field == field


# Too many, too late, gone


async def test_more_requests_than_may_wait_are_told_so_at_once():
    async with open_verbs(requests_waiting_max=2) as verbs, verbs.join(COMMANDS, "c") as responder:
        asking = [asyncio.ensure_future(verbs.ask(COMMANDS, "c", data=number)) for number in range(2)]
        await until(lambda: verbs.pools.waiting == 2)
        with pytest.raises(TooManyInFlight, match="requests_waiting_max"):
            await verbs.ask(COMMANDS, "c")
        for held in await responder.take(10):
            await verbs.reply(COMMANDS, held.request_id)
        assert [(await each).executed for each in asking] == [True, True]
        figures = verbs.activity.figures_of(COMMANDS, ChannelName("c"))
        assert figures == {
            "asked": 3, "executed": 2, "busy": 1, "refused": 0, "no_responder": 0, "timed_out": 0, "cached": 0,
            "responders": 1,
        }  # fmt: skip


async def test_a_request_whose_time_is_up_is_handed_to_nobody():
    async with open_verbs() as verbs, verbs.join(COMMANDS, "c") as responder:
        with pytest.raises(DeadlineExceeded):
            await verbs.ask(COMMANDS, "c", data="old", timeout_ms=10)
        asking = asyncio.ensure_future(verbs.ask(COMMANDS, "c", data="new"))
        (held,) = await responder.take(10)
        assert msgspec.json.decode(held.document)["data"] == "new"
        asking.cancel()
        await asyncio.wait([asking])


async def test_responders_of_an_engine_that_closes_end_with_a_clear_error():
    bus = EmbeddedBus()
    async with open_verbs(bus) as verbs, verbs.join(COMMANDS, "c") as responder:
        taking = asyncio.ensure_future(responder.take(1))
        await asyncio.sleep(0)
        bus.close()
        with pytest.raises(EngineUnavailable, match="Join again"):
            await taking
        with pytest.raises(EngineUnavailable, match="Join again"):
            await responder.take(1)


async def test_joins_cancelled_while_they_begin_leave_nobody_behind():
    async with open_verbs() as verbs:

        async def join():
            async with verbs.join(COMMANDS, "c"):
                await asyncio.Event().wait()

        for turns in range(6):
            joining = asyncio.ensure_future(join())
            for _ in range(turns):
                await asyncio.sleep(0)
            joining.cancel()
            await asyncio.wait([joining])
        with pytest.raises(ResponderMissing):
            await verbs.ask(COMMANDS, "c", timeout_ms=60_000)
        assert verbs.places.taken == 0
        assert verbs.activity.figures_of(COMMANDS, ChannelName("c"))["responders"] == 0


async def test_one_who_joins_in_the_moment_the_pool_leaves_is_found():
    async with open_verbs() as verbs:
        for turns in range(6):
            async with verbs.join(COMMANDS, "c"):
                pass
            for _ in range(turns):
                await asyncio.sleep(0)
            async with verbs.answering(COMMANDS, "c", lambda _: "ok"):
                assert (await verbs.ask(COMMANDS, "c", timeout_ms=2_000)).executed


# What a caller may ask


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": 3_600_001}, "timeout_ms"),
        ({"header_ms": -1}, "Meshway-Timeout-Ms"),
        ({"cache_key": "k", "cache_ttl_ms": 5}, "cache_key"),
        ({"cache_ttl_ms": 5}, "cache_ttl_ms"),
        ({"content_type": ""}, "content_type"),
        ({"attributes": {"a": "x" * 20_000}}, "attributes"),
        ({"data_base64": "AA=="}, "data"),
    ],
)
async def test_a_wrong_member_of_a_command_is_named(members, field):
    async with open_verbs() as verbs, verbs.join(COMMANDS, "c"):
        with pytest.raises(InvalidRequest) as caught:
            await verbs.ask(COMMANDS, "c", **members)
        assert [each.field for each in caught.value.fields] == [field]
        assert caught.value.detail.startswith(field)
        assert verbs.pools.waiting == 0


async def test_a_command_needs_data_and_only_commands_and_queries_have_replies():
    async with open_verbs() as verbs:
        with pytest.raises(InvalidRequest, match="data: is missing; send null"):
            await verbs.send_request.execute(LOCAL_OPERATOR, COMMANDS, "c", RequestIn())
        with pytest.raises(InvalidRequest, match="kind"):
            await verbs.ask(ChannelKind.EVENTS, "c")
        with pytest.raises(Forbidden):
            await verbs.send_request.execute(OUTSIDER, COMMANDS, "c", RequestIn(data=msgspec.Raw(b"1")))
        with pytest.raises(Forbidden):
            verbs.answer_requests.join(OUTSIDER, COMMANDS, "c")


async def test_the_wait_is_that_of_the_body_then_the_header_then_the_channel_then_the_hub():
    async with open_verbs(request_timeout_ms=44) as verbs, verbs.join(COMMANDS, ">"):
        await verbs.channels.put(COMMANDS, ChannelName("set"), RequestSettings(timeout_ms=33), PrincipalId("local"))
        for channel, members, wait_ms in (
            ("set", {"timeout_ms": 11, "header_ms": 22}, 11),
            ("set", {"header_ms": 22}, 22),
            ("set", {}, 33),
            ("unset", {}, 44),
        ):
            with pytest.raises(DeadlineExceeded, match=f"within {wait_ms} ms"):
                await verbs.ask(COMMANDS, channel, **members)
