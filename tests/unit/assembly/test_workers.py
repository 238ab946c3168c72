"""A supervisor and its workers as real processes that serve nothing: who is started again, when, and who ends."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager

PATIENCE_S = 10.0
# Its workers write a line each into the file of the first argument, and do what the second says.
SUPERVISOR = """
import signal, sys, time
from meshway.assembly.workers import supervise

def start(number, ready):
    with open(sys.argv[1], "a") as file:
        file.write(f"{number}\\n")
    with open(sys.argv[1]) as file:
        is_first = len(file.readlines()) == 1
    if not is_first and sys.argv[2] == "fails_later":
        return 7
    time.sleep(float(sys.argv[3]))
    ready()
    signal.pause()
    return 0

sys.exit(supervise(1, start, on_ready=lambda: print("ready", flush=True)))
"""


@contextmanager
def supervisor(folder, *, successor="serves", ready_after_s=0.0):
    starts = folder / "starts"
    command = [sys.executable, "-c", SUPERVISOR, str(starts), successor, str(ready_after_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process, starts
        finally:
            process.kill()


def lines_of(starts):
    return starts.read_text().splitlines() if starts.exists() else []


def until(holds):
    ends_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.02)


def test_a_successor_that_cannot_start_is_tried_again_with_pauses(tmp_path):
    with supervisor(tmp_path, successor="fails_later") as (process, starts):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        until(lambda: len(lines_of(starts)) >= 2)
        begun_at = time.monotonic()
        until(lambda: len(lines_of(starts)) >= 4)
        # 0.4 s after the first failure, 0.8 s after the second.
        assert time.monotonic() - begun_at > 1.0


def test_a_replacement_that_is_asked_for_during_the_start_ends_nothing(tmp_path):
    with supervisor(tmp_path, ready_after_s=0.5) as (process, starts):
        until(lambda: lines_of(starts))
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "ready\n"
        assert lines_of(starts) == ["0"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
