"""What is done to a mesh under load. Each strikes, says whose service is to go on, and makes it good again."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.mesh_cluster import HUBS, NODES
from support.mesh_run import MeshRound

__all__ = ["FAULTS", "MeshFault"]

# Where the `meshway` of the version before is; without it there is one version, and that fault is not among them.
FORMER_PROGRAM = "MESHWAY_TEST_FORMER"


@dataclass(frozen=True)
class MeshFault:
    """`again_within_s`: until everybody is served again whose service is to go on; None where only that it is."""

    strike: Callable[[MeshRound], None]
    again_within_s: float | None = None
    calls_may_fail: bool = True


def nothing(round_: MeshRound) -> None:
    round_.struck(HUBS)
    round_.wait(round_.load_s)


def kill_a_hub(round_: MeshRound) -> None:
    name = round_.random.choice(HUBS)
    hub = round_.cluster.hubs[name]
    round_.struck([each for each in HUBS if each != name])
    hub.kill()
    round_.wait(round_.load_s)
    hub.start()


def kill_a_worker(round_: MeshRound) -> None:
    """Of a queue, and an instance of the agent; others are there."""
    round_.struck(HUBS)
    round_.kill_worker()
    round_.run.kill_agent()
    round_.wait(round_.load_s / 2)
    round_.run.start_agent()
    round_.start_worker()
    round_.wait(round_.load_s / 2)


def kill_the_leader(round_: MeshRound) -> None:
    _kill_node(round_, round_.cluster.leader_of_busiest_stream())


def kill_a_node(round_: MeshRound) -> None:
    _kill_node(round_, round_.random.choice(NODES))


def _kill_node(round_: MeshRound, name: str) -> None:
    node = round_.cluster.nodes[name]
    round_.struck(HUBS)
    node.kill()
    round_.wait(round_.load_s)
    node.start()


def freeze_a_hub(round_: MeshRound) -> None:
    """Longer than any lease of the test, and it does not know that it slept."""
    name = round_.random.choice(HUBS)
    hub = round_.cluster.hubs[name]
    round_.struck([each for each in HUBS if each != name])
    hub.send_signal(signal.SIGSTOP)
    try:
        round_.wait(round_.frozen_s)
    finally:
        hub.send_signal(signal.SIGCONT)


def part_a_hub(round_: MeshRound) -> None:
    name = round_.random.choice(HUBS)
    round_.struck([each for each in HUBS if each != name])
    _hold_up(round_, lambda source, target: source == name)


def part_a_node(round_: MeshRound) -> None:
    """From the other two. Hubs that are connected to it still are."""
    name = round_.random.choice(NODES)
    round_.struck(HUBS)
    _hold_up(round_, lambda source, target: source in NODES and name in (source, target))


def _hold_up(round_: MeshRound, is_hurt: Callable[[str, str], bool]) -> None:
    round_.cluster.wires.hold_up(is_hurt)
    try:
        round_.wait(round_.frozen_s)
    finally:
        round_.cluster.wires.mend()


def fill_a_disk(round_: MeshRound) -> None:
    """Of one node, which gives up its part of the store; it is started again once there is room."""
    cluster = round_.cluster
    node = cluster.nodes[NODES[-1]]
    disk = cluster.disk
    round_.struck(HUBS)
    if disk is None:
        # The next best: a server that may keep next to nothing.
        node.stop()
        node.configure("max_file_store: 1MB")
        node.start()
    else:
        disk.fill()
    round_.wait(round_.load_s)
    if disk is None:
        node.configure()
    else:
        disk.free()
    node.stop()
    node.start()


def restart_nodes_in_turn(round_: MeshRound) -> None:
    round_.struck(HUBS)
    for node in round_.cluster.nodes.values():
        node.stop()
        round_.wait(0.5)
        node.start()
        round_.until_whole()
        round_.wait(round_.load_s / 6)


def restart_hubs_in_turn(round_: MeshRound) -> None:
    """As an upgrade does it. Nobody is to notice."""
    round_.struck([])
    for hub in round_.cluster.hubs.values():
        hub.stop(within_s=40)
        hub.start()
        round_.wait(round_.load_s / 6)


def upgrade_hubs_in_turn(round_: MeshRound) -> None:
    """To the version before, and back: each of two hubs is the older one, beside one that is new all the time."""
    hubs = list(round_.cluster.hubs.values())[:2]
    present = hubs[0].program
    round_.struck([])
    try:
        for program in (Path(os.environ[FORMER_PROGRAM]), present):
            for hub in hubs:
                hub.stop(within_s=40)
                hub.program = program
                hub.start()
                round_.wait(round_.load_s / 6)
    finally:
        for hub in hubs:
            hub.program = present


FAULTS: Mapping[str, MeshFault] = {
    "no fault": MeshFault(nothing, again_within_s=2, calls_may_fail=False),
    "kill -9 of a hub": MeshFault(kill_a_hub, again_within_s=5),
    "kill -9 of workers": MeshFault(kill_a_worker, again_within_s=5),
    "kill -9 of the JetStream leader": MeshFault(kill_the_leader, again_within_s=10),
    "kill -9 of a NATS node": MeshFault(kill_a_node, again_within_s=10),
    "a hub frozen": MeshFault(freeze_a_hub, again_within_s=5),
    "a hub parted from NATS": MeshFault(part_a_hub, again_within_s=5),
    "a NATS node parted from the others": MeshFault(part_a_node, again_within_s=10),
    "a full disk at one NATS node": MeshFault(fill_a_disk, again_within_s=10),
    "NATS nodes restarted in turn": MeshFault(restart_nodes_in_turn, again_within_s=10),
    "hubs restarted in turn": MeshFault(restart_hubs_in_turn, calls_may_fail=False),
}
if FORMER_PROGRAM in os.environ:
    FAULTS = {**FAULTS, "hubs of two versions": MeshFault(upgrade_hubs_in_turn, calls_may_fail=False)}
