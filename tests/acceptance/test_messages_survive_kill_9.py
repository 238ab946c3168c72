"""Kill -9 of the hub at random moments under load, of its workers too: what was acknowledged is kept and comes once.

Producers, workers and followers are programs of the SDK in processes of their own, and find back by themselves.
"""

import os
import random
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest

from support.crash_children import ORDERED, QUEUE
from support.crash_judge import judge_feeds, judge_queue, judge_stream
from support.crash_run import SETTINGS, CrashRun
from support.queue_checker import QueueRules


def test_nothing_is_lost_or_doubled_when_the_hub_is_killed_10_times_under_load():
    survive(rounds=10)


@pytest.mark.soak
def test_nothing_is_lost_or_doubled_when_the_hub_is_killed_100_times_under_load():
    survive(rounds=100)


def survive(*, rounds: int) -> None:
    seed = int(os.environ.get("MESHWAY_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    folder = Path(tempfile.mkdtemp(prefix="meshway-crash-"))
    try:
        run_and_judge(CrashRun(folder, seed), rounds)
    except BaseException as error:
        error.add_note(f"MESHWAY_TEST_SEED={seed} repeats the choices; journals and logs are kept in {folder}")
        raise
    shutil.rmtree(folder)


def run_and_judge(run: CrashRun, rounds: int) -> None:
    with run.running():
        run.begin()
        for _ in range(rounds):
            run.round()
            for queue, settings in SETTINGS.items():
                assert run.settings_of(queue).items() >= settings.items()
        run.finish()
        letters = {queue: run.letters(queue) for queue in SETTINGS}
        items = run.stream()
    entries = run.entries()
    for queue in (QUEUE, ORDERED):
        rules = QueueRules(**SETTINGS[queue])
        verdict = judge_queue(entries, rules, queue, downs=run.downs, letters=letters[queue])
        print(queue, verdict)
        assert verdict.accepted > 30 * rounds
        assert verdict.redelivered
        assert verdict.dead
        # What a kill leaves unknown is a small part: the rest is held to every promise.
        assert verdict.uncertain < verdict.accepted / 3
    assert judge_stream(entries, items) > 30 * rounds
    assert set(judge_feeds(entries, items).values()) == {len(items)}
    assert all(before <= after for before, after in pairwise(run.reader_positions)), run.reader_positions
