"""The lane of a connection: begun in order, many under way, alone where a piece would wait before its turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from meshway.edges.link.lane import Lane, LaneFrame, Work
from meshway.edges.link.limits import IN_WORK_MAX
from meshway.protocols.link.frames import Publish, Settle


class Verbs:
    """Pieces wait at a gate before they stand in line (`slow`), then in line until `finish`."""

    def __init__(self) -> None:
        self.in_line: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.done: dict[str, asyncio.Event] = {}
        self.holds = 0
        self.releases = 0
        self.rests = 0
        self.failing: set[str] = set()

    async def perform(self, frame: LaneFrame) -> bool:
        if gate := self.gates.get(frame.ref):
            await gate.wait()
        self.in_line.append(frame.ref)
        await self.done.setdefault(frame.ref, asyncio.Event()).wait()
        return frame.ref not in self.failing

    def finish(self, *refs: str) -> None:
        for ref in refs:
            self.done.setdefault(ref, asyncio.Event()).set()

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        self.releases += 1

    def rested(self) -> None:
        self.rests += 1

    async def settled(self) -> None:
        """Until every task has gone as far as it can."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def verbs() -> Verbs:
    return Verbs()


@asynccontextmanager
async def lane_of(verbs: Verbs) -> AsyncIterator[Lane]:
    async with asyncio.TaskGroup() as tasks:
        lane = Lane(tasks, verbs.perform, hold=verbs.hold, release=verbs.release, rested=verbs.rested)
        yield lane
        for _ in range(1_000):
            verbs.finish(*verbs.done)
            await asyncio.sleep(0)
            if lane.is_idle:
                break
        assert lane.is_idle


def publish(ref: str, line: str = "queues a", *, alone: bool = False) -> Work:
    messages = msgspec.Raw(b"[]")
    return Work(Publish(ref=ref, kind="queues", channel="a", messages=messages), line, alone=alone)


async def test_the_first_piece_of_a_line_runs_alone_then_many_are_under_way(verbs: Verbs) -> None:
    async with lane_of(verbs) as lane:
        for number in range(5):
            lane.add(publish(str(number)))
        await verbs.settled()
        assert verbs.in_line == ["0"]
        verbs.finish("0")
        await verbs.settled()
        assert verbs.in_line == ["0", "1", "2", "3", "4"]


async def test_a_piece_that_waits_before_the_line_is_not_overtaken_on_its_channel(verbs: Verbs) -> None:
    verbs.gates["large"] = asyncio.Event()
    async with lane_of(verbs) as lane:
        for line in ("queues a", "queues b"):
            lane.add(publish(f"first {line}", line))
        verbs.finish("first queues a", "first queues b")
        await verbs.settled()
        lane.add(publish("before"))
        lane.add(publish("large", alone=True))
        lane.add(publish("after"))
        lane.add(publish("elsewhere", "queues b"))
        await verbs.settled()
        assert verbs.in_line[2:] == ["before", "elsewhere"]
        verbs.gates["large"].set()
        await verbs.settled()
        assert verbs.in_line[2:] == ["before", "elsewhere", "large"]
        verbs.finish("large")
        await verbs.settled()
        assert verbs.in_line[2:] == ["before", "elsewhere", "large", "after"]


async def test_a_line_whose_first_piece_failed_is_not_known_yet(verbs: Verbs) -> None:
    verbs.failing.add("0")
    async with lane_of(verbs) as lane:
        for number in range(3):
            lane.add(publish(str(number)))
        verbs.finish("0")
        await verbs.settled()
        assert verbs.in_line == ["0", "1"]
        verbs.finish("1")
        await verbs.settled()
        assert verbs.in_line == ["0", "1", "2"]


async def test_settlements_wait_for_nobody(verbs: Verbs) -> None:
    async with lane_of(verbs) as lane:
        lane.add(publish("slow"))
        lane.add(publish("behind"))
        lane.add(Work(Settle(ref="settle", queue="a", settlements=[])))
        await verbs.settled()
        assert verbs.in_line == ["slow", "settle"]


async def test_reading_waits_at_the_limit_and_goes_on_below_half_of_it(verbs: Verbs) -> None:
    async with lane_of(verbs) as lane:
        lane.add(publish("first"))
        verbs.finish("first")
        await verbs.settled()
        refs = [str(number) for number in range(IN_WORK_MAX + 10)]
        for ref in refs:
            lane.add(publish(ref))
        await verbs.settled()
        # What was read already is not begun beyond the limit.
        assert len(verbs.in_line) == IN_WORK_MAX + 1
        assert (verbs.holds, verbs.releases) == (1, 0)
        verbs.finish(*refs[: 10 + IN_WORK_MAX // 2 - 1])
        await verbs.settled()
        assert verbs.releases == 0
        verbs.finish(refs[10 + IN_WORK_MAX // 2 - 1])
        await verbs.settled()
        assert verbs.releases == 1
        assert verbs.in_line[1:] == refs
    assert verbs.rests == 2
