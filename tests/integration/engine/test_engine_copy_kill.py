"""A copy that is killed, and one whose NATS server dies, goes on where it was: nothing is lost, nothing is doubled."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshway.assembly.engine_copy import CopyPlan, copy_to_nats
from meshway.engine.embedded import EmbeddedEngine
from meshway.engine.nats.engine import NatsEngine, open_nats_engine
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.link import Link
from meshway.engine.nats.measures import Measures
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import FromSequence, KvPut, LogAppend, LogTrim, QueueAppend
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import NullMetrics
from support.copied_hub import opened_directory
from support.nats_process import running_cluster, running_nats

_KEYS, _SUBJECTS, _ENTRIES, _MESSAGES, _BLOBS = 1_000, 20, 2_000, 1_000, 12
_BLOB_BYTES = 600_000


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    async with opened_directory(tmp_path / "hub") as engine:
        await _fill(engine)
    return tmp_path / "hub"


async def _fill(engine: EmbeddedEngine) -> None:
    await engine.key_value.write([KvPut(key=f"k.{number:05}", value=b"v%d" % number) for number in range(_KEYS)])
    await engine.log.append(
        [
            LogAppend(subject=f"task.{number % _SUBJECTS}", message_id=f"m{number}", data=b"%d" % number)
            for number in range(_ENTRIES)
        ]
    )
    await engine.queue.append(
        [QueueAppend(queue="work", message_id=f"q{number}", data=b"%d" % number) for number in range(_MESSAGES)]
    )
    for number in range(_BLOBS):
        await engine.blobs.put(_content(number))


async def _content(number: int) -> AsyncIterator[bytes]:
    yield b"%04d" % number * (_BLOB_BYTES // 4)


@asynccontextmanager
async def _jetstream(settings: NatsSettings) -> AsyncIterator[JetStream]:
    link = await Link.open(settings, Measures(NullMetrics()))
    try:
        yield JetStream(link, settings)
    finally:
        await link.close()


async def _until_stored(jetstream: JetStream, stream: str, more_than: int) -> None:
    """Raises: TimeoutError, with which the test fails."""
    async with asyncio.timeout(20):
        while True:
            try:
                if (await jetstream.api(f"STREAM.INFO.{stream}")).state.messages > more_than:
                    return
            except Exception:  # noqa: BLE001  the stream is not made yet, or the server is starting
                await asyncio.sleep(0.01)


def _start(directory: Path, url: str, *options: str) -> "subprocess.Popen[bytes]":
    meshway = Path(sys.executable).parent / "meshway"
    command = [str(meshway), "engine", "copy", "--from", str(directory), "--to", url, "--json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=directory)


async def _ended(process: "subprocess.Popen[bytes]") -> tuple[int, bytes, bytes]:
    out, err = await asyncio.to_thread(process.communicate, timeout=30)
    return process.returncode, out, err


async def _check(settings: NatsSettings) -> None:
    """By the ports of a hub that starts there."""
    engine: NatsEngine = await open_nats_engine(settings, clock=SystemClock(), metrics=NullMetrics())
    try:
        for number in range(_SUBJECTS):
            entries = await engine.log.read(f"task.{number}", FromSequence(1))
            assert [int(entry.data) for entry in entries] == list(range(number, _ENTRIES, _SUBJECTS))
            assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
            # By the sizes that are summed up along a subject.
            kept = sum(len(entry.data) + len(entry.message_id) for entry in entries[-10:])
            assert await engine.log.trim([LogTrim(subject=f"task.{number}", keep_bytes=kept)]) == [len(entries) - 10]
        names: list[str] = []
        after: str | None = None
        while page := await engine.queue.peek("work", after=after, limit=1_000):
            names += [message.message_id for message in page]
            after = page[-1].position
        assert names == [f"q{number}" for number in range(_MESSAGES)]
        assert len((await engine.key_value.page("k", limit=1_000)).entries) == 1_000
    finally:
        await engine.close()


async def test_a_copy_that_is_killed_goes_on_where_it_was(directory: Path, tmp_path: Path) -> None:
    with running_nats(tmp_path / "nats") as server:
        settings = NatsSettings(servers=(server.url,))
        async with _jetstream(settings) as jetstream:
            moments = [("MW_KV", 300), ("MW_LOG", 900), ("MW_QUEUE", 100), ("MW_BLOB", 4)]
            for stream, stored in moments:
                process = _start(directory, server.url)
                await _until_stored(jetstream, stream, stored)
                process.kill()
                await _ended(process)
        code, out, err = await _ended(_start(directory, server.url))
        assert code == 0, err
        outcome = json.loads(out)
        assert (outcome["complete"], outcome["was_complete"], outcome["differences"]) == (True, False, 0)
        assert outcome["copied"] == {
            "keys": _KEYS,
            "log entries": _ENTRIES,
            "ends of trimmed logs": 0,
            "queue settings": 0,
            "queued messages": _MESSAGES,
            "dead letters": 0,
            "dedupe ids": 0,
            "blobs": _BLOBS,
        }
        await _check(settings)


async def test_a_copy_waits_for_a_server_that_was_killed(directory: Path, tmp_path: Path) -> None:
    with running_nats(tmp_path / "nats") as server:
        settings = NatsSettings(servers=(server.url,))
        async with _jetstream(settings) as jetstream, asyncio.TaskGroup() as group:
            copy = group.create_task(
                copy_to_nats(CopyPlan(data_dir=directory, nats=settings), clock=SystemClock(), progress=lambda *_: None)
            )
            for stream, stored in (("MW_KV", 500), ("MW_LOG", 900), ("MW_QUEUE", 700), ("MW_BLOB", 10)):
                await _until_stored(jetstream, stream, stored)
                server.kill()
                server.start()
            outcome = await copy
        assert not outcome.differences
        await _check(settings)


@pytest.mark.soak
async def test_a_copy_goes_on_while_servers_of_a_cluster_die_one_after_the_other(
    directory: Path, tmp_path: Path
) -> None:
    with running_cluster(tmp_path / "nats") as servers:
        settings = NatsSettings(servers=tuple(server.url for server in servers))
        async with asyncio.TaskGroup() as group:
            copy = group.create_task(
                copy_to_nats(CopyPlan(data_dir=directory, nats=settings), clock=SystemClock(), progress=lambda *_: None)
            )
            async with _jetstream(settings) as jetstream:
                moments = (("MW_KV", 300), ("MW_LOG", 100), ("MW_LOG", 900), ("MW_QUEUE", 100), ("MW_BLOB", 4))
                for number, (stream, stored) in enumerate(moments):
                    await _until_stored(jetstream, stream, stored)
                    servers[number % 3].kill()
                    await _until_stored(jetstream, stream, stored)
                    servers[number % 3].start()
            outcome = await copy
        assert not outcome.differences
        await _check(settings)
