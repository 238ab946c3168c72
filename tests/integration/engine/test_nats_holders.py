"""A message that a server hands out again before its lease is over stays with the hub that holds it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest

from meshway.engine.nats.engine import NatsEngine
from meshway.engine.nats.queue_consumers import Arrival
from meshway.engine.nats.queue_deliveries import DeliveryIds
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import Ack, Enqueued, Extend, Lease, QueueAppend, QueueSettings, SettleOutcome, ToRetry
from meshway.kernel.errors import EngineUnavailable
from support.nats_engine import nats_engine
from support.nats_process import NatsProcess, running_cluster, running_nats

_LEASE_MS = 2_000
# What a lease may seem to last longer than the server believes.
_CLOCK_MS = 20


@asynccontextmanager
async def _two_hubs(server: NatsProcess) -> AsyncIterator[tuple[NatsEngine, NatsEngine]]:
    settings = NatsSettings(servers=(server.url,))
    async with nats_engine(settings) as one, nats_engine(settings) as two:
        await one.queue_admin.configure("q", QueueSettings(lease_ms=_LEASE_MS))
        await one.queue.append([QueueAppend(queue="q", message_id="m", data=b"")])
        yield one, two


async def _lease(engine: NatsEngine, *, wait_ms: int = 5_000) -> list[Lease]:
    return list(await engine.queue.lease("q", count=1, wait_ms=wait_ms))


def _ack_subject(engine: NatsEngine, lease: Lease) -> str:
    delivery = DeliveryIds(engine.queue._secret).decode(lease.delivery_id)
    assert delivery is not None
    return delivery.ack_subject


async def _hand_out_again(server: NatsProcess, ack_subject: str) -> None:
    """What a server does that does not know of the lease."""
    client = await nats.connect(server.url)
    await client.request(ack_subject, b"-NAK", timeout=5)
    await client.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_a_message_that_is_handed_out_again_too_early_stays_with_its_holder(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            (first,) = await _lease(one)
            await _hand_out_again(server, _ack_subject(one, first))
            assert await _lease(two, wait_ms=1_000) == []
            assert list(await one.queue.settle([Ack(delivery_id=first.delivery_id)])) == [SettleOutcome.DONE]
            assert await _lease(two, wait_ms=2_000) == []


async def test_what_its_holder_did_not_settle_is_handed_out_when_its_lease_is_over(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            (first,) = await _lease(one)
            await _hand_out_again(server, _ack_subject(one, first))
            (second,) = await _lease(two)
            assert _now_ms() >= first.lease_until_ms
            # The hand-out that reached nobody does not count.
            assert second.attempt == 2
            assert list(await one.queue.settle([Ack(delivery_id=first.delivery_id)])) == [SettleOutcome.STALE]
            assert list(await two.queue.settle([Ack(delivery_id=second.delivery_id)])) == [SettleOutcome.DONE]


@pytest.mark.parametrize("extends", ["its hub", "another hub"])
async def test_an_extended_lease_counts_with_its_new_end(tmp_path: Path, extends: str) -> None:
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            (first,) = await _lease(one)
            await asyncio.sleep(_LEASE_MS / 2_000)
            by = one if extends == "its hub" else two
            until_ms = _now_ms() + _LEASE_MS
            assert list(await by.queue.settle([Extend(delivery_id=first.delivery_id)])) == [SettleOutcome.DONE]
            await _hand_out_again(server, _ack_subject(one, first))
            (second,) = await _lease(two)
            assert _now_ms() >= until_ms
            assert second.attempt == 2


async def test_a_lease_that_ran_out_is_handed_out_at_another_hub_without_much_delay(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            (first,) = await _lease(one)
            (second,) = await _lease(two)
            assert _now_ms() - first.lease_until_ms < 300
            assert second.attempt == 2


async def test_of_two_hubs_that_have_a_message_on_its_way_to_a_worker_the_later_one_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: asyncio.Queue[Arrival] = asyncio.Queue()
    goes_on = asyncio.Event()
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            await _lease(one)
            admission = one.queue.leasing.admission
            really = admission._without_done

            async def without_done(arrivals: list[Arrival]) -> list[Arrival]:
                # What a server that does not answer makes of it.
                came.put_nowait(arrivals[0])
                await goes_on.wait()
                return await really(arrivals)

            monkeypatch.setattr(admission, "_without_done", without_done)
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(_lease(one, wait_ms=_LEASE_MS + 1_000))
                arrival = await came.get()
                assert arrival.delivered == 2
                await _hand_out_again(server, arrival.message.reply)
                (lease,) = await _lease(two)
                goes_on.set()
                assert await waiting == []
            assert list(await two.queue.settle([Ack(delivery_id=lease.delivery_id)])) == [SettleOutcome.DONE]


async def test_a_hub_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            (first,) = await _lease(one)
            ack_subject = _ack_subject(one, first)
            await one.close()
            await _hand_out_again(server, ack_subject)
            began_s = time.monotonic()
            (second,) = await _lease(two)
            assert time.monotonic() - began_s < _LEASE_MS / 2_000
            assert second.attempt == 2


async def _forget_consumer(server: NatsProcess, engine: NatsEngine) -> None:
    """It is made again when it is missed, and hands everything out as if for the first time."""
    names = {engine.queue.subjects.consumer("q", lane) for lane in engine.queue.leasing._pullers["q"]._lanes}
    client = await nats.connect(server.url)
    for name in names:
        await client.request(f"$JS.API.CONSUMER.DELETE.{engine.queue.subjects.stream}.{name}", timeout=5)
    await client.close()


async def test_what_a_server_hands_out_as_if_for_the_first_time_stays_with_its_holder(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            (first,) = await _lease(one)
            assert await _lease(two, wait_ms=100) == []
            await _forget_consumer(server, two)
            (second,) = await _lease(two)
            assert _now_ms() >= first.lease_until_ms
            # No hand-out is counted twice, and none is forgotten.
            assert second.attempt == 2
            assert list(await one.queue.settle([Ack(delivery_id=first.delivery_id)])) == [SettleOutcome.STALE]
            assert list(await two.queue.settle([Ack(delivery_id=second.delivery_id)])) == [SettleOutcome.DONE]


async def test_a_silent_holder_that_comes_back_keeps_its_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hand-outs that met its silence are none, also after it gives the message back."""
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            (first,) = await _lease(one)
            assert await _lease(two, wait_ms=100) == []
            with monkeypatch.context() as silenced:
                silenced.setattr(one.queue.holders, "_link", _CutOff())
                await _forget_consumer(server, two)
                assert await _lease(two, wait_ms=900) == []
            again = ToRetry(delivery_id=first.delivery_id, visible_at_ms=0)
            assert list(await one.queue.settle([again])) == [SettleOutcome.DONE]
            (second,) = await _lease(two)
            assert second.attempt == 2


async def test_attempts_are_known_to_a_consumer_that_was_made_again(tmp_path: Path) -> None:
    """A queue that nobody works on for some minutes has none."""
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            for attempt in range(1, 3):
                (lease,) = await _lease(one)
                assert lease.attempt == attempt
                again = ToRetry(delivery_id=lease.delivery_id, visible_at_ms=0)
                assert list(await one.queue.settle([again])) == [SettleOutcome.DONE]
            await _forget_consumer(server, one)
            (lease,) = await _lease(two)
            assert lease.attempt == 3


async def test_an_attempt_elsewhere_is_asked_about_where_this_hub_had_an_earlier_one(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            (lease,) = await _lease(two)
            again = ToRetry(delivery_id=lease.delivery_id, visible_at_ms=0)
            assert list(await two.queue.settle([again])) == [SettleOutcome.DONE]
            (held,) = await _lease(one)
            assert held.attempt == 2
            assert await _lease(two, wait_ms=100) == []
            await _forget_consumer(server, two)
            (third,) = await _lease(two)
            assert _now_ms() >= held.lease_until_ms
            assert third.attempt == 3


class _CutOff:
    """Nobody hears what is said."""

    async def publish(self, subject: str, payload: bytes) -> None:
        pass

    def post(self, subject: str, payload: bytes) -> None:
        pass


async def test_what_a_hub_may_hold_that_does_not_answer_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            (first,) = await _lease(one)
            assert await _lease(two, wait_ms=100) == []

            with monkeypatch.context() as silenced:
                silenced.setattr(one.queue.holders, "_link", _CutOff())
                await _forget_consumer(server, two)
                assert await _lease(two, wait_ms=1_000) == []
            assert await _lease(two, wait_ms=400) == []
            assert list(await one.queue.settle([Ack(delivery_id=first.delivery_id)])) == [SettleOutcome.DONE]


async def test_a_lane_is_doubted_after_another_server_was_elected_and_not_after_the_first(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as servers:
        settings = NatsSettings(servers=tuple(server.url for server in servers))
        async with nats_engine(settings) as engine:
            engine.queue.consumers._deaf_until_s = -math.inf
            await _append_all(engine, [QueueAppend(queue="q", message_id="m", data=b"")])
            (lease,) = await _lease(engine)
            assert list(await engine.queue.settle([Ack(delivery_id=lease.delivery_id)])) == [SettleOutcome.DONE]
            (lane,) = engine.queue.leasing._pullers["q"]._lanes.values()
            # The first election may still be told of.
            await asyncio.sleep(1)
            assert not lane.is_doubted
            name = engine.queue.subjects.consumer("q", lane.name)
            await engine._jetstream.api(f"CONSUMER.LEADER.STEPDOWN.{engine.queue.subjects.stream}.{name}")
            async with asyncio.timeout(15):
                while not lane.is_doubted:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


async def test_what_is_new_or_was_given_back_is_handed_out_without_a_question(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _two_hubs(server) as (one, two):
            asked: list[bytes] = []
            client = await nats.connect(server.url)

            # Every hub that hears a question answers it.
            async def hear(message: nats.aio.msg.Msg) -> None:
                asked.append(message.data)

            for hub in (one, two):
                # As if they had been there, and nothing elected, for a while.
                hub.queue.consumers._deaf_until_s = -math.inf

            await client.subscribe("mw.held.*", cb=hear)
            await client.flush()
            for attempt in range(1, 4):
                (lease,) = await _lease(one if attempt % 2 else two)
                assert lease.attempt == attempt
                again = ToRetry(delivery_id=lease.delivery_id, visible_at_ms=0)
                assert list(await (one if attempt % 2 else two).queue.settle([again])) == [SettleOutcome.DONE]
            (lease,) = await _lease(two)
            assert lease.attempt == 4
            await client.flush()
            assert asked == []
            await client.close()


async def _work(engine: NatsEngine, until: dict[str, int], *, seconds: float) -> int:
    """Lease and never settle; how many of the messages were still in other hands."""
    twice = 0
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        try:
            leases = await engine.queue.lease("q", count=20, wait_ms=500)
        except EngineUnavailable:
            continue
        for lease in leases:
            message_id = lease.message.message_id
            twice += until.get(message_id, 0) > _now_ms() + _CLOCK_MS
            until[message_id] = lease.lease_until_ms
    return twice


async def _append_all(engine: NatsEngine, left: Sequence[QueueAppend]) -> None:
    """Repeated until it is decided."""
    while left:
        outcomes = await engine.queue.append(left)
        left = [message for message, outcome in zip(left, outcomes, strict=True) if not isinstance(outcome, Enqueued)]


# Elections take as long as they take.
@pytest.mark.soak
@pytest.mark.parametrize("end", [NatsProcess.stop, NatsProcess.kill], ids=["stopped", "killed"])
async def test_no_message_has_two_holders_when_the_leader_of_its_consumer_is(
    tmp_path: Path, end: Callable[[NatsProcess], None]
) -> None:
    with running_cluster(tmp_path) as servers:
        settings = NatsSettings(servers=tuple(server.url for server in servers), request_timeout_ms=10_000)
        async with nats_engine(settings) as one, nats_engine(settings) as two:
            await one.queue_admin.configure("q", QueueSettings(lease_ms=12_000))
            until: dict[str, int] = {}
            for number in range(3):
                await _append_all(
                    one, [QueueAppend(queue="q", message_id=f"{number}-{each}", data=b"") for each in range(60)]
                )
                async with asyncio.TaskGroup() as group:
                    works = [group.create_task(_work(engine, until, seconds=14)) for engine in (one, two)]
                    await asyncio.sleep(1)
                    (lane,) = one.queue.leasing._pullers["q"]._lanes
                    consumer = one.queue.subjects.consumer("q", lane)
                    info = await one._jetstream.api(f"CONSUMER.INFO.{one.queue.subjects.stream}.{consumer}")
                    leader = servers[int(info.cluster.leader.removeprefix("n")) - 1]
                    await asyncio.to_thread(end, leader)
                    await asyncio.sleep(1)
                    await asyncio.to_thread(leader.start)
                assert [work.result() for work in works] == [0, 0]
