"""A hub that is killed again and again under producers, workers and followers, which get killed and frozen too."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from support.crash_children import ORDERED, QUEUE, READER, STREAM
from support.crash_journal import Entry, Journal, read_journals
from support.crash_judge import Letter, Span, StreamItem
from support.hub_process import HubProcess, select_pause

__all__ = ["SETTINGS", "CrashRun"]

_TESTS = Path(__file__).parents[1]
# Short leases: a round is over in seconds, and every message that a dead process held must come again in the end.
SETTINGS: Mapping[str, Mapping[str, object]] = {
    QUEUE: {"lease_ms": 2_000, "attempts_max": 5, "backoff_initial_ms": 50, "backoff_max_ms": 400},
    ORDERED: {
        "lease_ms": 2_000,
        "attempts_max": 3,
        "backoff_initial_ms": 20,
        "backoff_max_ms": 100,
        "ordered": True,
    },
}
# What producers had sent when they stopped is worked off by then: five attempts of one lease each, and the hub's start.
_DRAINED_WITHIN_S = 40.0
_CHILD_ENDS_WITHIN_S = 30.0


class CrashRun:
    """One run in `folder`. Everything that is left to chance follows from `seed`, but for the machine itself."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.hub = HubProcess(folder / "data")
        self.downs: list[Span] = []
        self.reader_positions: list[int] = []
        self.killed_workers = 0
        self._folder = folder
        self._journal = Journal(folder / "run.journal")
        self._random = random.Random(seed)
        self._seed = seed
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._spawned = 0

    @contextlib.contextmanager
    def running(self) -> Iterator["CrashRun"]:
        with self.hub:
            try:
                yield self
            finally:
                for child in self._children.values():
                    child.kill()
                    child.wait(10)

    def begin(self) -> None:
        for queue, settings in SETTINGS.items():
            status, _, answer = self.hub.request("PUT", f"/v1/queues/{queue}", settings)
            assert status == 201, answer
        status, _, answer = self.hub.request("PUT", f"/v1/streams/{STREAM}/readers/{READER}", {"from": "first"})
        assert status == 201, answer
        for kind, transport in (("worker", "websocket"), ("worker", "websocket"), ("follower", "websocket")):
            self._spawn(kind, transport)
        for transport in ("websocket", "http"):
            self._spawn("producer", transport)

    def round(self) -> None:
        """Some time under load, something happens to a worker, the hub dies and comes back."""
        self._wait(self._random.uniform(0.2, 1.2))
        self._hurt_a_worker()
        self._wait(self._random.uniform(0, 0.6))
        self._look_at_reader()
        killed_ms = _now_ms()
        self.hub.kill()
        self._wait(self._random.choice([0, 0, 0.3]))
        self.hub.start()
        self.downs.append((killed_ms, _now_ms()))
        # For whoever judges a kept folder again.
        self._journal.write("down", since_ms=killed_ms)
        self._look_at_reader()

    def finish(self) -> None:
        """Producers stop, everything is worked off, the others stop."""
        self._end("producer")
        self._until(lambda: all(self._left(queue) == 0 for queue in SETTINGS), _DRAINED_WITHIN_S)
        last = self._figures("streams", STREAM)["last"]
        self._until(lambda: self._reader_position() == last, _DRAINED_WITHIN_S)
        self._end("worker")
        self._end("follower")

    def entries(self) -> list[Entry]:
        return list(read_journals(self._folder))

    def settings_of(self, queue: str) -> Mapping[str, object]:
        return self._read(f"/v1/queues/{queue}/info")["settings"]

    def letters(self, queue: str) -> list[Letter]:
        """All dead letters, oldest first."""
        return [
            Letter(
                each["message"]["data"]["number"],
                each["message"]["id"],
                each["reason"],
                [(attempt["attempt"], attempt["outcome"], attempt["reason"]) for attempt in each["attempts"]],
            )
            for each in self._pages(f"/v1/queues/{queue}/dead-letters?limit=500", "cursor", "next_cursor")
        ]

    def stream(self) -> list[StreamItem]:
        pages = self._pages(f"/v1/streams/{STREAM}/messages?limit=500", "from", "next_from", first="first")
        return [StreamItem(each["data"]["number"], each["id"], each["sequence"]) for each in pages]

    def _pages(self, path: str, parameter: str, member: str, first: str | None = None) -> Iterator[Mapping]:
        at = first
        while True:
            page = self._read(path if at is None else f"{path}&{parameter}={at}")
            yield from page["items"]
            if page[member] is None or not page["items"]:
                return
            at = page[member]

    def _read(self, path: str) -> Mapping:
        status, _, answer = self.hub.request("GET", path)
        assert status == 200, answer
        return answer

    def _figures(self, kind: str, channel: str) -> Mapping[str, int]:
        return self._read(f"/v1/{kind}/{channel}/info")["figures"]

    def _left(self, queue: str) -> int:
        figures = self._figures("queues", queue)
        return figures["waiting"] + figures["held"] + figures["delayed"]

    def _reader_position(self) -> int:
        return self._read(f"/v1/streams/{STREAM}/readers/{READER}")["position"]

    def _look_at_reader(self) -> None:
        self.reader_positions.append(self._reader_position())

    def _hurt_a_worker(self) -> None:
        name = self._random.choice([name for name in self._children if name.startswith("worker")])
        match self._random.randrange(4):
            case 0:
                child = self._children.pop(name)
                child.kill()
                child.wait(10)
                self.killed_workers += 1
                self._spawn("worker", "websocket")
            case 1:
                # Longer than its leases, and it does not know.
                self._children[name].send_signal(signal.SIGSTOP)
                self._wait(self._random.choice([0.3, 2.4]))
                self._children[name].send_signal(signal.SIGCONT)

    def _spawn(self, kind: str, transport: str) -> None:
        self._spawned += 1
        name = f"{kind}-{self._spawned}"
        command = [sys.executable, "-m", "support.crash_children", kind, self.hub.url, f"{self._seed}-{self._spawned}"]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [*command, str(self._folder / f"{name}.journal"), transport],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(_TESTS)},
            )

    def _end(self, kind: str) -> None:
        ending = {name: child for name, child in self._children.items() if name.startswith(kind)}
        for child in ending.values():
            child.terminate()
        for name, child in ending.items():
            status = child.wait(_CHILD_ENDS_WITHIN_S)
            assert status == 0, f"{name} ended with {status}:\n{(self._folder / f'{name}.log').read_text()[-4_000:]}"
            del self._children[name]

    def _wait(self, seconds: float) -> None:
        """Let the load run, unless somebody has died of it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._check_children()
            select_pause()

    def _until(self, is_so: Callable[[], bool], within_s: float) -> None:
        give_up = time.monotonic() + within_s
        while not is_so():
            self._check_children()
            assert time.monotonic() < give_up, {queue: self._figures("queues", queue) for queue in SETTINGS}
            select_pause()

    def _check_children(self) -> None:
        for name, child in self._children.items():
            if child.poll() is not None:
                log = (self._folder / f"{name}.log").read_text()
                raise AssertionError(f"{name} ended with {child.returncode}:\n{log[-4_000:]}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
