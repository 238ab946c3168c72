"""Processes under measurement: started on one core, watched through /proc, ended for sure."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "LOAD_CORE",
    "SERVER_CORE",
    "CoreLoad",
    "Server",
    "free_port",
    "missing_tools",
    "pinned",
    "started",
    "until",
]

SERVER_CORE = 0
LOAD_CORE = 1
# Debian's packages for what the relay benchmark calls.
_PACKAGES = {"wrk": "wrk", "nginx": "nginx-light", "taskset": "util-linux"}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_START_TIMEOUT_S = 20.0


def missing_tools(*names: str) -> list[str]:
    """One sentence for each tool that is not there."""
    return [
        f"{name} is not installed (Debian: apt-get install {_PACKAGES[name]}); what needs it is not measured"
        for name in names
        if shutil.which(name) is None
    ]


def pinned(core: int | None, command: Sequence[str]) -> list[str]:
    """The command on one core; unpinned without one, and where the machine has no second one, or no taskset."""
    if core is None or shutil.which("taskset") is None or (os.cpu_count() or 1) < 2:
        return list(command)
    return ["taskset", "-c", str(core), *command]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], *, timeout_s: float = _START_TIMEOUT_S, pause_s: float = 0.002) -> float:
    """Seconds until the condition held. Raises: TimeoutError."""
    started_at = time.perf_counter()
    while not condition():
        if time.perf_counter() - started_at > timeout_s:
            raise TimeoutError(f"not within {timeout_s:.0f} s")
        time.sleep(pause_s)
    return time.perf_counter() - started_at


@dataclass(frozen=True, slots=True)
class Server:
    """A process and its children."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def cpu_s(self) -> float:
        """User and system time so far, children that live included."""
        return sum(_cpu_ticks(pid) for pid in self._tree()) / _TICKS_PER_S

    @property
    def resident_mb(self) -> float:
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._tree())
        return sum(pages) * _PAGE_BYTES / 1e6

    def _tree(self) -> list[int]:
        top = self.process.pid
        children = Path(f"/proc/{top}/task/{top}/children")
        return [top, *(int(pid) for pid in children.read_text().split())]


@contextmanager
def started(
    command: Sequence[str], *, core: int | None, log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run until the block ends; then SIGTERM, and SIGKILL for what does not listen."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            pinned(core, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environ or {})},
            preexec_fn=_allow_many_files,
        )
    try:
        yield Server(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class CoreLoad:
    """How busy one core was while the block ran."""

    def __init__(self, core: int) -> None:
        self._core = core
        self.busy = 0.0

    def __enter__(self) -> "CoreLoad":
        self._before = _core_ticks(self._core)
        return self

    def __exit__(self, *_: object) -> None:
        idle, total = (after - before for after, before in zip(_core_ticks(self._core), self._before, strict=True))
        self.busy = 1 - idle / total if total else 0.0

    @property
    def is_saturated(self) -> bool:
        """Then the figure is what the load side can do, and the server could do more."""
        return self.busy > 0.95


def _core_ticks(core: int) -> tuple[int, int]:
    """Idle and all ticks since boot."""
    lines = Path("/proc/stat").read_text().splitlines()
    fields = next((line.split()[1:] for line in lines if line.startswith(f"cpu{core} ")), ["0"] * 8)
    ticks = [int(field) for field in fields[:8]]
    return ticks[3] + ticks[4], sum(ticks)


def _cpu_ticks(pid: int) -> int:
    # The command's name stands in parentheses and may hold spaces; utime and stime are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _allow_many_files() -> None:
    """5,000 idle streams hold two descriptors each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
