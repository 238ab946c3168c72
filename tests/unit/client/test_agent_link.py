"""The SDK's agent and a hub that goes away, takes tasks back, cancels, refuses: nothing said twice, nothing lost."""

import asyncio
import threading

import pytest

from meshway.client import Agent, HubError, MeshwayClient
from meshway.protocols.link import frames
from meshway.testing.tiny_http import HttpReply, serve_http
from support.agent_at_work import agent_at_work, task_delivery
from support.fake_link_hub import FakeLinkHub, problem


def gated(capacity=10, **options):
    """An agent whose tasks end when the gate opens, and what became of its handlers."""
    agent, gate, ends = Agent("gated", capacity=capacity, **options), asyncio.Event(), []

    @agent.handler
    async def wait(task):
        try:
            yield "begun"
            await gate.wait()
            yield "ended"
        except asyncio.CancelledError:
            ends.append((task.id, task.is_cancelled))
            raise

    return agent, gate, ends


async def test_credit_is_the_number_of_free_slots():
    agent, gate, _ = gated(capacity=2)
    async with agent_at_work(agent) as work:
        assert work.hub.of(frames.Serve)[0].credit == 2
        await work.hand(task_delivery(1), task_delivery(2, task="t-2"))
        await work.hub.until(lambda: len(work.hub.reports) == 2)
        assert work.hub.of(frames.Credit) == []
        gate.set()
        await work.hub.until(lambda: sum(frame.messages for frame in work.hub.of(frames.Credit)) == 2)


async def test_handlers_go_on_while_the_hub_is_away_and_the_rest_is_sent_after():
    agent, gate, ends = gated()
    hub = FakeLinkHub()
    async with agent_at_work(agent, hub=hub) as work:
        await work.hand(task_delivery(1))
        await hub.until(lambda: work.chunks() == [("begun", False, False)])
        await hub.stop()
        gate.set()
        await hub.start()
        again = await hub.next_of(frames.Serve, 2)
        await work.until_state("COMPLETED")
    first = hub.of(frames.Serve)[0]
    assert again.instance == first.instance
    assert [(hold.delivery_id, hold.source) for hold in again.holds] == [("d-1", 1)]
    assert work.chunks() == [("begun", False, False), ("ended", True, True)]
    assert [item.source for item in hub.reports] == [1, 2, 3]
    assert ends == []


async def test_what_the_hub_has_but_could_not_confirm_is_not_sent_again():
    agent, gate, _ = gated()
    hub = FakeLinkHub()
    kept = []

    async def forgetful(connection, frame):
        """Keeps the first report and is cut off before it can say so."""
        if isinstance(frame, frames.Report) and not kept:
            kept.extend(frame.reports)
            hub.reports += frame.reports
            connection.transport.abort()
        elif isinstance(frame, frames.Serve) and frame.holds:
            states = [frames.HoldState(delivery_id="d-1", held=True, source=1)]
            await hub.send(hub.served(frame, states))
        else:
            await hub.accept_all(connection, frame)

    hub.answer = forgetful
    async with agent_at_work(agent, hub=hub) as work:
        await work.hand(task_delivery(1))
        again = await hub.next_of(frames.Serve, 2)
        gate.set()
        await work.until_state("COMPLETED")
    assert again.holds[0].source == 0
    assert [item.source for item in hub.reports] == [1, 2, 3]


async def test_a_task_that_the_hub_gave_to_somebody_else_meanwhile_is_cancelled():
    agent, _, ends = gated()
    hub = FakeLinkHub()

    async def taken_away(connection, frame):
        if isinstance(frame, frames.Serve) and frame.holds:
            states = [frames.HoldState(delivery_id=each.delivery_id, held=False) for each in frame.holds]
            await hub.send(hub.served(frame, states))
        else:
            await hub.accept_all(connection, frame)

    hub.answer = taken_away
    async with agent_at_work(agent, hub=hub) as work:
        await work.hand(task_delivery(1))
        await hub.until(lambda: hub.reports)
        hub.drop()
        await hub.next_of(frames.Serve, 2)
        await hub.until(lambda: hub.of(frames.Credit))
    assert ends == [("t-1", True)]
    assert work.states() == []
    assert hub.task_settlements == []


@pytest.mark.parametrize("how", ["stale", "cancel"])
async def test_a_stale_or_cancelled_task_stops_and_says_nothing_more(how):
    agent, _, ends = gated()
    hub = FakeLinkHub()

    async def answer(connection, frame):
        if isinstance(frame, frames.Report) and how == "stale":
            outcomes = [frames.ReportOutcome(delivery_id="d-1", outcome="stale")]
            await hub.send(frames.Reported(ref=frame.ref, outcomes=outcomes))
            return
        await hub.accept_all(connection, frame)
        if isinstance(frame, frames.Report):
            await hub.send(frames.CancelTasks(id=hub.of(frames.Serve)[-1].id, delivery_ids=["d-1"], reason="cancelled"))

    hub.answer = answer
    async with agent_at_work(agent, hub=hub) as work:
        await work.hand(task_delivery(1))
        await hub.until(lambda: hub.of(frames.Credit))
    assert ends == [("t-1", True)]
    assert len(hub.of(frames.Report)) == 1
    assert hub.task_settlements == []


async def test_a_blocking_handler_sees_that_it_is_cancelled_and_keeps_its_slot_until_it_returns():
    agent, begun, told, gate = Agent("blocking"), asyncio.Event(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @agent.handler
    def block(task):
        loop.call_soon_threadsafe(begun.set)
        while not task.is_cancelled and not gate.wait(0.001):
            pass
        loop.call_soon_threadsafe(told.set)
        gate.wait(5)
        return "nobody hears this"

    async with agent_at_work(agent) as work, asyncio.timeout(5):
        await work.hand(task_delivery(1))
        await begun.wait()
        await work.hub.send(frames.CancelTasks(id=work.hub.of(frames.Serve)[-1].id, delivery_ids=["d-1"]))
        await told.wait()
        assert work.hub.of(frames.Credit) == []
        gate.set()
        await work.hub.until(lambda: work.hub.of(frames.Credit))
    assert work.hub.reports == []


async def test_a_refused_event_fails_its_task_and_no_other():
    agent, gate, ends = gated()
    hub = FakeLinkHub()

    async def refuse_first(connection, frame):
        if isinstance(frame, frames.Report) and any(item.delivery_id == "d-1" for item in frame.reports):
            others = {item.delivery_id: item for item in frame.reports if item.delivery_id != "d-1"}
            hub.reports += others.values()
            outcomes = [frames.ReportOutcome(delivery_id="d-1", outcome="refused", detail="no such state")]
            outcomes += [
                frames.ReportOutcome(delivery_id=each, outcome="done", source=item.source)
                for each, item in others.items()
            ]
            await hub.send(frames.Reported(ref=frame.ref, outcomes=outcomes))
        else:
            await hub.accept_all(connection, frame)

    hub.answer = refuse_first
    async with agent_at_work(agent, hub=hub) as work:
        await work.hand(task_delivery(1), task_delivery(2, task="t-2"))
        failed = await work.until_settled("fail")
        gate.set()
        await work.until_state("COMPLETED", "d-2")
    assert (failed.delivery_id, failed.reason) == ("d-1", "no such state")
    assert ends == [("t-1", True)]


async def test_a_report_that_is_too_large_is_found_and_only_its_task_fails():
    agent = Agent("large")

    @agent.handler
    async def large(task):
        return "x" * int(task.text)

    hub = FakeLinkHub()
    hub.frame_bytes_max = 20_000
    async with agent_at_work(agent, hub=hub) as work:
        await work.hand(task_delivery(1, "30000"), task_delivery(2, "10", task="t-2"))
        failed = await work.until_settled("fail")
        await work.until_state("COMPLETED", "d-2")
    assert failed.delivery_id == "d-1"
    assert "20000" in failed.reason


async def test_leases_are_extended_while_a_handler_works():
    agent, gate, _ = gated()
    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1, lease_ms=300))
        await work.hub.until(lambda: len(work.settlements("extend")) >= 3)
        gate.set()
        await work.until_state("COMPLETED")
    assert {each.delivery_id for each in work.settlements("extend")} == {"d-1"}


async def test_a_lease_that_could_not_be_extended_cancels_the_handler():
    agent, _, ends = gated()
    hub = FakeLinkHub()

    async def stale(connection, frame):
        if isinstance(frame, frames.SettleTasks):
            await hub.send(frames.Settled(ref=frame.ref, outcomes=["stale"] * len(frame.settlements)))
        else:
            await hub.accept_all(connection, frame)

    hub.answer = stale
    async with agent_at_work(agent, hub=hub) as work:
        await work.hand(task_delivery(1, lease_ms=300))
        await hub.until(lambda: hub.of(frames.Credit))
    assert ends == [("t-1", True)]


async def test_a_talkative_handler_waits_while_the_hub_is_away():
    agent, yielded, is_full = Agent("talkative"), [], asyncio.Event()

    @agent.handler
    async def talk(task):
        for number in range(int(task.text)):
            yielded.append(number)
            if len(yielded) > 9_999:
                is_full.set()
            yield "x"

    hub = FakeLinkHub()
    is_silent = True

    async def slow(connection, frame):
        if not (isinstance(frame, frames.Report) and is_silent):
            await hub.accept_all(connection, frame)

    hub.answer = slow
    async with agent_at_work(agent, hub=hub) as work:
        await work.hand(task_delivery(1, "10500"))
        async with asyncio.timeout(20):
            await is_full.wait()
        await hub.next_of(frames.Report)
        # One more is held for the next, and one waits for room.
        assert len(yielded) <= 10_002
        is_silent = False
        hub.drop()
        await work.until_state("COMPLETED")
    assert len(work.chunks()) == 10_500
    assert max(len(frame.reports) for frame in hub.of(frames.Report)) <= 256


async def test_the_end_of_serving_waits_for_handlers_gives_back_what_comes_late_and_says_bye():
    agent, gate, _ = gated()
    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.hub.until(lambda: work.hub.reports)
        agent.stop()
        await work.hand(task_delivery(2, task="t-2"))
        released = await work.until_settled("release")
        assert not work.serving.done()
        gate.set()
        await work.hub.next_of(frames.Bye)
        await asyncio.wait([work.serving], timeout=5)
        assert work.serving.done()
    assert released.delivery_id == "d-2"
    assert work.states() == ["COMPLETED"]
    assert work.hub.of(frames.Credit) == []


async def test_what_does_not_finish_in_the_drain_is_given_back():
    agent, _, ends = gated(drain_timeout_s=0.05)
    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.hub.until(lambda: work.hub.reports)
        agent.stop()
        released = await work.until_settled("release")
        await work.hub.next_of(frames.Bye)
    assert released.delivery_id == "d-1"
    assert ends == [("t-1", True)]


async def test_a_cancelled_agent_gives_back_at_once_and_says_bye():
    agent, _, ends = gated()
    async with agent_at_work(agent) as work:
        await work.hand(task_delivery(1))
        await work.hub.until(lambda: work.hub.reports)
        work.serving.cancel()
        await work.hub.next_of(frames.Bye)
        released = await work.until_settled("release")
    assert released.delivery_id == "d-1"
    assert ends == [("t-1", True)]


async def test_a_hub_that_refuses_the_agent_ends_it_with_the_reason():
    agent, _, _ = gated()
    hub = FakeLinkHub()

    async def refuse(connection, frame):
        await hub.send(frames.Error(id=frame.id, problem=problem("forbidden", 403)))

    hub.answer = refuse
    await hub.start()
    try:
        with pytest.raises(HubError) as caught:
            await agent.serve(hub.url)
    finally:
        await hub.stop()
    assert caught.value.code == "forbidden"


async def test_with_several_hubs_the_next_is_tried_where_one_is_away():
    agent, gate, _ = gated()
    first, second = FakeLinkHub(), FakeLinkHub()
    await first.start()
    await second.start()
    try:
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(agent.serve(f"{first.url},{second.url}"))
            serve = await first.next_of(frames.Serve)
            await first.send(frames.Tasks(id=serve.id, tasks=[task_delivery(1)]))
            await first.until(lambda: first.reports)
            await first.stop()
            again = await second.next_of(frames.Serve)
            gate.set()
            await second.until(lambda: len(second.reports) == 2)
            agent.stop()
            await serving
    finally:
        await first.stop()
        await second.stop()
    assert again.instance == serve.instance
    assert [hold.source for hold in again.holds] == [1]
    assert [item.source for item in second.reports] == [2, 3]


async def test_calls_made_in_a_handler_carry_the_chain_also_from_threads():
    carried = {}

    async def answer(request):
        who = request.path.rsplit("/", 1)[-1]
        carried[who] = (request.headers.get("meshway-chain"), request.headers.get("traceparent"))
        return HttpReply(b"null")

    agent = Agent("caller")
    async with serve_http(answer) as url, MeshwayClient(url) as client:
        call = client.agents.remove

        @agent.skill("async")
        async def call_it(task):
            await call("async")
            async with asyncio.TaskGroup() as group:
                group.create_task(call("child"))
            await task.ask("and now?")
            await call("answered")

        @agent.skill("thread")
        def call_from_thread(task):
            task.wait_for(call("thread"))

        async with agent_at_work(agent) as work:
            as_async, as_thread = ({"metadata": {"skill": each}} for each in ("async", "thread"))
            await work.hand(
                task_delivery(1, message=as_async, chain="chain-1", traceparent="00-trace"),
                task_delivery(2, task="t-2", message=as_thread, chain="chain-2"),
            )
            await work.until_state("INPUT_REQUIRED", "d-1")
            await work.until_state("COMPLETED", "d-2")
            await work.hand(task_delivery(3, turn=2, chain="chain-3"))
            await work.until_state("COMPLETED", "d-3")
            await call("outside")
    assert carried == {
        "async": ("chain-1", "00-trace"),
        "child": ("chain-1", "00-trace"),
        "thread": ("chain-2", None),
        "answered": ("chain-3", None),
        "outside": (None, None),
    }
