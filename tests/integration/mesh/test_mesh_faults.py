"""Three hubs on three NATS servers under all kinds of load: whatever is done to them, nothing is lost or doubled.

One line a round says what was judged, and how long it took until everybody was served again: the first success of what
was begun after the fault, and in brackets the end of the last failure.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.mesh_checker import MeshVerdict, ServedAgain
from support.mesh_cluster import mesh_cluster
from support.mesh_faults import FAULTS
from support.mesh_run import MeshRound, MeshRun, Pace

SHORT, LONG = Pace(load_s=15, frozen_s=8), Pace(load_s=120, frozen_s=30)
# All of them take five hours; a part of the faults is chosen with -k, fewer rounds with the variable.
SOAK_ROUNDS = int(os.environ.get("MESHWAY_SOAK_ROUNDS", "10"))
SHOWN_FAULTS = 5


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    folder = Path(tempfile.mkdtemp(prefix="meshway-mesh-"))
    with mesh_cluster(folder) as cluster, MeshRun(cluster, folder).running() as run:
        yield run
    if not (folder / "kept").exists():
        shutil.rmtree(folder)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_or_doubled_after(mesh: MeshRun, name: str, capsys: pytest.CaptureFixture[str]):
    survive(mesh, name, capsys, SHORT)


@pytest.mark.timeout(400)
def test_bugs_of_a_worker_and_of_a_client_are_found(mesh: MeshRun):
    """A worker that acknowledges without working, and a client that drops an event, under a mesh that is well."""
    round_ = MeshRound(mesh, 1, SHORT, has_bug=True)
    with round_.loaded():
        FAULTS["no fault"].strike(round_)
    faults = round_.verdict(calls_may_fail=False).faults
    assert any("nobody worked on it" in fault for fault in faults)
    assert any(fault.startswith("stream ") and "numbers are [1, 2, 4" in fault for fault in faults)
    # Nothing else is said of them: what the mesh has is whole.
    assert not [fault for fault in faults if not fault.startswith("stream ") and "nobody worked" not in fault]


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_or_doubled_in_ten_rounds_of(mesh: MeshRun, name: str, capsys: pytest.CaptureFixture[str]):
    for _ in range(SOAK_ROUNDS):
        survive(mesh, name, capsys, LONG)


def survive(mesh: MeshRun, name: str, capsys: pytest.CaptureFixture[str], pace: Pace) -> None:
    seed = int(os.environ.get("MESHWAY_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    fault = FAULTS[name]
    round_ = MeshRound(mesh, seed, pace)
    try:
        round_.until_whole()
        with round_.loaded():
            fault.strike(round_)
        verdict, again = round_.verdict(calls_may_fail=fault.calls_may_fail), round_.served_again()
        with capsys.disabled():
            print(row(name, verdict, again, seed))
        assert not verdict.faults
        if fault.again_within_s is not None:
            # On a machine that does other things too.
            bound_ms = 2_000 * fault.again_within_s
            assert all(ms is not None and ms <= bound_ms for ms in again.first_ms.values()), again
    except BaseException as error:
        error.add_note(f"MESHWAY_TEST_SEED={seed} repeats the choices; journals and logs are kept in {round_.folder}")
        keep(mesh.folder)
        raise


def row(name: str, verdict: MeshVerdict, again: ServedAgain, seed: int) -> str:
    times = ", ".join(
        f"{kind} {_seconds(again.first_ms[kind])} ({_seconds(again.clear_ms[kind])})" for kind in again.first_ms
    )
    counts = ", ".join(f"{count} {what}" for what, count in sorted(verdict.counts.items()))
    found = "".join(f"\n    {fault[:300]}" for fault in verdict.faults[:SHOWN_FAULTS])
    return f"\n{name}: {len(verdict.faults)} faults; served again after s: {times}; {counts}; seed {seed}{found}"


def _seconds(milliseconds: int | None) -> str:
    return "never" if milliseconds is None else f"{milliseconds / 1_000:.1f}"


def keep(folder: Path) -> None:
    (folder / "kept").touch()
