"""A hub that is killed again and again under producers, workers and followers, which get killed and frozen too."""

import contextlib
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.crash_children import ORDERED, QUEUE, READER, STREAM
from support.crash_crew import Crew
from support.crash_journal import Entry, Journal, read_journals
from support.crash_judge import Letter, Span, StreamItem
from support.crash_reads import figures, left_in, letters_of, read, reader_position, stream_items
from support.hub_process import HubProcess

__all__ = ["SETTINGS", "CrashRun"]

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
        self._crew = Crew(folder)
        self._spawned = 0

    @contextlib.contextmanager
    def running(self) -> Iterator["CrashRun"]:
        with self.hub:
            try:
                yield self
            finally:
                self._crew.close()

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
        self._crew.wait(self._random.uniform(0.2, 1.2))
        self._hurt_a_worker()
        self._crew.wait(self._random.uniform(0, 0.6))
        self._look_at_reader()
        killed_ms = _now_ms()
        self.hub.kill()
        self._crew.wait(self._random.choice([0, 0, 0.3]))
        self.hub.start()
        self.downs.append((killed_ms, _now_ms()))
        # For whoever judges a kept folder again.
        self._journal.write("down", since_ms=killed_ms)
        self._look_at_reader()

    def finish(self) -> None:
        """Producers stop, everything is worked off, the others stop."""
        self._crew.end("producer")
        self._crew.until(
            lambda: all(left_in(self.hub, queue) == 0 for queue in SETTINGS),
            _DRAINED_WITHIN_S,
            report=lambda: {queue: figures(self.hub, "queues", queue) for queue in SETTINGS},
        )
        last = figures(self.hub, "streams", STREAM)["last"]
        self._crew.until(
            lambda: self._reader_position() == last, _DRAINED_WITHIN_S, report=lambda: (self._reader_position(), last)
        )
        self._crew.end("worker")
        self._crew.end("follower")

    def entries(self) -> list[Entry]:
        return list(read_journals(self._folder))

    def settings_of(self, queue: str) -> Mapping[str, object]:
        return read(self.hub, f"/v1/queues/{queue}/info")["settings"]

    def letters(self, queue: str) -> list[Letter]:
        """All dead letters, oldest first."""
        return letters_of(self.hub, queue)

    def stream(self) -> list[StreamItem]:
        return stream_items(self.hub, STREAM)

    def _reader_position(self) -> int:
        return reader_position(self.hub, STREAM, READER)

    def _look_at_reader(self) -> None:
        self.reader_positions.append(self._reader_position())

    def _hurt_a_worker(self) -> None:
        name = self._random.choice(self._crew.names("worker"))
        match self._random.randrange(4):
            case 0:
                self._crew.kill(name)
                self.killed_workers += 1
                self._spawn("worker", "websocket")
            case 1:
                # Longer than its leases, and it does not know.
                self._crew.freeze(name, self._random.choice([0.3, 2.4]))

    def _spawn(self, kind: str, transport: str) -> None:
        self._spawned += 1
        name = f"{kind}-{self._spawned}"
        self._crew.spawn(
            name,
            "support.crash_children",
            kind,
            self.hub.url,
            f"{self._seed}-{self._spawned}",
            str(self._folder / f"{name}.journal"),
            transport,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
