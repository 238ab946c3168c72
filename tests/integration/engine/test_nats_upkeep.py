"""What operators and disks do to the streams of a hub that runs: it says so, counts it, and goes on."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from meshway.engine.nats.engine import NatsEngine
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import (
    Ack,
    FromNew,
    KvConflict,
    KvDeleted,
    KvEntry,
    KvPut,
    KvUpdate,
    KvWritten,
    LogAppend,
    LogTrim,
    QueueAppend,
    SettleOutcome,
    Undecided,
)
from meshway.kernel.errors import EngineUnavailable, StorageFull
from meshway.observability.prometheus import PrometheusMetrics
from support.nats_engine import as_operator, nats_engine, until_health
from support.nats_process import running_cluster, running_nats

_STREAMS = ("MW_KV", "MW_LOG", "MW_QUEUE", "MW_BLOB")


async def _again(call: Callable[[], Awaitable[object]]) -> None:
    """As callers do it: EngineUnavailable is the only refusal, and it ends."""
    async with asyncio.timeout(10):
        while True:
            try:
                await call()
                return
            except EngineUnavailable:
                await asyncio.sleep(0.05)


async def _append(engine: NatsEngine, message_id: str) -> None:
    async def call() -> None:
        await engine.log.append([LogAppend(subject="s.a", message_id=message_id, data=b"")])

    await _again(call)


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _is_written(engine: NatsEngine) -> bool:
    try:
        (outcome,) = await engine.key_value.write([KvPut(key="a", value=b"")])
    except EngineUnavailable:
        return False
    assert isinstance(outcome, KvWritten | Undecided)
    return isinstance(outcome, KvWritten)


def _value(metrics: PrometheusMetrics, sample: str) -> float:
    """Of a sample as it is scraped, such as `name{label="x"}`."""
    lines = dict(line.rsplit(" ", 1) for line in metrics.render()[0].decode().splitlines() if not line.startswith("#"))
    return float(lines[sample])


async def test_streams_that_an_operator_deleted_are_made_again_loudly_and_all_ports_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = PrometheusMetrics()
    with running_nats(tmp_path) as server:
        async with nats_engine(NatsSettings(servers=(server.url,)), metrics=metrics) as engine:
            await engine.key_value.write([KvPut(key="a", value=b"old")])
            await _append(engine, "old")
            await engine.queue.append([QueueAppend(queue="q", message_id="old", data=b"")])
            (held,) = await engine.queue.lease("q", count=1, wait_ms=1_000)
            for stream in _STREAMS:
                await as_operator(server.url, f"STREAM.DELETE.{stream}")
            await _again(lambda: engine.key_value.write([KvPut(key="b", value=b"new")]))
            await _append(engine, "new")
            await _again(lambda: engine.queue.append([QueueAppend(queue="q", message_id="new", data=b"")]))
            assert list(await engine.queue.settle([Ack(delivery_id=held.delivery_id)])) == [SettleOutcome.STALE]
            (lease,) = await engine.queue.lease("q", count=1, wait_ms=5_000)
            assert lease.message.message_id == "new"
            await engine.blobs.put(_chunks(b"blob"))
            assert [entry.key for entry in (await engine.key_value.page("")).entries] == ["b"]
            await until_health(engine, writable=True)
            # Another hub can settle what this one handed out before it started.
            async with nats_engine(NatsSettings(servers=(server.url,))) as other:
                assert list(await other.queue.settle([Ack(delivery_id=lease.delivery_id)])) == [SettleOutcome.DONE]
    loud = [record.__dict__["stream"] for record in caplog.records if record.levelno == logging.ERROR]
    assert sorted(loud) == sorted(_STREAMS)
    for stream in _STREAMS:
        assert _value(metrics, f'meshway_engine_nats_streams_remade_total{{stream="{stream}"}}') == 1.0


async def test_tails_and_watches_go_on_over_a_stream_that_was_made_again(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with (
            nats_engine(NatsSettings(servers=(server.url,))) as engine,
            engine.log.tail("s.a", FromNew()) as tail,
            engine.key_value.watch("") as events,
            asyncio.timeout(20),
        ):
            await _append(engine, "old")
            (first,) = await tail.take(1)
            (written,) = await engine.key_value.write([KvPut(key="a", value=b"old")])
            assert isinstance(written, KvWritten)
            while not isinstance(await anext(events), KvEntry):
                pass
            await as_operator(server.url, "STREAM.DELETE.MW_LOG")
            await as_operator(server.url, "STREAM.DELETE.MW_KV")
            await _append(engine, "new")
            (entry,) = await tail.take(1)
            assert (entry.message_id, entry.sequence) == ("new", 1)
            assert entry.position > first.position
            await _again(lambda: engine.key_value.write([KvPut(key="b", value=b"new")]))
            seen = [await anext(events), await anext(events)]
            assert {type(event): getattr(event, "key", None) for event in seen} == {KvDeleted: "a", KvEntry: "b"}
            # Nobody updates what is gone by a revision of before.
            outcomes = await engine.key_value.write([KvUpdate(key="a", value=b"x", revision=written.revision)])
            assert list(outcomes) == [KvConflict(current=None)]


async def test_a_worker_that_waits_gets_what_is_sent_after_the_queue_stream_was_made_again(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with nats_engine(NatsSettings(servers=(server.url,))) as engine, asyncio.TaskGroup() as group:
            waiting = group.create_task(engine.queue.lease("q", count=1, wait_ms=10_000))
            await asyncio.sleep(0.1)
            await as_operator(server.url, "STREAM.DELETE.MW_QUEUE")
            await _again(lambda: engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"")]))
            async with asyncio.timeout(10):
                (lease,) = await waiting
            assert lease.message.message_id == "m"


async def test_a_stream_that_cannot_be_made_again_is_unavailable_not_a_hang_and_health_says_why(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with nats_engine(NatsSettings(servers=(server.url,), request_timeout_ms=500)) as engine:
            await as_operator(server.url, "STREAM.DELETE.MW_QUEUE")
            await as_operator(server.url, "STREAM.CREATE.foreign", {"name": "foreign", "subjects": ["mw.q.other"]})
            async with asyncio.timeout(10):
                with pytest.raises(EngineUnavailable):
                    await engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"")])
                with pytest.raises(EngineUnavailable):
                    await engine.queue.lease("q", count=1, wait_ms=1_000)
            reason = await until_health(engine, writable=False)
            assert "MW_QUEUE is gone and cannot be made again" in reason
            await as_operator(server.url, "STREAM.DELETE.foreign")
            await until_health(engine, writable=True)
            await engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"")])


async def test_full_streams_refuse_with_storage_full_and_take_again_when_there_is_room(tmp_path: Path) -> None:
    data = b"x" * 40_000
    with running_nats(tmp_path) as server:
        async with nats_engine(NatsSettings(servers=(server.url,), stream_bytes_max=1_000_000)) as engine:

            async def write_all(write: Callable[[int], Awaitable[object]]) -> None:
                for number in range(100):
                    await write(number)

            async def fill(write: Callable[[int], Awaitable[object]]) -> None:
                with pytest.raises(StorageFull) as caught:
                    await write_all(write)
                assert caught.value.retry_after_ms

            await fill(lambda n: engine.key_value.write([KvPut(key=f"k{n}", value=data)]))
            await fill(lambda n: engine.log.append([LogAppend(subject="s.a", message_id=f"{n}", data=data)]))
            await fill(lambda n: engine.queue.append([QueueAppend(queue="q", message_id=f"{n}", data=data)]))
            await fill(lambda n: engine.blobs.put(_chunks(bytes([n]) * 40_000)))
            # A full store is no broken one.
            assert (await engine.health()).writable
            await engine.log.trim([LogTrim(subject="s.a", keep_count=0)])
            await _append(engine, "fits")
            await engine.queue_admin.purge("q")
            await engine.queue.append([QueueAppend(queue="q", message_id="fits", data=data)])


async def test_a_lost_connection_is_told_by_health_and_metrics_and_passes(tmp_path: Path) -> None:
    metrics = PrometheusMetrics()
    with running_nats(tmp_path) as server:
        settings = NatsSettings(servers=(server.url,), request_timeout_ms=500)
        async with nats_engine(settings, metrics=metrics) as engine:
            assert (await engine.health()).writable
            assert _value(metrics, "meshway_engine_nats_connected") == 1.0
            assert _value(metrics, "meshway_engine_nats_requests_in_flight") == 0.0
            server.kill()
            assert await until_health(engine, writable=False)
            assert _value(metrics, "meshway_engine_nats_connected") == 0.0
            assert not await _is_written(engine)
            await asyncio.to_thread(server.start)
            await until_health(engine, writable=True)
            await _append(engine, "1")
            assert _value(metrics, "meshway_engine_nats_reconnects_total") == 1.0
            assert _value(metrics, "meshway_engine_nats_unanswered_total") > 0


# Elections take as long as they take.
@pytest.mark.soak
async def test_a_lost_majority_is_told_by_health_and_passes(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as servers:
        settings = NatsSettings(servers=(servers[0].url,), request_timeout_ms=1_000)
        async with nats_engine(settings) as engine:
            for server in servers[1:]:
                server.kill()
            reason = await until_health(engine, writable=False, seconds=15)
            assert "majority of its servers" in reason
            assert not await _is_written(engine)
            for server in servers[1:]:
                await asyncio.to_thread(server.start)
            await until_health(engine, writable=True, seconds=60)
            await _append(engine, "1")
