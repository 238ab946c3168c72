"""What can go wrong with the files of the embedded engine, and what a person is then told.

Disk full is made with a file size limit of the process (RLIMIT_FSIZE): the same failing write() that a full disk or a
quota gives, without needing root for a small file system. A failing fsync cannot be made that way; it is put into the
`sync` argument of `open_embedded_engine`, the one place through which every sync of an acknowledged write goes.
"""

import asyncio
import errno
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from meshway.engine.embedded import EmbeddedEngine, EmbeddedSettings, hold_data_dir, open_embedded_engine
from meshway.engine.embedded.database import is_disk_full, sync_file
from meshway.engine.ports import Appended, Durability, FromSequence, KvPut, LogAppend, QueueAppend
from meshway.kernel.clock import SystemClock
from meshway.kernel.errors import DataDirLocked, EngineUnavailable, SchemaTooNew, StorageFull, StoreCorrupt
from meshway.kernel.metrics import NullMetrics


@asynccontextmanager
async def _engine(
    folder: Path, *, sync: Callable[[int], None] = sync_file, settings: EmbeddedSettings | None = None
) -> AsyncIterator[EmbeddedEngine]:
    engine = await open_embedded_engine(
        folder, settings=settings or EmbeddedSettings(), clock=SystemClock(), metrics=NullMetrics(), sync=sync
    )
    try:
        yield engine
    finally:
        await engine.close()


async def _append(engine: EmbeddedEngine, *message_ids: str, size: int = 100) -> None:
    outcomes = await engine.log.append(
        [LogAppend(subject="s.a", message_id=message_id, data=b"x" * size) for message_id in message_ids]
    )
    assert all(isinstance(outcome, Appended) for outcome in outcomes)


async def _ids(engine: EmbeddedEngine) -> list[str]:
    return [entry.message_id for entry in await engine.log.read("s.a", FromSequence(1), limit=10_000)]


# --- Second hub --------------------------------------------------------------------------------------------------


async def test_a_second_hub_on_the_directory_is_told_who_holds_it(tmp_path: Path) -> None:
    async with _engine(tmp_path):
        with pytest.raises(DataDirLocked) as refused:
            async with _engine(tmp_path):
                raise AssertionError("opened")
        assert str(os.getpid()) in refused.value.detail
        assert str(tmp_path) in refused.value.detail
        assert json.loads((tmp_path / "hub.lock").read_bytes())["pid"] == os.getpid()
    async with _engine(tmp_path) as again:
        await _append(again, "m")


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from meshway.engine.embedded import hold_data_dir; "
        "lock = hold_data_dir(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DataDirLocked, match=f"pid {holder.pid} "):
            hold_data_dir(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    hold_data_dir(tmp_path).release()


async def test_a_directory_that_cannot_be_used_is_named_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EngineUnavailable, match=r"file.*--data"):
        async with _engine(tmp_path / "file"):
            raise AssertionError("opened")


async def test_a_directory_whose_engine_failed_to_open_is_free_again(tmp_path: Path) -> None:
    (tmp_path / "meshway.db").write_bytes(b"not a database at all" * 1_000)
    with pytest.raises(StoreCorrupt):
        async with _engine(tmp_path):
            raise AssertionError("opened")
    hold_data_dir(tmp_path).release()


# --- Damaged and foreign files -----------------------------------------------------------------------------------


async def test_a_database_from_a_newer_release_is_refused_untouched(tmp_path: Path) -> None:
    async with _engine(tmp_path) as engine:
        await _append(engine, "m")
    database = sqlite3.connect(tmp_path / "meshway.db")
    database.execute("PRAGMA user_version = 999")
    database.close()
    with pytest.raises(SchemaTooNew, match="999"):
        async with _engine(tmp_path):
            raise AssertionError("opened")
    database = sqlite3.connect(tmp_path / "meshway.db")
    assert database.execute("PRAGMA user_version").fetchone() == (999,)
    assert database.execute("SELECT count(*) FROM log_entries").fetchone() == (1,)
    database.close()


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "meshway.db")
    database.execute("PRAGMA application_id = 77")
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    with pytest.raises(StoreCorrupt, match="another program"):
        async with _engine(tmp_path):
            raise AssertionError("opened")


def _overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize("begin", [0, 4_096, 40_960])
async def test_a_damaged_database_is_refused_with_advice(tmp_path: Path, begin: int) -> None:
    async with _engine(tmp_path) as engine:
        await _append(engine, *(f"m{number}" for number in range(500)), size=500)
    _overwrite(tmp_path / "meshway.db", begin, b"\xa5" * 3_000)
    with pytest.raises(StoreCorrupt, match="backup"):
        async with _engine(tmp_path):
            raise AssertionError("opened")


def _copy_files(folder: Path, copy: Path) -> None:
    copy.mkdir()
    for name in ("meshway.db", "meshway.db-wal"):
        shutil.copy(folder / name, copy / name)


async def _copy_of_a_running_store(folder: Path, copy: Path) -> int:
    """Files as a power loss would leave them, with 30 calls of three entries each; the size of the log file."""
    async with _engine(folder) as engine:
        for number in range(30):
            await _append(engine, *(f"{number}-{part}" for part in range(3)), size=700)
        await asyncio.to_thread(_copy_files, folder, copy)
    return (copy / "meshway.db-wal").stat().st_size


async def _opens_at_a_whole_call(copy: Path) -> int:
    async with _engine(copy) as engine:
        ids = await _ids(engine)
        calls = len(ids) // 3
        assert ids == [f"{number}-{part}" for number in range(calls) for part in range(3)]
        await _append(engine, "goes on")
        assert (await _ids(engine))[-1] == "goes on"
    return calls


async def test_a_truncated_log_file_opens_at_the_last_whole_commit(tmp_path: Path) -> None:
    size = await _copy_of_a_running_store(tmp_path / "running", tmp_path / "copy")
    found = []
    for number in range(30):
        cut = tmp_path / f"cut{number}"
        shutil.copytree(tmp_path / "copy", cut)
        # Odd offsets, so that cuts fall into headers, into pages and between them.
        os.truncate(cut / "meshway.db-wal", size * number // 30 + number * 37 % 4_096)
        found.append(await _opens_at_a_whole_call(cut))
    assert found == sorted(found)
    assert found[0] < found[-1] <= 30


async def test_a_log_file_with_a_flipped_byte_opens_at_the_last_whole_commit_before_it(tmp_path: Path) -> None:
    size = await _copy_of_a_running_store(tmp_path / "running", tmp_path / "copy")
    found = []
    for number in range(8):
        flipped = tmp_path / f"flipped{number}"
        shutil.copytree(tmp_path / "copy", flipped)
        wal = flipped / "meshway.db-wal"
        offset = size * (number + 4) // 13
        _overwrite(wal, offset, bytes([wal.read_bytes()[offset] ^ 0x55]))
        found.append(await _opens_at_a_whole_call(flipped))
    assert found == sorted(found)
    assert found[-1] < 30


# --- Disk full ---------------------------------------------------------------------------------------------------


@contextmanager
def _file_size_limit(bytes_max: int) -> Iterator[Callable[[], None]]:
    """No file of this process grows beyond; the function that lifts the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, hard))
    try:
        yield lift
    finally:
        lift()


async def test_a_full_disk_refuses_writes_keeps_reading_and_recovers_without_restart(tmp_path: Path) -> None:
    kept: list[str] = []
    refused: list[str] = []
    async with _engine(tmp_path, settings=EmbeddedSettings(checkpoint_bytes=512 * 1024)) as engine:
        await engine.key_value.write([KvPut(key="k", value=b"v")])
        with _file_size_limit(3 * 1024 * 1024) as lift:
            for number in range(400):
                message_id = f"m{number}"
                (answer,) = await asyncio.gather(_append(engine, message_id, size=50_000), return_exceptions=True)
                assert answer is None or isinstance(answer, StorageFull)
                (kept if answer is None else refused).append(message_id)
                if len(refused) == 5:
                    break
            assert len(refused) == 5
            assert not (await engine.health()).writable
            with pytest.raises(StorageFull):
                await engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"x" * 5_000_000)])
            assert await _ids(engine) == kept
            assert (await engine.key_value.get(["k"]))[0] is not None
            lift()
            await _append(engine, *refused)
            assert (await engine.health()).writable
        assert await _ids(engine) == kept + refused
    async with _engine(tmp_path) as engine:
        assert await _ids(engine) == kept + refused
        (bounds,) = await engine.log.bounds(["s.a"])
        assert bounds is not None
        assert bounds.last == len(kept + refused)


async def test_when_one_call_of_a_group_does_not_fit_its_neighbours_are_kept(tmp_path: Path) -> None:
    async with _engine(tmp_path) as engine:
        with _file_size_limit(3 * 1024 * 1024):
            calls = [_append(engine, f"m{number}", size=100 if number != 5 else 8_000_000) for number in range(20)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [number for number, result in enumerate(results) if isinstance(result, StorageFull)] == [5]
            assert sorted(await _ids(engine)) == sorted(f"m{number}" for number in range(20) if number != 5)


async def test_a_blob_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    async with _engine(tmp_path) as engine:
        with _file_size_limit(3 * 1024 * 1024) as lift:
            with pytest.raises(StorageFull):
                await engine.blobs.put(chunks())
            assert list((tmp_path / "blobs" / "partial").iterdir()) == []
            lift()
            ref = await engine.blobs.put(chunks())
        assert ref.size == 10_000_000


def test_sqlites_own_word_for_a_full_disk_is_understood(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "small.db")
    database.execute("PRAGMA max_page_count = 3")
    database.execute("CREATE TABLE t (x)")
    with pytest.raises(sqlite3.OperationalError) as full:
        database.execute("INSERT INTO t VALUES (?)", (b"x" * 100_000,))
    database.close()
    assert is_disk_full(full.value, tmp_path / "small.db")


# --- Failing sync ------------------------------------------------------------------------------------------------


class FailingDisk:
    """Syncs until it is told to fail, and counts."""

    def __init__(self) -> None:
        self.fails = False
        self.syncs = 0

    def sync(self, file_descriptor: int) -> None:
        self.syncs += 1
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync_file(file_descriptor)


async def test_after_a_failed_sync_all_writes_are_refused_until_a_restart_and_reading_goes_on(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with _engine(tmp_path, sync=disk.sync) as engine:
        await _append(engine, "before")
        disk.fails = True
        with pytest.raises(EngineUnavailable, match="restart"):
            await _append(engine, "during")
        disk.fails = False
        with pytest.raises(EngineUnavailable, match="restart"):
            await _append(engine, "after")
        with pytest.raises(EngineUnavailable):
            await engine.key_value.write([KvPut(key="k", value=b"", durability=Durability.LAZY)])
        with pytest.raises(EngineUnavailable):
            await engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"")])
        health = await engine.health()
        assert not health.writable
        assert health.reason is not None
        assert "sync" in health.reason
        assert (await _ids(engine))[:1] == ["before"]
    async with _engine(tmp_path) as engine:
        assert (await _ids(engine))[0] == "before"
        await _append(engine, "restarted")
        assert (await engine.health()).writable


async def test_calls_that_wait_when_the_sync_fails_are_all_refused(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with _engine(tmp_path, sync=disk.sync) as engine:
        disk.fails = True
        results = await asyncio.gather(*(_append(engine, f"m{n}") for n in range(50)), return_exceptions=True)
        assert all(isinstance(result, EngineUnavailable) for result in results)


async def test_a_tail_never_shows_what_was_refused_because_its_sync_failed(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with _engine(tmp_path, sync=disk.sync) as engine:
        disk.fails = True
        async with engine.log.tail("s.a", FromSequence(1)) as entries:
            with pytest.raises(EngineUnavailable):
                await _append(engine, "refused")
            reading = asyncio.ensure_future(anext(entries))
            done, _pending = await asyncio.wait([reading], timeout=0.2)
            assert not done
            reading.cancel()
            await asyncio.wait([reading])


# --- What is synced, and when ------------------------------------------------------------------------------------


async def test_every_answered_write_was_synced_unless_it_may_be_lazy(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with _engine(tmp_path, sync=disk.sync, settings=EmbeddedSettings(lazy_sync_ms=60_000)) as engine:
        for number in range(10):
            before = disk.syncs
            await _append(engine, f"m{number}")
            assert disk.syncs == before + 1
            await engine.key_value.write([KvPut(key="k", value=b"", durability=Durability.LAZY)])
            assert disk.syncs == before + 1
        before = disk.syncs
        await engine.key_value.write([KvPut(key="k", value=b"", durability=Durability.LAZY)])
    assert disk.syncs == before + 1, "closing syncs what was lazy"


async def test_lazy_writes_are_synced_within_their_bound_under_a_stream_of_them(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with _engine(tmp_path, sync=disk.sync, settings=EmbeddedSettings(lazy_sync_ms=50)) as engine:
        async with asyncio.timeout(10):
            while disk.syncs < 3:
                await engine.key_value.write([KvPut(key="k", value=b"", durability=Durability.LAZY)])


async def test_a_single_lazy_write_is_synced_although_nothing_follows(tmp_path: Path) -> None:
    synced = asyncio.Event()
    loop = asyncio.get_running_loop()

    def sync(file_descriptor: int) -> None:
        loop.call_soon_threadsafe(synced.set)
        sync_file(file_descriptor)

    async with _engine(tmp_path, sync=sync, settings=EmbeddedSettings(lazy_sync_ms=50)) as engine:
        await engine.key_value.write([KvPut(key="k", value=b"", durability=Durability.LAZY)])
        async with asyncio.timeout(5):
            await synced.wait()


async def test_an_idle_engine_leaves_the_disk_alone(tmp_path: Path) -> None:
    disk = FailingDisk()
    settings = EmbeddedSettings(lazy_sync_ms=10, sweep_interval_ms=50, due_check_ms=5)
    async with _engine(tmp_path, sync=disk.sync, settings=settings) as engine:
        await engine.key_value.write([KvPut(key="k", value=b"", ttl_ms=3_600_000)])
        await engine.queue.append([QueueAppend(queue="q", message_id="m", data=b"", deliver_at_ms=1 << 45)])
        before = disk.syncs
        for _ in range(5):
            await engine.sweep()
            assert list(await engine.queue.lease("q", count=1, wait_ms=20)) == []
        assert disk.syncs == before


async def test_a_repetition_is_answered_as_durable_only_when_the_first_is(tmp_path: Path) -> None:
    disk = FailingDisk()
    lazy = LogAppend(subject="s.a", message_id="m", data=b"", durability=Durability.LAZY)
    async with _engine(tmp_path, sync=disk.sync, settings=EmbeddedSettings(lazy_sync_ms=60_000)) as engine:
        await engine.log.append([lazy])
        before = disk.syncs
        (again,) = await engine.log.append([LogAppend(subject="s.a", message_id="m", data=b"")])
        assert isinstance(again, Appended)
        assert (again.duplicate, disk.syncs) == (True, before + 1)


async def test_the_log_file_does_not_grow_without_bound_under_constant_writing(tmp_path: Path) -> None:
    bound = 1024 * 1024
    async with _engine(tmp_path, settings=EmbeddedSettings(checkpoint_bytes=bound)) as engine:
        for number in range(150):
            await asyncio.gather(
                *(_append(engine, f"{number}-{part}", size=4_000) for part in range(20)), engine.log.bounds(["s.a"])
            )
        written = 150 * 20 * 4_000
        assert (tmp_path / "meshway.db-wal").stat().st_size < 6 * bound < written
