"""The process that watches over workers: with workers that do as a test says, forked from a program of its own."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)

_PROGRAM = """
import os, signal, sys
from pathlib import Path
from meshway.assembly.workers import supervise

folder = Path(sys.argv[1])

def start(number, ready):
    with (folder / "starts").open("a") as file:
        file.write(f"{number}\\n")
    if (folder / "broken").exists():
        return 7
    ready()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        signal.pause()

sys.exit(supervise(2, start, on_ready=lambda: (folder / "ready").touch()))
"""


class Supervised:
    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self.folder = folder
        self.process = process

    def starts(self) -> list[str]:
        path = self.folder / "starts"
        return path.read_text().split() if path.exists() else []

    def until(self, condition) -> None:
        give_up = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < give_up, self.starts()
            assert self.process.poll() is None
            time.sleep(0.02)

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


@contextmanager
def supervised(folder: Path) -> Iterator[Supervised]:
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, str(folder)], stdin=subprocess.DEVNULL) as process:
        try:
            yield Supervised(folder, process)
        finally:
            if process.poll() is None:
                process.kill()


def test_workers_are_started_once_and_ended_by_sigterm(tmp_path):
    with supervised(tmp_path) as site:
        site.until((tmp_path / "ready").exists)
        assert sorted(site.starts()) == ["0", "1"]
        assert site.end() == 0


def test_workers_that_cannot_start_end_the_whole_with_their_status(tmp_path):
    (tmp_path / "broken").touch()
    with supervised(tmp_path) as site:
        assert site.process.wait(20) == 7
    assert not (tmp_path / "ready").exists()


def test_a_successor_that_cannot_start_is_tried_with_growing_pauses_and_the_other_worker_stays(tmp_path):
    with supervised(tmp_path) as site:
        site.until((tmp_path / "ready").exists)
        (tmp_path / "broken").touch()
        site.process.send_signal(signal.SIGHUP)
        site.until(lambda: len(site.starts()) >= 4)
        began, before = time.monotonic(), len(site.starts())
        site.until(lambda: len(site.starts()) >= before + 2)
        # After pauses of 0.4 s and more; without them it takes a moment.
        assert time.monotonic() - began > 0.5
        assert site.starts()[2:] == ["1"] * (len(site.starts()) - 2)
        (tmp_path / "broken").unlink()
        # And then it is the other's turn.
        site.until(lambda: site.starts()[-1] == "0")
        assert site.end() == 0
