"""Several hub processes on one port, over one engine: started, watched, replaced when they die, drained in turn.

    SIGTERM, SIGINT   drain all, then end
    SIGHUP            replace all, one after another: the others serve meanwhile

This process serves nothing and has one thread. If it is killed, the kernel kills its workers.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from meshway.assembly.child_processes import dies_with_parent
from meshway.assembly.hub import hub_url
from meshway.assembly.local_nats import LocalNats, find_nats_server
from meshway.engine.embedded.engine import DATABASE_NAME
from meshway.kernel.errors import EngineUnavailable, FieldError, InvalidRequest
from meshway.kernel.ids import new_id
from meshway.settings.model import Settings

__all__ = ["WorkerStart", "needs_workers", "run_workers", "supervise"]

_log = structlog.get_logger()

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_TICK_S = 0.2
# A worker that dies is replaced at once, and later each time if it dies young again.
_YOUNG_S = 30.0
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.2, 10.0
# Of a drain: more than any `http.drain_timeout_ms` that makes sense; whoever wants it faster signals again.
_END_WITHIN_S = 120.0

# Runs in the forked process and serves until it is told to stop: given its number and what to call once it is ready.
# Returns the exit status.
WorkerStart = Callable[[int, Callable[[], None]], int]


@dataclass(slots=True)
class _Worker:
    number: int
    pid: int = 0
    ready_fd: int = -1
    is_ready: bool = False
    started_s: float = 0.0
    # When it is to be started again, and after how long the next time.
    due_s: float = 0.0
    backoff_s: float = _BACKOFF_FIRST_S


class _Supervisor:
    def __init__(self, count: int, start: WorkerStart, *, on_ready: Callable[[], None], nats: LocalNats | None) -> None:
        self._start = start
        self._on_ready = on_ready
        self._nats = nats
        self._workers = [_Worker(number) for number in range(count)]
        self._was_ready = False
        self._status = 0
        # Workers that are still to be replaced, the one under way last.
        self._replacing: list[_Worker] = []
        self._is_ending = False
        self._ends_s = 0.0

    def run(self) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for worker in self._workers:
                self._fork(worker)
            while not self._is_ending or any(worker.pid for worker in self._workers):
                self._take_signal()
                self._bury()
                self._hear_ready()
                self._look()
        finally:
            self._kill_all()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return self._status

    def _take_signal(self) -> None:
        taken = signal.sigtimedwait(_SIGNALS, _TICK_S)
        if taken is None or taken.si_signo == signal.SIGCHLD:
            return
        if taken.si_signo == signal.SIGHUP:
            if self._is_ending or not self._was_ready:
                # All are about to end, or have just begun.
                return
            _log.info("workers_replaced_in_turn", workers=len(self._workers))
            self._replacing = list(self._workers)
            self._replace_next()
            return
        if self._is_ending and taken.si_signo == signal.SIGINT:
            self._kill_all()
        self._end(0)

    def _end(self, status: int) -> None:
        if not self._is_ending:
            self._is_ending, self._status = True, status
            self._ends_s = time.monotonic() + _END_WITHIN_S
            self._replacing = []
            for worker in self._workers:
                self._signal(worker, signal.SIGTERM)

    def _replace_next(self) -> None:
        """Drain the one whose turn it is; the next has its turn when this one's successor serves."""
        while self._replacing and not self._replacing[-1].pid:
            self._replacing.pop()
        if self._replacing:
            self._signal(self._replacing[-1], signal.SIGTERM)

    # Children

    def _fork(self, worker: _Worker) -> None:
        read_fd, write_fd = os.pipe()
        parent_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(read_fd)
            self._be_worker(worker.number, write_fd, parent_pid)
        os.close(write_fd)
        os.set_blocking(read_fd, False)
        worker.pid, worker.ready_fd, worker.is_ready = pid, read_fd, False
        worker.started_s, worker.due_s = time.monotonic(), 0.0

    def _be_worker(self, number: int, ready_fd: int, parent_pid: int) -> None:
        """In the new process; never returns."""
        status = 1
        try:
            dies_with_parent(parent_pid)
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            for worker in self._workers:
                if worker.ready_fd >= 0:
                    os.close(worker.ready_fd)
            status = self._start(number, lambda: _say_ready(ready_fd))
        except KeyboardInterrupt:
            status = 130
        except BaseException:  # noqa: BLE001  the boundary of a process: nothing of the parent's may run in it
            _log.exception("worker_failed", worker=number)
        finally:
            os._exit(status)

    def _bury(self) -> None:
        for worker in self._workers:
            if not worker.pid:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._buried(worker, os.waitstatus_to_exitcode(status))

    def _buried(self, worker: _Worker, code: int) -> None:
        os.close(worker.ready_fd)
        was_ready, was_replaced = worker.is_ready, bool(self._replacing) and self._replacing[-1] is worker
        worker.pid, worker.ready_fd, worker.is_ready = 0, -1, False
        if self._is_ending:
            return
        if was_replaced and was_ready:
            # Drained. A successor that cannot start is one that dies young, like any other.
            self._fork(worker)
            return
        if not self._was_ready and not was_ready:
            # It says itself what is wrong; the others would say the same.
            self._end(code or 1)
            return
        lived_s = time.monotonic() - worker.started_s
        worker.backoff_s = _BACKOFF_FIRST_S if lived_s > _YOUNG_S else min(worker.backoff_s * 2, _BACKOFF_MAX_S)
        worker.due_s = time.monotonic() + worker.backoff_s
        _log.error("worker_died", worker=worker.number, status=code, starts_again_in_s=worker.backoff_s)

    def _hear_ready(self) -> None:
        silent = {worker.ready_fd: worker for worker in self._workers if worker.pid and not worker.is_ready}
        if not silent:
            return
        readable, _, _ = select.select(list(silent), [], [], 0)
        for fd in readable:
            worker = silent[fd]
            worker.is_ready = bool(os.read(fd, 1))
            if worker.is_ready and self._replacing and self._replacing[-1] is worker:
                self._replacing.pop()
                self._replace_next()
        if not self._was_ready and all(worker.is_ready for worker in self._workers):
            self._was_ready = True
            self._on_ready()

    def _look(self) -> None:
        now_s = time.monotonic()
        if self._is_ending:
            if now_s > self._ends_s:
                self._kill_all()
            return
        if self._nats is not None and not self._nats.is_alive:
            _log.error("local_nats_died")
            try:
                self._nats.start()
            except EngineUnavailable as error:
                _log.error("local_nats_not_started", reason=error.detail)
        for worker in self._workers:
            if not worker.pid and worker.due_s and worker.due_s <= now_s:
                self._fork(worker)

    def _kill_all(self) -> None:
        for worker in self._workers:
            self._signal(worker, signal.SIGKILL)

    def _signal(self, worker: _Worker, number: signal.Signals) -> None:
        if worker.pid:
            os.kill(worker.pid, number)


def supervise(count: int, start: WorkerStart, *, on_ready: Callable[[], None], nats: LocalNats | None = None) -> int:
    """Keep `count` workers running until told to stop; the exit status. `on_ready`: all serve, for the first time."""
    return _Supervisor(count, start, on_ready=on_ready, nats=nats).run()


def run_workers(
    settings: Settings, serve: Callable[[Settings, Callable[[], None], str], int], *, on_ready: Callable[[str], None]
) -> int:
    """Serve with `settings.workers` processes until told to stop; the exit status. `on_ready` gets the hub's URL.

    `serve` runs in each of them: with its settings, what to call once it is ready, and the name of the group.
    An engine of the hub's own becomes a nats-server of its own, in the directory `nats` of the data directory.
    Raises: InvalidRequest (no nats-server, the port is in use, the directory has an embedded store), DataDirLocked,
    EngineUnavailable.
    """
    with ExitStack() as stack:
        nats = None
        if settings.engine == "embedded":
            nats = _local_nats(settings, stack)
            settings = msgspec.structs.replace(settings, engine="nats", nats=nats.joined_to(settings.nats))
        held = stack.enter_context(_reserve_port(settings.host, settings.port))
        settings = msgspec.structs.replace(settings, port=held.getsockname()[1])
        group = new_id()
        return supervise(
            settings.workers,
            lambda number, ready: serve(settings, ready, group),
            on_ready=lambda: on_ready(hub_url(settings, settings.port)),
            nats=nats,
        )


def needs_workers(settings: Settings) -> bool:
    """Whether `run_workers` is to serve these: several processes, or one where several have left their data."""
    return settings.workers > 1 or (settings.engine == "embedded" and (_nats_folder(settings) / "store").exists())


def _nats_folder(settings: Settings) -> Path:
    return Path(settings.data) / "nats"


def _local_nats(settings: Settings, stack: ExitStack) -> LocalNats:
    data = Path(settings.data)
    if (data / DATABASE_NAME).exists():
        text = (
            f"{data} holds the store of a hub with one process. Move it to a NATS server first (meshway engine copy), "
            "or start in another directory (--data)"
        )
        raise InvalidRequest(f"workers: {text}", fields=[FieldError("workers", text)])
    nats = LocalNats(find_nats_server(settings.nats_server), _nats_folder(settings))
    stack.callback(nats.stop)
    nats.start()
    return nats


def _reserve_port(host: str, port: int) -> socket.socket:
    """Keep a port for the workers, each of which listens on it; connections are spread over them by the kernel.

    Raises: InvalidRequest when somebody else listens there.
    """
    try:
        return _bind_shared(host, port)
    except OSError as error:
        text = f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port, or stop what is there"
        raise InvalidRequest(f"port: {text}", fields=[FieldError("port", text)]) from error


def _bind_shared(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without sharing first: another hub's workers would let us join them.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        port = probe.getsockname()[1]
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError:
        held.close()
        raise
    return held


def _say_ready(fd: int) -> None:
    os.write(fd, b"r")
