"""A data directory with some of everything, filled through the ports, and what must be found of it elsewhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from meshway.engine.embedded import EmbeddedEngine, EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import (
    Enqueued,
    KvCreate,
    KvDelete,
    KvPut,
    LogAppend,
    LogTrim,
    Priority,
    QueueAppend,
    QueueSettings,
    ToDeadLetters,
    ToRetry,
)
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import NullMetrics

__all__ = ["BLOB", "fill", "now_ms", "opened_directory"]

BLOB = bytes(range(256)) * 4_000
_HOUR_MS = 3_600_000


def now_ms() -> int:
    return SystemClock().now_ms()


@asynccontextmanager
async def opened_directory(folder: Path) -> AsyncIterator[EmbeddedEngine]:
    engine = await open_embedded_engine(folder, settings=EmbeddedSettings(), clock=SystemClock(), metrics=NullMetrics())
    try:
        yield engine
    finally:
        await engine.close()


async def fill(engine: EmbeddedEngine) -> None:
    await _fill_keys(engine)
    await _fill_log(engine)
    await _fill_queues(engine)
    await engine.blobs.put(_chunks(BLOB))
    await engine.blobs.put(_chunks(b"for an hour"), ttl_ms=_HOUR_MS)
    await engine.blobs.put(_chunks(b""))


async def _fill_keys(engine: EmbeddedEngine) -> None:
    await engine.key_value.write(
        [
            KvPut(key="agents.echo", value=b"card"),
            KvPut(key="agents.echo", value=b"newer card"),
            KvCreate(key="agents.shout", value=b""),
            KvCreate(key="agents.gone", value=b"x"),
            KvDelete(key="agents.gone"),
            KvPut(key="leases.one", value=b"an hour", ttl_ms=_HOUR_MS),
            KvPut(key="leases.short", value=b"soon over", ttl_ms=1_000),
        ]
    )


async def _fill_log(engine: EmbeddedEngine) -> None:
    entries = [
        LogAppend(subject=subject, message_id=f"{subject}-{number}", data=b"%d" % number, headers={"n": f"ü{number}"})
        for number in range(1, 21)
        for subject in ("task.a", "task.b", "stream.orders", "stream.empty")
    ]
    await engine.log.append(entries)
    await engine.log.trim([LogTrim(subject="task.b", before_sequence=8), LogTrim(subject="stream.empty", keep_count=0)])
    # So that a time between two entries can be asked for.
    await asyncio.sleep(0.02)
    await engine.log.append([LogAppend(subject="task.a", message_id="last", data=b"last")])


async def _fill_queues(engine: EmbeddedEngine) -> None:
    admin, queue = engine.queue_admin, engine.queue
    await admin.configure("work", QueueSettings(lease_ms=300, dedupe_window_ms=_HOUR_MS, bytes_max=1_000_000))
    await admin.configure("pairs", QueueSettings(ordered=True))
    await admin.configure("held", QueueSettings(lease_ms=1_500))
    # Three attempts of the first, which dies; two of the second, which is tried again; one of the third, which is held.
    await queue.append([_message("work", name) for name in ("dies", "again")])
    (dies, again) = await queue.lease("work", count=2)
    await queue.settle([ToRetry(delivery_id=each.delivery_id, visible_at_ms=0, reason="one") for each in (dies, again)])
    (dies, again) = sorted(await queue.lease("work", count=2), key=lambda each: each.message.message_id != "dies")
    await queue.settle(
        [
            ToDeadLetters(delivery_id=dies.delivery_id, reason="broken"),
            ToRetry(delivery_id=again.delivery_id, visible_at_ms=now_ms() + 1_500, reason="two"),
        ]
    )
    outcomes = await queue.append(
        [
            _message("work", "plain", headers={"Content-Type": "text/ünicode"}),
            _message("work", "urgent", priority=Priority.URGENT),
            _message("work", "later", deliver_at_ms=now_ms() + 1_500),
            _message("work", "much-later", deliver_at_ms=now_ms() + _HOUR_MS),
            _message("work", "ends", expires_at_ms=now_ms() + _HOUR_MS),
            _message("work", "once", dedupe_id="the one"),
            _message("pairs", "k1", ordering_key="k"),
            _message("pairs", "k2", ordering_key="k"),
            _message("pairs", "k3", ordering_key="k"),
            _message("held", "kept"),
        ]
    )
    assert outcomes == [Enqueued(duplicate=False)] * 10
    (k1,) = await queue.lease("pairs", count=2)
    await queue.settle([ToRetry(delivery_id=k1.delivery_id, visible_at_ms=now_ms() + _HOUR_MS, reason="busy")])
    assert len(await queue.lease("held", count=1)) == 1


def _message(
    queue: str,
    name: str,
    *,
    headers: dict[str, str] | None = None,
    priority: Priority = Priority.NORMAL,
    deliver_at_ms: int | None = None,
    expires_at_ms: int | None = None,
    dedupe_id: str | None = None,
    ordering_key: str | None = None,
) -> QueueAppend:
    return QueueAppend(
        queue=queue,
        message_id=name,
        data=name.encode(),
        headers=headers or {},
        priority=priority,
        deliver_at_ms=deliver_at_ms,
        expires_at_ms=expires_at_ms,
        dedupe_id=dedupe_id,
        ordering_key=ordering_key,
    )


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), 100_000):
        yield data[begin : begin + 100_000]
