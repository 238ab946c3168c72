"""A hub whose NATS server is parted from the others goes to one that is not; elections move nobody."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from meshway.engine.nats.engine import NatsEngine
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import KvPut, KvWritten
from meshway.kernel.errors import EngineUnavailable
from meshway.observability.prometheus import PrometheusMetrics
from support.nats_engine import nats_engine
from support.nats_process import running_cluster
from support.parted_cluster import PartedCluster, parted_cluster

# Elections take as long as they take.
pytestmark = pytest.mark.soak

_LEFT = "meshway_engine_nats_servers_left_total"


def _value(metrics: PrometheusMetrics, sample: str) -> float:
    lines = dict(line.rsplit(" ", 1) for line in metrics.render()[0].decode().splitlines() if not line.startswith("#"))
    return float(lines[sample])


async def _is_written(engine: NatsEngine) -> bool:
    try:
        (outcome,) = await engine.key_value.write([KvPut(key="a", value=b"")])
    except EngineUnavailable:
        return False
    return isinstance(outcome, KvWritten)


async def _until(question: Callable[[], Awaitable[bool]], *, seconds: float) -> float:
    """How long it took."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        answer = await question()
        while not answer:
            await asyncio.sleep(0.05)
            answer = await question()
    return time.monotonic() - began


def _server_of(engine: NatsEngine) -> str:
    return engine._link.server_info.name


async def _leader_of(engine: NatsEngine, stream: str) -> str:
    return (await engine._jetstream.api(f"STREAM.INFO.{stream}")).cluster.leader


async def _node(cluster: PartedCluster, *, leads: bool) -> str:
    """One that leads the stream of the keys, or one that does not."""
    async with nats_engine(NatsSettings(servers=(cluster.nodes["n1"].url,))) as engine:
        await _until(lambda: _is_written(engine), seconds=30)
        leader = await _leader_of(engine, "MW_KV")
    return leader if leads else next(name for name in cluster.nodes if name != leader)


# Where the parted server led, the others elect a leader first.
@pytest.mark.parametrize(("leads", "within_s"), [(False, 8), (True, 15)])
async def test_a_hub_on_a_parted_server_is_served_by_another_while_the_partition_lasts(
    tmp_path: Path, leads: bool, within_s: float
) -> None:
    metrics = PrometheusMetrics()
    with parted_cluster(tmp_path) as cluster:
        name = await _node(cluster, leads=leads)
        # The others are learned from the one.
        settings = NatsSettings(servers=(cluster.nodes[name].url,))
        async with nats_engine(settings, metrics=metrics) as engine:
            await _until(lambda: _is_written(engine), seconds=30)
            assert _server_of(engine) == name
            await asyncio.to_thread(cluster.part, name)
            took_s = await _until(lambda: _is_written(engine), seconds=30)
            assert took_s < within_s
            assert _server_of(engine) != name
            assert _value(metrics, _LEFT) == 1.0
            await asyncio.to_thread(cluster.mend)
            await _until(lambda: _is_written(engine), seconds=30)
            assert _value(metrics, _LEFT) == 1.0


@pytest.mark.parametrize(("leads", "within_s"), [(False, 12), (True, 30)])
async def test_an_idle_hub_leaves_a_parted_server_too(tmp_path: Path, leads: bool, within_s: float) -> None:
    with parted_cluster(tmp_path) as cluster:
        name = await _node(cluster, leads=leads)
        async with nats_engine(NatsSettings(servers=(cluster.nodes[name].url,))) as engine:
            await _until(lambda: _is_written(engine), seconds=30)
            await asyncio.to_thread(cluster.part, name)

            async def has_left() -> bool:
                return engine._link.is_connected and _server_of(engine) != name

            took_s = await _until(has_left, seconds=40)
            assert took_s < within_s
            assert await _is_written(engine)


async def test_a_hub_that_starts_at_a_parted_server_begins_its_work_at_another(tmp_path: Path) -> None:
    with parted_cluster(tmp_path) as cluster:
        name = await _node(cluster, leads=False)
        await asyncio.to_thread(cluster.part, name)
        async with nats_engine(NatsSettings(servers=(cluster.nodes[name].url,))) as engine:
            assert await _is_written(engine)
            assert _server_of(engine) != name


async def test_a_hub_that_knows_one_server_stays(tmp_path: Path) -> None:
    with parted_cluster(tmp_path) as cluster:
        settings = NatsSettings(servers=(cluster.nodes["n1"].url,), request_timeout_ms=1_000)
        async with nats_engine(settings) as engine:
            await _until(lambda: _is_written(engine), seconds=30)
            engine._link._client._server_pool = [engine._link._client._current_server]
            await asyncio.to_thread(cluster.part, "n1")
            began = time.monotonic()
            while time.monotonic() - began < 8:
                await _is_written(engine)
            assert _server_of(engine) == "n1"
            assert engine._link.is_connected


async def test_an_election_moves_nobody(tmp_path: Path) -> None:
    metrics = PrometheusMetrics()
    with running_cluster(tmp_path) as servers:
        settings = NatsSettings(servers=tuple(server.url for server in servers), request_timeout_ms=1_000)
        async with nats_engine(settings, metrics=metrics) as engine:
            await _until(lambda: _is_written(engine), seconds=30)
            for _ in range(2):
                leader = await _leader_of(engine, "MW_KV")
                if leader == _server_of(engine):
                    # To another one, which is there.
                    await engine._link.go_to(engine._link.other_servers()[0])
                    await _until(lambda: _is_written(engine), seconds=30)
                before = _server_of(engine)
                assert before != leader
                server = servers[int(leader[1:]) - 1]
                server.kill()
                await _until(lambda: _is_written(engine), seconds=30)
                assert _server_of(engine) == before
                await asyncio.to_thread(server.start)
                await _until(lambda: _is_written(engine), seconds=30)
                await asyncio.sleep(5)
            assert _value(metrics, _LEFT) == 0.0
