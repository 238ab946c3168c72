"""Following a task: what goes past the reader, by the outlet, and what comes to it."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from meshway.engine.ports import Appended
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.event_writer import EventWriter, PendingEvent
from meshway.tasks.follower import TaskFollower
from meshway.tasks.track import Draft, Track, TrackHooks
from meshway.tasks.values import TaskEvent, TaskState

NO_HOOKS = TrackHooks(written=lambda *_: None, elsewhere=lambda *_: None, broke=lambda *_: None)


class PromptWriter:
    """Events are written when the test says so."""

    def new_id(self) -> str:
        return "w.1"

    def __init__(self) -> None:
        self.pending: list[PendingEvent] = []

    def add(self, pending: Sequence[PendingEvent]) -> None:
        self.pending += pending

    def write(self) -> None:
        pending, self.pending = self.pending, []
        for each in pending:
            each.settled(each, None)


class Site:
    """A task with one follower, whose reader puts what it takes into `taken` and is busy while `gate` is closed."""

    def __init__(self, outlet: Callable[[TaskEvent], bool]) -> None:
        self.writer = PromptWriter()
        self.track = Track(AgentId("a"), TaskId("t"), context_id="c", writer=self.writer, hooks=NO_HOOKS)
        self.follower = TaskFollower(self.track, log=None, after=0, outlet=outlet)
        self.taken: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self) -> None:
        while True:
            self.taken.append([event.number for event in await self.follower.take()])
            await self.gate.wait()

    async def say(self, *states: TaskState) -> None:
        """So many events, written together; then the reader has its turn."""
        for state in states:
            self.track.append([Draft(body=b"{}", state=state)], at_ms=0)
        self.writer.write()
        for _ in range(3):
            await asyncio.sleep(0)


WORKING, DONE, ASKS = TaskState.WORKING, TaskState.COMPLETED, TaskState.INPUT_REQUIRED


@pytest.fixture
async def site():
    """Its outlet takes what comes while `site.has_room`."""
    passed: list[int] = []

    def outlet(event: TaskEvent) -> bool:
        if site.has_room:
            passed.append(event.number)
        return site.has_room

    site = Site(outlet)
    site.has_room, site.passed = True, passed
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(site.read())
        await asyncio.sleep(0)
        yield site
        reading.cancel()
    site.follower.close()


async def test_the_outlet_takes_what_comes_while_the_reader_waits(site):
    await site.say(WORKING, WORKING)
    await site.say(WORKING)
    assert (site.passed, site.taken) == ([1, 2, 3], [])
    assert site.follower.position == 3
    assert site.follower.has_all


@pytest.mark.parametrize("end", [DONE, ASKS])
async def test_the_event_that_ends_a_turn_comes_to_the_reader(site, end):
    await site.say(WORKING, end)
    assert (site.passed, site.taken) == ([1], [[2]])


async def test_what_the_outlet_refuses_comes_to_the_reader_and_what_follows_it_too(site):
    await site.say(WORKING)
    site.has_room = False
    site.track.append([Draft(body=b"{}", state=WORKING)], at_ms=0)
    site.writer.write()
    # Room again, but the reader has not had its turn yet.
    site.has_room = True
    await site.say(WORKING)
    await site.say(WORKING)
    assert (site.passed, site.taken) == ([1, 4], [[2, 3]])


async def test_nothing_overtakes_what_a_busy_reader_is_giving_out(site):
    site.gate.clear()
    site.has_room = False
    await site.say(WORKING)
    site.has_room = True
    await site.say(WORKING)
    assert (site.passed, site.taken) == ([], [[1]])
    site.gate.set()
    await site.say(WORKING)
    assert (site.passed, site.taken) == ([], [[1], [2, 3]])
    await site.say(WORKING)
    assert site.passed == [4]


async def test_a_nudge_wakes_the_reader_with_nothing(site):
    site.track.nudge()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert site.taken == [[]]


async def test_who_reads_no_more_is_given_nothing(site):
    site.follower.close()
    await site.say(WORKING)
    assert (site.passed, site.taken) == ([], [])


async def test_a_listener_that_fails_keeps_nobody_else_from_hearing(caplog):
    """The events of many tasks are written together."""

    class ManyAtOnce:
        async def append(self, entries):
            return [Appended(sequence=1, position=1, duplicate=False) for _ in entries]

    def broken(*_):
        raise RecursionError("asked for by the test")

    writer = EventWriter(ManyAtOnce())
    tracks = [
        Track(AgentId("a"), TaskId(f"t{number}"), context_id="c", writer=writer, hooks=NO_HOOKS._replace(written=heard))
        for number, heard in enumerate((broken, lambda *_: None))
    ]
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        duty = group.create_task(writer.run())
        written = [track.append([Draft(body=b"{}", state=WORKING)], at_ms=0) for track in tracks]
        await written[1]
        await tracks[1].quiet()
        duty.cancel()
    assert "task_event_not_told" in caplog.text


async def test_no_two_entries_have_the_same_id_though_a_number_is_given_out_twice():
    ids = []

    class Kept:
        async def append(self, entries):
            ids.extend(entry.message_id for entry in entries)
            return [Appended(sequence=1, position=1, duplicate=False) for _ in entries]

    writer = EventWriter(Kept())
    for _ in range(2):
        # Forgotten in between, and taken for new.
        track = Track(AgentId("a"), TaskId("t"), context_id="c", writer=writer, hooks=NO_HOOKS)
        track.append([Draft(body=b"{}", state=WORKING)], at_ms=0)
        await writer.flush()
    assert len(set(ids)) == len(ids) == 2
