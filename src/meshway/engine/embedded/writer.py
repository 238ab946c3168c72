"""The one thread that writes: takes all waiting calls, runs them in one transaction, syncs once, answers them together.

The loop hands calls over through a deque and gets one `call_soon_threadsafe` back per group, so a call costs no thread
hop of its own. What a store learns in a transaction it may only believe after the commit: `rolled_back` tells it to
forget.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from meshway.engine.embedded.checkpoints import Checkpoints
from meshway.engine.embedded.database import is_busy, is_disk_full, is_fatal, translate
from meshway.engine.ports import EngineHealth
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable, MeshwayError, StorageFull, TooManyInFlight
from meshway.kernel.metrics import Metrics

__all__ = ["Store", "WriteCall", "Writer", "WriterLimits"]

# Runs on the loop once the group is as durable as it has to be, before its callers go on.
Publish = Callable[[], None]

_LATENCY_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
# Disks fill slowly and are emptied by people: a caller that waits a second does not make it worse.
_FULL_RETRY_AFTER_MS = 1_000
_log = structlog.get_logger()


class WriteCall:
    """One caller's write. Subclasses carry the request and, once `finished` is done, the outcome."""

    __slots__ = ("error", "finished", "lazy", "store", "weight")

    def __init__(
        self, store: "Store", finished: "asyncio.Future[None]", *, lazy: bool = False, weight: int = 0
    ) -> None:
        self.store = store
        self.finished = finished
        self.lazy = lazy
        # About how many bytes it adds to the write-ahead log.
        self.weight = weight
        self.error: MeshwayError | None = None

    def finish(self) -> None:
        """Answer the caller; on the loop."""
        if self.finished.done():
            return
        if self.error is None:
            self.finished.set_result(None)
        else:
            self.finished.set_exception(self.error)


class Store(Protocol):
    """The writer's side of one port. All but `Publish` runs in the writer's thread."""

    def apply(self, connection: sqlite3.Connection, calls: Sequence[WriteCall], now_ms: int) -> Publish | None:
        """Do the calls inside the open transaction and put the outcomes into them."""

    def apply_alone(self, connection: sqlite3.Connection, calls: Sequence[WriteCall], now_ms: int) -> Publish | None:
        """Do the calls in one statement that is its own transaction; None, with nothing done, where that cannot be."""

    def rolled_back(self) -> None:
        """Forget what was learnt in the transaction."""


class WriterLimits(Protocol):
    """The settings the writer reads."""

    @property
    def batch_calls_max(self) -> int: ...

    @property
    def pending_calls_max(self) -> int: ...

    @property
    def lazy_sync_ms(self) -> int: ...


class _Group:
    """Calls that were committed together."""

    __slots__ = ("calls", "changed", "publishes", "started", "synced")

    def __init__(self, calls: Sequence[WriteCall]) -> None:
        self.calls = calls
        self.publishes: list[Publish] = []
        self.started = time.perf_counter()
        self.synced = False
        # Whether any row was written.
        self.changed = False


class Writer:
    """Owns the write connection from `start` to `close`. `submit` and `close` belong to the loop."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        checkpoints: Checkpoints,
        sync: Callable[[], None],
        limits: WriterLimits,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._connection = connection
        self._checkpoints = checkpoints
        self._sync = sync
        self._limits = limits
        self._clock = clock
        self._pending: deque[WriteCall] = deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._woken = False
        self._closing = False
        self._failure: str | None = None
        self._full = False
        self._unsynced_since: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="meshway-writer", daemon=True)
        latency = metrics.histogram(
            "meshway_engine_write_seconds",
            "Time from taking a group of writes to their being answered",
            ["durability"],
            buckets=_LATENCY_BUCKETS,
        )
        self._synced_seconds = latency.labels("synced")
        self._lazy_seconds = latency.labels("lazy")
        self._calls_total = metrics.counter("meshway_engine_writes_total", "Writes answered", ["outcome"])
        self._calls_done = self._calls_total.labels("done")
        self._calls_failed = self._calls_total.labels("failed")
        metrics.gauge_read_from("meshway_engine_writer_queue", "Writes waiting for the writer", self._waiting)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def new_finished(self) -> "asyncio.Future[None]":
        """For a call: what its answer completes. From the loop that is known: asking for the running one is a system
        call on Python 3.11 (getpid), and every message would make it."""
        if self._loop is None:
            raise RuntimeError("start() comes first")
        return self._loop.create_future()

    def submit(self, call: WriteCall) -> None:
        """Hand a call over; its `finished` is done later. Raises: EngineUnavailable, TooManyInFlight."""
        if self._failure is not None or self._closing:
            self.check_writable()
        if len(self._pending) >= self._limits.pending_calls_max:
            raise TooManyInFlight("the store is too far behind; try again shortly", retry_after_ms=1_000)
        self._pending.append(call)
        if not self._woken:
            self._woken = True
            self._wake.put(None)

    def check_writable(self) -> None:
        """Raises: EngineUnavailable as `submit` would."""
        if self._failure is not None or self._closing:
            raise EngineUnavailable(self._failure or "the store is closed")

    def health(self) -> EngineHealth:
        if self._failure is not None:
            return EngineHealth(writable=False, reason=self._failure)
        if self._full:
            return EngineHealth(writable=False, reason="the disk is full: free space, the next write then succeeds")
        return EngineHealth(writable=True)

    async def close(self) -> None:
        """Write and sync what was accepted, then end the thread. Idempotent."""
        self._closing = True
        self._wake.put(None)
        if self._loop is not None:
            await asyncio.to_thread(self._thread.join)

    def _waiting(self) -> float:
        return float(len(self._pending))

    # From here on: the writer's thread.

    def _run(self) -> None:
        while True:
            calls = self._take()
            if calls:
                self._write(calls)
            elif self._closing:
                break
        self._sync_lazy_writes()

    def _take(self) -> list[WriteCall]:
        if not self._pending:
            self._wait_for_calls()
        # Cleared before the deque is drained: a call that comes meanwhile is either drained or wakes us again.
        self._woken = False
        count = min(len(self._pending), self._limits.batch_calls_max)
        return [self._pending.popleft() for _ in range(count)]

    def _wait_for_calls(self) -> None:
        timeout = None
        if self._unsynced_since is not None:
            timeout = max(0.0, self._unsynced_since + self._limits.lazy_sync_ms / 1000 - time.monotonic())
        try:
            self._wake.get(timeout=timeout)
        except queue.Empty:
            self._sync_lazy_writes()

    def _write(self, calls: list[WriteCall]) -> None:
        group = _Group(calls)
        if self._failure is not None:
            self._refuse(group, EngineUnavailable(self._failure))
            return
        self._commit(group, calls)
        self._make_durable(group)
        self._checkpoints.wrote(self._connection, sum(call.weight for call in calls))
        self._answer(group)

    def _commit(self, group: _Group, calls: Sequence[WriteCall]) -> None:
        changes = self._connection.total_changes
        try:
            group.publishes.extend(self._transact(calls))
            if self._connection.total_changes != changes:
                group.changed = True
                self._full = False
        except Exception as error:  # noqa: BLE001 - boundary: one faulty call must neither end the thread nor its neighbours
            self._recover(group, calls, error)

    def _transact(self, calls: Sequence[WriteCall]) -> list[Publish]:
        connection = self._connection
        now_ms = self._clock.now_ms()
        by_store: dict[Store, list[WriteCall]] = {}
        for call in calls:
            by_store.setdefault(call.store, []).append(call)
        if len(by_store) == 1:
            (store,) = by_store
            alone = store.apply_alone(connection, calls, now_ms)
            if alone is not None:
                return [alone]
        connection.execute("BEGIN IMMEDIATE")
        publishes = [store.apply(connection, members, now_ms) for store, members in by_store.items()]
        connection.execute("COMMIT")
        return [publish for publish in publishes if publish is not None]

    def _recover(self, group: _Group, calls: Sequence[WriteCall], error: Exception) -> None:
        self._roll_back(calls)
        if isinstance(error, sqlite3.Error):
            self._judge(error)
        if self._failure is not None:
            for call in calls:
                call.error = EngineUnavailable(self._failure)
        elif len(calls) > 1 and not (isinstance(error, sqlite3.Error) and is_busy(error)):
            # One at a time: what fits, or is not at fault, goes through.
            if not self._full:
                _log.warning("engine_group_failed", calls=len(calls), error=repr(error))
            for call in calls:
                self._commit(group, [call])
        else:
            for call in calls:
                call.error = self._describe(error)

    def _judge(self, error: sqlite3.Error) -> None:
        if is_disk_full(error, self._checkpoints.wal):
            if not self._full:
                _log.error("engine_disk_full", error=str(error))
                self._checkpoints.fold_now(self._connection)
            self._full = True
        elif is_fatal(error):
            self._fail(str(translate(error)), error)

    def _describe(self, error: Exception) -> MeshwayError:
        if isinstance(error, MeshwayError):
            return error
        if self._full:
            return StorageFull(
                "the disk is full: nothing was written; free space, reading goes on meanwhile",
                retry_after_ms=_FULL_RETRY_AFTER_MS,
            )
        _log.error("engine_write_failed", error=repr(error), exc_info=error)
        return EngineUnavailable(f"this write failed inside the store: {error!r}")

    def _roll_back(self, calls: Sequence[WriteCall]) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._fail(f"the store could not undo a failed write: {error}", error)
        for store in {call.store for call in calls}:
            store.rolled_back()

    def _make_durable(self, group: _Group) -> None:
        is_lazy = all(call.lazy or call.error is not None for call in group.calls)
        if not group.changed and (is_lazy or self._unsynced_since is None):
            # An empty lease, a conflict, a repetition: what they speak of is on the disk already.
            group.synced = True
        elif is_lazy:
            if self._unsynced_since is None:
                self._unsynced_since = time.monotonic()
            elif time.monotonic() - self._unsynced_since >= self._limits.lazy_sync_ms / 1000:
                self._sync_lazy_writes()
        else:
            self._sync_now()
            group.synced = True
        if self._failure is not None:
            for call in group.calls:
                call.error = EngineUnavailable(self._failure)

    def _sync_lazy_writes(self) -> None:
        if self._unsynced_since is not None and self._failure is None:
            self._sync_now()

    def _sync_now(self) -> None:
        try:
            self._sync()
        except OSError as error:
            # After a failed sync the system may have dropped the pages: nobody knows what is on the disk.
            self._fail(f"the disk refused to sync ({error.strerror or error}); check it, then restart the hub", error)
        self._unsynced_since = None

    def _fail(self, reason: str, error: Exception) -> None:
        if self._failure is None:
            self._failure = f"writes are refused until a restart: {reason}"
            _log.error("engine_writes_refused", reason=reason, error=repr(error))

    def _refuse(self, group: _Group, error: MeshwayError) -> None:
        for call in group.calls:
            call.error = error
        self._answer(group)

    def _answer(self, group: _Group) -> None:
        if self._failure is not None:
            group.publishes.clear()
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._finish, group)
            except RuntimeError:
                # The loop was closed under us: nobody is left to hear the answer.
                self._closing = True

    def _finish(self, group: _Group) -> None:
        for publish in group.publishes:
            publish()
        failed = 0
        for call in group.calls:
            failed += call.error is not None
            call.finish()
        seconds = self._synced_seconds if group.synced else self._lazy_seconds
        seconds.observe(time.perf_counter() - group.started)
        self._calls_done.inc(len(group.calls) - failed)
        if failed:
            self._calls_failed.inc(failed)
