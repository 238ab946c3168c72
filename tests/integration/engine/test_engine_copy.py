"""Everything of a data directory is on NATS afterwards, and goes on there: numbers, attempts, leases, times to live."""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshway.assembly.engine_copy import CopyOutcome, CopyPlan, copy_to_nats, verify_copy
from meshway.engine.embedded import hold_data_dir
from meshway.engine.nats.engine import NatsEngine, open_nats_engine
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.link import Ask, Link
from meshway.engine.nats.measures import Measures
from meshway.engine.nats.queue_messages import HEADER
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import (
    Ack,
    Appended,
    FromLast,
    FromPosition,
    FromSequence,
    FromTime,
    KvConflict,
    KvPut,
    KvUpdate,
    KvWritten,
    Lease,
    LogAppend,
    LogEntry,
    LogTrim,
    QueueAppend,
    QueueSettings,
    SettleOutcome,
    ToRetry,
)
from meshway.engine.ports.outcomes import Undecided
from meshway.kernel.clock import SystemClock
from meshway.kernel.errors import Conflict, DataDirLocked, EngineUnavailable, PayloadTooLarge, StoreCorrupt
from meshway.kernel.metrics import NullMetrics
from support.copied_hub import BLOB, fill, now_ms, opened_directory
from support.nats_process import NatsProcess, running_nats


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    with running_nats(tmp_path_factory.mktemp("nats")) as process:
        yield process


@pytest.fixture
def settings(server: NatsProcess, tmp_path: Path) -> NatsSettings:
    """A mesh of its own on the server."""
    prefix = f"t{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"
    return NatsSettings(servers=(server.url,), prefix=prefix, start_timeout_ms=5_000)


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    async with opened_directory(tmp_path / "hub") as engine:
        await fill(engine)
    return tmp_path / "hub"


@asynccontextmanager
async def _hub(settings: NatsSettings) -> AsyncIterator[NatsEngine]:
    engine = await open_nats_engine(settings, clock=SystemClock(), metrics=NullMetrics())
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def _jetstream(settings: NatsSettings) -> AsyncIterator[JetStream]:
    link = await Link.open(settings, Measures(NullMetrics()))
    try:
        yield JetStream(link, settings)
    finally:
        await link.close()


async def _copy(directory: Path, settings: NatsSettings) -> CopyOutcome:
    return await copy_to_nats(
        CopyPlan(data_dir=directory, nats=settings), clock=SystemClock(), progress=lambda *_: None
    )


async def _verify(directory: Path, settings: NatsSettings) -> Sequence[str]:
    """Names of groups that differ."""
    outcome = await verify_copy(
        CopyPlan(data_dir=directory, nats=settings), clock=SystemClock(), progress=lambda *_: None
    )
    return [group.name for group in outcome.differences]


async def _entries(directory: Path) -> dict[str, Sequence[LogEntry]]:
    async with opened_directory(directory) as engine:
        return {name: await engine.log.read(name, FromSequence(1)) for name in await engine.log.subjects(">")}


async def test_keys_go_on_with_new_revisions_that_no_old_one_equals(directory: Path, settings: NatsSettings) -> None:
    async with opened_directory(directory) as source:
        (old,) = await source.key_value.get(["agents.echo"])
    assert old is not None
    assert not (await _copy(directory, settings)).differences
    async with _hub(settings) as hub:
        page = await hub.key_value.page("")
        assert [(entry.key, entry.value) for entry in page.entries if entry.key != "leases.short"] == [
            ("agents.echo", b"newer card"),
            ("agents.shout", b""),
            ("leases.one", b"an hour"),
        ]
        (current,) = await hub.key_value.get(["agents.echo"])
        assert current is not None
        assert current.revision > old.revision
        stale = KvUpdate(key="agents.echo", value=b"stale", revision=old.revision)
        fresh = KvUpdate(key="agents.echo", value=b"fresh", revision=current.revision)
        refused, written = await hub.key_value.write([stale, fresh])
        assert isinstance(refused, KvConflict)
        assert isinstance(written, KvWritten)
        async with hub.key_value.watch("leases.short") as events, asyncio.timeout(5):
            async for event in events:
                if (await hub.key_value.get(["leases.short"])) == [None]:
                    break
                assert event is not None
        async with _jetstream(settings) as jetstream:
            stored = await jetstream.last_of(Layout(settings).kv_stream, Layout(settings).kv + "leases.one")
        assert stored is not None
        assert 3_500 < int(stored.headers["Nats-TTL"].removesuffix("s")) <= 3_600


async def test_the_log_keeps_numbers_positions_and_times_and_goes_on(directory: Path, settings: NatsSettings) -> None:
    before = await _entries(directory)
    await _copy(directory, settings)
    async with _hub(settings) as hub:
        assert await hub.log.subjects(">") == sorted(before)
        for subject, entries in before.items():
            assert await hub.log.read(subject, FromSequence(1)) == entries
            assert await hub.log.read(subject, FromSequence(15)) == [each for each in entries if each.sequence >= 15]
            assert await hub.log.read(subject, FromLast(3)) == entries[-3:]
            assert await hub.log.read(subject, FromPosition(entries[4].position)) == entries[5:]
            assert await hub.log.read(subject, FromTime(entries[0].timestamp_ms)) == entries
        last = before["task.a"][-1]
        assert await hub.log.read("task.a", FromTime(last.timestamp_ms)) == [last]
        async with hub.log.tail("task.*", FromPosition(before["task.b"][2].position)) as tail:
            following = [each for name in ("task.a", "task.b") for each in before[name]]
            following = sorted(each.position for each in following if each.position > before["task.b"][2].position)
            read: list[LogEntry] = []
            async with asyncio.timeout(5):
                while len(read) < len(following):
                    read += await tail.take(1_000)
            assert [each.position for each in read] == following
            (appended, again) = await hub.log.append(
                [
                    LogAppend(subject="task.b", message_id="new", data=b"new", expected_last=20),
                    # What a client repeats whose answer was lost before the copy.
                    LogAppend(subject="task.a", message_id="last", data=b"last"),
                ]
            )
            assert isinstance(appended, Appended)
            assert (appended.sequence, appended.duplicate) == (21, False)
            assert appended.position > last.position
            assert again == Appended(sequence=21, position=again.position, duplicate=True)  # type: ignore[union-attr]
            assert (await tail.take(10))[0].message_id == "new"
        (emptied,) = await hub.log.append([LogAppend(subject="stream.empty", message_id="x", data=b"")])
        assert isinstance(emptied, Appended)
        assert emptied.sequence == 21
        assert await hub.log.trim([LogTrim(subject="task.b", before_ms=before["task.b"][3].timestamp_ms + 1)]) != [0]
        (bounds,) = await hub.log.bounds(["task.b"])
        assert bounds is not None
        assert bounds.last == 21


async def test_workers_get_what_was_due_with_the_attempts_it_had(directory: Path, settings: NatsSettings) -> None:
    await _copy(directory, settings)
    async with _hub(settings) as hub:
        assert await hub.queue_admin.queues() == ["held", "pairs", "work"]
        assert (await hub.queue_admin.settings("work")).lease_ms == 300
        assert (await hub.queue.depth(["work"]))[0].dead == 1
        found: dict[str, Lease] = {}
        attempts: list[int] = []
        while len(found) < 6:
            (lease,) = await _leases(hub, "work", 1)
            found[lease.message.message_id] = lease
            if lease.message.message_id == "again":
                attempts.append(lease.attempt)
            else:
                assert lease.attempt == 1
                await hub.queue.settle([Ack(delivery_id=lease.delivery_id)])
        assert next(iter(found)) == "urgent"
        assert sorted(found) == ["again", "ends", "later", "once", "plain", "urgent"]
        assert found["plain"].message.headers == {"Content-Type": "text/ünicode"}
        assert now_ms() - 60_000 < found["plain"].message.enqueued_at_ms < now_ms()
        # Two were over. Nothing is heard of the third, whose lease ends.
        (again,) = await _until_named(hub, "work", "again")
        attempts.append(again.attempt)
        assert attempts == list(range(3, 3 + len(attempts)))
        assert await hub.queue.settle([ToRetry(delivery_id=again.delivery_id, visible_at_ms=0, reason="four")]) == [
            SettleOutcome.DONE
        ]
        (again,) = await _until_named(hub, "work", "again")
        assert again.attempt == attempts[-1] + 1
        assert await hub.queue.settle([Ack(delivery_id=again.delivery_id)]) == [SettleOutcome.DONE]
        # Its holder's lease is over, and nothing can be settled with it here.
        (kept,) = await _leases(hub, "held", 1)
        assert (kept.message.message_id, kept.attempt) == ("kept", 2)


async def test_dead_letters_dedupe_ids_and_order_are_kept(directory: Path, settings: NatsSettings) -> None:
    await _copy(directory, settings)
    async with _hub(settings) as hub:
        (letter,) = await hub.queue_admin.dead_letters("work")
        assert (letter.message.message_id, letter.reason) == ("dies", "broken")
        assert [(each.attempt, each.outcome, each.reason) for each in letter.attempts] == [
            (1, "retry", "one"),
            (2, "dead_letter", "broken"),
        ]
        assert await hub.queue_admin.redrive("work", ["dies"]) == [True]
        assert await hub.queue_admin.redrive("work", ["dies"]) == [False]
        (redriven,) = await _until_named(hub, "work", "dies")
        assert redriven.attempt == 1
        outcomes = await hub.queue.append(
            [
                QueueAppend(queue="work", message_id="another", data=b"", dedupe_id="the one"),
                QueueAppend(queue="work", message_id="plain", data=b"plain"),
            ]
        )
        assert [getattr(outcome, "duplicate", None) for outcome in outcomes] == [True, True]
        # In an ordered queue the order stands above the pause of the first.
        order: list[tuple[str, int]] = []
        for _ in range(3):
            (lease,) = await _leases(hub, "pairs", 1)
            order.append((lease.message.message_id, lease.attempt))
            await hub.queue.settle([Ack(delivery_id=lease.delivery_id)])
        assert order == [("k1", 2), ("k2", 1), ("k3", 1)]


async def test_blobs_are_there_with_their_time_to_live(directory: Path, settings: NatsSettings) -> None:
    await _copy(directory, settings)
    async with _hub(settings) as hub:
        for content in (BLOB, b"for an hour", b""):
            async with hub.blobs.get(hashlib.sha256(content).hexdigest()) as chunks:
                assert chunks is not None
                assert b"".join([chunk async for chunk in chunks]) == content


async def test_the_source_is_locked_and_stays_as_it_was(
    directory: Path, settings: NatsSettings, tmp_path: Path
) -> None:
    async with opened_directory(directory) as engine:
        await engine.key_value.write([KvPut(key="in.the.log", value=b"not yet in the database")])
        # As kill -9 leaves it.
        shutil.copytree(directory, tmp_path / "killed")
        with pytest.raises(DataDirLocked):
            await _copy(directory, settings)
    killed = tmp_path / "killed"
    assert (killed / "meshway.db-wal").stat().st_size
    before = _files(killed)
    assert not (await _copy(killed, settings)).differences
    assert _files(killed) == before
    async with _hub(settings) as hub:
        assert await hub.key_value.get(["in.the.log"]) != [None]
    with hold_data_dir(killed), pytest.raises(DataDirLocked):
        await _verify(killed, settings)


async def test_a_mesh_with_other_data_is_refused(directory: Path, settings: NatsSettings, tmp_path: Path) -> None:
    async with _hub(settings):
        pass
    with pytest.raises(Conflict, match="choose another `prefix`"):
        await _copy(directory, settings)
    with pytest.raises(Conflict, match="No data directory was copied"):
        await _verify(directory, settings)


async def test_a_source_that_went_on_is_refused(directory: Path, settings: NatsSettings) -> None:
    assert not (await _copy(directory, settings)).was_done
    assert (await _copy(directory, settings)).was_done
    async with opened_directory(directory) as engine:
        await engine.queue.append([QueueAppend(queue="held", message_id="more", data=b"")])
    with pytest.raises(Conflict, match="before a hub ran on it again"):
        await _copy(directory, settings)


async def test_what_was_changed_at_the_target_is_found(directory: Path, settings: NatsSettings) -> None:
    await _copy(directory, settings)
    assert await _verify(directory, settings) == []
    layout = Layout(settings)
    async with _jetstream(settings) as jetstream:
        entry = await jetstream.last_of(layout.log_stream, layout.log + "task.a")
        message = await jetstream.last_of(layout.queue_stream, f"{layout.queue}m.work.>")
        chunk = await jetstream.last_of(layout.blob_stream, f"{layout.blob}{hashlib.sha256(BLOB).hexdigest()}.*.1")
        assert entry is not None
        assert message is not None
        assert chunk is not None
        await jetstream.publish(
            [
                Ask(layout.kv + "agents.shout", b"!"),
                Ask(message.subject, message.data + b"!", {HEADER: message.headers[HEADER]}),
                Ask(chunk.subject, chunk.data[:-1] + b"!", chunk.headers),
            ]
        )
        await jetstream.api(f"STREAM.MSG.DELETE.{layout.log_stream}", {"seq": entry.seq})
    assert await _verify(directory, settings) == ["keys", "log entries: task", "queued messages: work", "blobs"]


async def test_hubs_wait_for_the_end_of_a_copy(directory: Path, settings: NatsSettings) -> None:
    name = hashlib.sha256(BLOB).hexdigest()
    _write(directory / "blobs" / name[:2] / name, BLOB[:-1] + b"!")
    with pytest.raises(StoreCorrupt, match="is damaged"):
        await _copy(directory, settings)
    with pytest.raises(EngineUnavailable, match="is not finished"):
        await open_nats_engine(settings, clock=SystemClock(), metrics=NullMetrics())
    _write(directory / "blobs" / name[:2] / name, BLOB)
    assert not (await _copy(directory, settings)).differences
    async with _hub(settings):
        pass


async def test_what_no_message_can_carry_is_said_before_anything_is_copied(
    settings: NatsSettings, tmp_path: Path
) -> None:
    async with opened_directory(tmp_path / "large") as engine:
        await engine.key_value.write([KvPut(key="large", value=b"x" * 9_000_000)])
    with pytest.raises(PayloadTooLarge, match="max_payload"):
        await _copy(tmp_path / "large", settings)


async def test_one_id_twice_within_the_window_is_no_repetition(settings: NatsSettings, tmp_path: Path) -> None:
    async with opened_directory(tmp_path / "twice") as engine:
        once = QueueAppend(queue="q", message_id="same", data=b"1", is_repeatable=False)
        await engine.queue.append([once, once])
        entry = LogAppend(subject="s", message_id="same", data=b"1", is_repeatable=False)
        assert not any(isinstance(outcome, Undecided) for outcome in await engine.log.append([entry, entry]))
    assert not (await _copy(tmp_path / "twice", settings)).differences
    async with _hub(settings) as hub:
        assert len(await _leases(hub, "q", 2)) == 2
        assert len(await hub.log.read("s", FromSequence(1))) == 2


async def test_an_empty_directory_is_copied_too(settings: NatsSettings, tmp_path: Path) -> None:
    async with opened_directory(tmp_path / "empty") as engine:
        await engine.queue_admin.configure("q", QueueSettings())
    assert not (await _copy(tmp_path / "empty", settings)).differences


async def _leases(hub: NatsEngine, queue: str, count: int) -> Sequence[Lease]:
    leases: list[Lease] = []
    async with asyncio.timeout(8):
        while len(leases) < count:
            leases += await hub.queue.lease(queue, count=count - len(leases), wait_ms=2_000)
    return leases


async def _until_named(hub: NatsEngine, queue: str, message_id: str) -> Sequence[Lease]:
    """Others are done on the way."""
    async with asyncio.timeout(8):
        while True:
            for lease in await hub.queue.lease(queue, count=1, wait_ms=2_000):
                if lease.message.message_id == message_id:
                    return [lease]
                await hub.queue.settle([Ack(delivery_id=lease.delivery_id)])


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("hub.lock", "meshway.db-shm")
    }
