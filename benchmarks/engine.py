"""What the embedded engine does on this disk: durable appends, whole queue cycles and tail fan-out, 1 KiB each.

Beside them, in the same run on the same disk, a raw loop of write + fsync: no store that answers one caller at a time
can be faster than that, and group commit is what lets many callers share one sync.
"""

import asyncio
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from meshway.engine.embedded import EmbeddedEngine, EmbeddedSettings, open_embedded_engine
from meshway.engine.embedded.database import sync_file
from meshway.engine.ports import Ack, Durability, FromNew, KvPut, LogAppend, QueueAppend
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import NullMetrics

__all__ = ["NAME", "run"]

NAME = "engine"
Row = dict[str, object]
# One call of a caller, who is told its number.
Call = Callable[[int], Awaitable[object]]

_BODY = b"x" * 1024
_CALLERS = (1, 32, 128)
_SUBSCRIBERS = 100
# The store works as long as it is written to, so a short run flatters: the log must have been folded a few times.
_SECONDS = 4.0
_SECONDS_QUICK = 0.7


def run(quick: bool) -> list[Row]:  # noqa: FBT001 (every benchmark has this one form)
    """One row per measurement; `quick` for a look, not for a claim."""
    seconds = _SECONDS_QUICK if quick else _SECONDS
    folder = Path(tempfile.mkdtemp(prefix="meshway-bench-", dir=os.environ.get("MESHWAY_BENCH_DIR")))
    try:
        rows = [_raw_sync(folder, seconds / 2)]
        rows += _in_loop(_measure(folder, seconds))
        rows.append(_raw_sync(folder, seconds / 2))
    finally:
        shutil.rmtree(folder)
    return rows


def _in_loop(work: Awaitable[list[Row]]) -> list[Row]:
    async def main() -> list[Row]:
        return await work

    if sys.platform == "win32":
        return asyncio.run(main())
    # The hub's own loop; the import stands here because Windows has none.
    from uvloop import new_event_loop  # noqa: PLC0415 (not on every platform)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main())


def _raw_sync(folder: Path, seconds: float) -> Row:
    times: list[float] = []
    file_descriptor = os.open(folder / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    stop = time.perf_counter() + seconds
    try:
        while (begun := time.perf_counter()) < stop:
            os.write(file_descriptor, _BODY)
            sync_file(file_descriptor)
            times.append(time.perf_counter() - begun)
    finally:
        os.close(file_descriptor)
    return _row("raw write + fsync", 1, len(times), sum(times), times)


async def _measure(folder: Path, seconds: float) -> list[Row]:
    engine = await open_embedded_engine(
        folder / "data", settings=EmbeddedSettings(), clock=SystemClock(), metrics=NullMetrics()
    )
    ids = map(str, itertools.count(1_000_000_000_000))
    rows: list[Row] = []
    try:
        for what, call in _calls(engine, ids).items():
            rows += [await _callers(what, callers, seconds, call) for callers in _CALLERS]
            await engine.queue_admin.purge("bench")
        rows.append(await _callers("lazy owner record, 250 B", 32, seconds, _owner_record(engine, ids)))
        rows.append(await _fan_out(engine, ids, seconds))
    finally:
        await engine.close()
    return rows


def _calls(engine: EmbeddedEngine, ids: Iterator[str]) -> dict[str, Call]:
    return {
        "durable append, one subject": _append_one(engine, ids),
        "durable append, own subjects": _append_own(engine, ids),
        "enqueue": _enqueue(engine, ids),
        "enqueue + lease + ack": _cycle(engine, ids),
    }


def _append_one(engine: EmbeddedEngine, ids: Iterator[str]) -> Call:
    return lambda _caller: engine.log.append([LogAppend(subject="bench.one", message_id=next(ids), data=_BODY)])


def _append_own(engine: EmbeddedEngine, ids: Iterator[str]) -> Call:
    return lambda caller: engine.log.append(
        [LogAppend(subject=f"bench.own.{caller}", message_id=next(ids), data=_BODY)]
    )


def _enqueue(engine: EmbeddedEngine, ids: Iterator[str]) -> Call:
    return lambda _caller: engine.queue.append([QueueAppend(queue="bench", message_id=next(ids), data=_BODY)])


def _cycle(engine: EmbeddedEngine, ids: Iterator[str]) -> Call:
    async def cycle(_caller: int) -> None:
        await engine.queue.append([QueueAppend(queue="bench", message_id=next(ids), data=_BODY)])
        leases = await engine.queue.lease("bench", count=1, wait_ms=5_000)
        await engine.queue.settle([Ack(delivery_id=lease.delivery_id) for lease in leases])

    return cycle


def _owner_record(engine: EmbeddedEngine, ids: Iterator[str]) -> Call:
    return lambda _caller: engine.key_value.write(
        [KvPut(key=f"tasks.echo.{next(ids)[::-1]}", value=_BODY[:250], durability=Durability.LAZY)]
    )


async def _callers(what: str, callers: int, seconds: float, call: Call) -> Row:
    times: list[float] = []
    begun = time.perf_counter()
    stop = begun + seconds

    async def repeat(caller: int) -> None:
        while (started := time.perf_counter()) < stop:
            await call(caller)
            times.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for caller in range(callers):
            group.create_task(repeat(caller))
    return _row(what, callers, len(times), time.perf_counter() - begun, times)


async def _fan_out(engine: EmbeddedEngine, ids: Iterator[str], seconds: float) -> Row:
    """Entries delivered per second to all subscribers, and how long after its append an entry arrived."""
    sent: dict[int, float] = {}
    times: list[float] = []
    ready = asyncio.Semaphore(0)
    stop = asyncio.Event()

    async def listen() -> None:
        async with engine.log.tail("bench.fan", FromNew()) as entries:
            ready.release()
            async for entry in entries:
                if entry.data == b"stop":
                    return
                times.append(time.perf_counter() - sent[entry.sequence])

    async def write() -> None:
        for _ in range(_SUBSCRIBERS):
            await ready.acquire()
        sequence = 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            sequence += 1
            sent[sequence] = time.perf_counter()
            await engine.log.append([LogAppend(subject="bench.fan", message_id=next(ids), data=_BODY)])
        await engine.log.append([LogAppend(subject="bench.fan", message_id=next(ids), data=b"stop")])
        stop.set()

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_SUBSCRIBERS):
            group.create_task(listen())
        group.create_task(write())
    return _row("tail fan-out, entries delivered", _SUBSCRIBERS, len(times), time.perf_counter() - begun, times)


def _row(what: str, callers: int, count: int, seconds: float, times: Sequence[float]) -> Row:
    ordered = sorted(times) or [0.0]
    return {
        "what": what,
        "callers": callers,
        "per second": round(count / seconds),
        "p50 ms": round(ordered[len(ordered) // 2] * 1000, 3),
        "p99 ms": round(ordered[len(ordered) * 99 // 100] * 1000, 3),
    }
