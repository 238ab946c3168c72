"""Workers of the SDK against a scripted hub: hands for what is taken, leases kept, outcomes said, drains that end."""

import asyncio
import os
import signal
import threading
from contextlib import asynccontextmanager

import pytest

from meshway.client import HubError, Reject, Retry
from meshway.protocols.link import frames
from support.fake_link_hub import document, fake_link_hub, problem


def delivery(n, *, lease_ms=30_000, attempt=1):
    return frames.Delivery(
        delivery_id=f"d-{n}",
        attempt=attempt,
        # Far in the past: a hub whose clock is not ours.
        lease_until="2020-01-01T00:00:00.000Z",
        lease_ms=lease_ms,
        message=document(f"m-{n}", n, channel="orders"),
    )


def settlements(hub, *actions):
    settled = [each for frame in hub.of(frames.Settle) for each in frame.settlements]
    return [each for each in settled if not actions or each.action in actions]


@asynccontextmanager
async def working(handler, **options):
    async with fake_link_hub() as (hub, client), client.worker("orders", handler, **options) as worker:
        subscribe = await hub.next_of(frames.Subscribe)

        async def hand(*deliveries):
            await hub.send(frames.Deliveries(id=subscribe.id, deliveries=list(deliveries)))

        yield hub, worker, hand


async def test_credit_is_the_number_of_free_slots():
    gate = asyncio.Event()

    async def handle(message):
        await gate.wait()

    async with working(handle, concurrency=3) as (hub, worker, hand):
        assert hub.of(frames.Subscribe)[0].credit == 3
        await hand(delivery(1), delivery(2))
        gate.set()
        await hub.until(lambda: len(settlements(hub)) == 2 and hub.of(frames.Credit))
        assert sum(frame.messages for frame in hub.of(frames.Credit)) == 2
    assert [each.action for each in settlements(hub)] == ["ack", "ack"]
    assert worker.figures.acked == 2


async def test_what_the_handler_raises_becomes_the_outcome():
    def handle(message):
        match message.data:
            case 1:
                raise Reject("no such product")
            case 2:
                raise Retry("rate limited", delay_ms=250)
            case 3:
                raise RuntimeError("boom")
            case 4:
                raise KeyError("sku")
            case 5:
                raise RuntimeError("x" * 5_000)

    async with working(handle, dead_letter_on=(KeyError,)) as (hub, worker, hand):
        await hand(*(delivery(n) for n in range(1, 7)))
        await hub.until(lambda: len(settlements(hub)) == 6)
    by_id = {each.delivery_id: each for each in settlements(hub)}
    assert (by_id["d-1"].action, by_id["d-1"].reason) == ("dead_letter", "no such product")
    assert (by_id["d-2"].action, by_id["d-2"].delay_ms, by_id["d-2"].reason) == ("retry", 250, "rate limited")
    assert (by_id["d-3"].action, by_id["d-3"].reason) == ("retry", "RuntimeError: boom")
    assert (by_id["d-4"].action, by_id["d-4"].reason) == ("dead_letter", "KeyError: 'sku'")
    assert len(by_id["d-5"].reason) == 1_024
    assert by_id["d-6"].action == "ack"
    assert (worker.figures.acked, worker.figures.retried, worker.figures.dead_lettered) == (1, 3, 2)


async def test_a_plain_function_runs_in_a_thread_and_may_return_a_coroutine():
    names = []

    async def later(message):
        names.append("loop" if threading.current_thread() is threading.main_thread() else "thread")

    def handle(message):
        names.append(threading.current_thread().name.rsplit("_", 1)[0])
        return later(message)

    async with working(handle) as (hub, _, hand):
        await hand(delivery(1))
        await hub.until(lambda: settlements(hub))
    assert names == ["meshway-handler", "loop"]


class _SaysNothing(Exception):
    def __str__(self):
        raise RuntimeError("cannot say")


async def test_no_exception_of_a_handler_ends_the_worker_or_takes_other_outcomes_along():
    async def handle(message):
        match message.data:
            case 1:
                raise Reject(ValueError("no such product"))
            case 2:
                raise _SaysNothing
            case 3:
                raise OSError("cannot read r\udce9sum\udce9.pdf")
            case 4:
                raise Retry("later", delay_ms=0.5 * 3)
            case 5:
                raise Retry(delay_ms=10**15)
            case 6:
                raise Reject(None)

    async with working(handle) as (hub, _, hand):
        await hand(*(delivery(n) for n in range(1, 8)))
        await hub.until(lambda: len(settlements(hub)) == 7)
    by_id = {each.delivery_id: each for each in settlements(hub)}
    assert (by_id["d-1"].action, by_id["d-1"].reason) == ("dead_letter", "ValueError: no such product")
    assert (by_id["d-2"].action, by_id["d-2"].reason) == ("retry", "_SaysNothing")
    assert (by_id["d-3"].action, by_id["d-3"].reason) == ("retry", "OSError: cannot read r\\udce9sum\\udce9.pdf")
    assert (by_id["d-4"].action, by_id["d-4"].delay_ms) == ("retry", 2)
    assert (by_id["d-5"].action, by_id["d-5"].delay_ms) == ("retry", None)
    assert "365 days" in by_id["d-5"].reason
    assert by_id["d-6"].action == "dead_letter"
    assert by_id["d-7"].action == "ack"


async def test_a_thread_that_raises_stop_iteration_ends_its_delivery():
    def handle(message):
        return next(iter(()))

    async with working(handle) as (hub, _, hand):
        await hand(delivery(1))
        await hub.until(lambda: settlements(hub))
    assert settlements(hub)[0].action == "retry"
    assert "StopIteration" in settlements(hub)[0].reason


async def test_leases_are_extended_while_the_handler_works_whatever_the_clocks_say():
    gate = asyncio.Event()

    async def handle(message):
        await gate.wait()

    async with working(handle) as (hub, worker, hand):
        await hand(delivery(1, lease_ms=150), delivery(2, lease_ms=150))
        await hub.until(lambda: len(settlements(hub, "extend")) >= 4)
        gate.set()
        await hub.until(lambda: len(settlements(hub, "ack")) == 2)
    # The answers to the last ones may come when the handlers have ended.
    assert worker.figures.extended >= 2


async def test_a_handler_whose_lease_is_gone_is_cancelled_and_says_nothing():
    cancelled = asyncio.Event()

    async def handle(message):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with working(handle) as (hub, worker, hand):

        async def stale(connection, frame):
            if isinstance(frame, frames.Settle):
                await hub.send(frames.Settled(ref=frame.ref, outcomes=["stale"] * len(frame.settlements)))
            else:
                await hub.accept_all(connection, frame)

        hub.answer = stale
        await hand(delivery(1, lease_ms=100))
        async with asyncio.timeout(5):
            await cancelled.wait()
        credit = await hub.next_of(frames.Credit)
    assert (worker.figures.lost, credit.messages) == (1, 1)
    assert not settlements(hub, "ack", "retry")


async def test_a_settlement_that_came_too_late_is_counted():
    async with working(lambda message: None) as (hub, worker, hand):

        async def stale(connection, frame):
            if isinstance(frame, frames.Settle):
                await hub.send(frames.Settled(ref=frame.ref, outcomes=["stale"] * len(frame.settlements)))
            else:
                await hub.accept_all(connection, frame)

        hub.answer = stale
        await hand(delivery(1))
        await hub.until(lambda: settlements(hub))
    assert worker.figures.stale == 1


async def test_outcomes_wait_while_the_disk_of_the_hub_is_full():
    async def handle(message):
        return None

    async with working(handle) as (hub, worker, hand):

        async def full_once(connection, frame):
            if not isinstance(frame, frames.Settle):
                return
            hub.answer = hub.accept_all
            await hub.send(frames.Error(ref=frame.ref, problem=problem("storage_full", 507)))

        hub.answer = full_once
        await hand(delivery(1))
        await hub.until(lambda: len(hub.of(frames.Settle)) == 2)
    assert [each.action for each in settlements(hub)] == ["ack", "ack"]
    assert worker.figures.stale == 0


async def test_handlers_outlive_the_connection_and_settle_over_the_next_one():
    gate = asyncio.Event()
    running = asyncio.Event()

    async def handle(message):
        running.set()
        await gate.wait()

    async with working(handle, concurrency=2) as (hub, worker, hand):
        await hand(delivery(1))
        await running.wait()
        hub.drop()
        again = await hub.next_of(frames.Subscribe, 2)
        assert again.credit == 1
        gate.set()
        await hub.until(lambda: settlements(hub))
    assert [each.action for each in settlements(hub)] == ["ack"]
    assert worker.figures.acked == 1


async def test_a_settlement_whose_answer_was_lost_is_said_again():
    async with working(lambda message: None) as (hub, _, hand):

        async def die_first(connection, frame):
            if isinstance(frame, frames.Settle) and len(hub.connections) == 1:
                hub.drop()
            else:
                await hub.accept_all(connection, frame)

        hub.answer = die_first
        await hand(delivery(1))
        await hub.until(lambda: len(settlements(hub)) == 2)
    assert [each.delivery_id for each in settlements(hub)] == ["d-1", "d-1"]


async def test_stopping_lets_handlers_finish():
    gate = asyncio.Event()
    running = asyncio.Event()

    async def handle(message):
        running.set()
        await gate.wait()

    async with working(handle) as (hub, worker, hand):
        await hand(delivery(1))
        await running.wait()
        worker.stop()
        await hub.next_of(frames.Unsubscribe)
        gate.set()
    assert [each.action for each in settlements(hub)] == ["ack"]


async def test_what_does_not_finish_in_time_is_given_back():
    begun = []
    both = asyncio.Event()

    async def handle(message):
        begun.append(message.id)
        if len(begun) == 2:
            both.set()
        await asyncio.Event().wait()

    async with working(handle, drain_timeout_s=0.05) as (hub, worker, hand):
        await hand(delivery(1), delivery(2))
        await both.wait()
    given_back = settlements(hub)
    assert {(each.action, each.delay_ms, each.reason) for each in given_back} == {("retry", 0, "the worker stopped")}
    assert (len(given_back), worker.figures.given_back) == (2, 2)


async def test_work_that_arrives_while_stopping_is_given_back():
    async with working(lambda message: None) as (hub, _, hand):

        async def hand_one_more(connection, frame):
            if isinstance(frame, frames.Unsubscribe):
                await hand(delivery(9))
            await hub.accept_all(connection, frame)

        hub.answer = hand_one_more
    assert [(each.delivery_id, each.action, each.delay_ms) for each in settlements(hub)] == [("d-9", "retry", 0)]


async def test_sigterm_drains_and_the_signal_is_as_before():
    before = signal.getsignal(signal.SIGTERM)
    gate = asyncio.Event()

    async def handle(message):
        os.kill(os.getpid(), signal.SIGTERM)
        await gate.wait()

    async with fake_link_hub() as (hub, client):
        worker = client.worker("orders", handle)
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            subscribe = await hub.next_of(frames.Subscribe)
            await hub.send(frames.Deliveries(id=subscribe.id, deliveries=[delivery(1)]))
            await hub.next_of(frames.Unsubscribe)
            gate.set()
    assert [each.action for each in settlements(hub)] == ["ack"]
    assert signal.getsignal(signal.SIGTERM) is before


async def test_a_queue_that_is_refused_ends_the_worker_with_the_reason():
    async with fake_link_hub() as (hub, client):

        async def refuse(connection, frame):
            await hub.send(frames.Error(id=frame.id, problem=problem("forbidden", 403)))

        hub.answer = refuse
        with pytest.raises(HubError) as caught:
            await client.worker("orders", lambda message: None).run()
        assert caught.value.code == "forbidden"
        with pytest.raises(HubError):
            async with client.worker("orders", lambda message: None):
                await asyncio.Event().wait()


async def test_a_worker_waits_for_a_hub_that_comes_later():
    async with fake_link_hub() as (hub, client):
        await hub.stop()
        async with client.worker("orders", lambda message: None):
            await hub.start()
            await hub.next_of(frames.Subscribe)


async def test_concurrency_must_be_positive():
    async with fake_link_hub() as (_, client):
        with pytest.raises(ValueError, match="at least 1"):
            client.worker("orders", lambda message: None, concurrency=0)
        with pytest.raises(ValueError, match="choose 0 to"):
            Retry(delay_ms=-1)
