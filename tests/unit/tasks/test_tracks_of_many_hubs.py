"""Tracks where other hubs write too, and where replicas of the store lag."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from meshway.engine.ports import FromLast, Log, LogAppend, LogEntry, LogOutcome, LogStart
from meshway.gateway.lease_tasks import HandedTask
from meshway.gateway.report_tasks import TaskReport
from meshway.kernel.errors import EngineUnavailable, MeshwayError
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.event_writer import EventWriter, Overtaken, PendingEvent
from meshway.tasks.track import Draft, Track, TrackHooks
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.values import TaskEvent, TaskState
from meshway.testing.clock import ManualClock
from support.task_clients import until
from support.task_rig import COMPLETED, COUNTER, TaskParts, TaskRig, artifact, task_rig

NO_HOOKS = TrackHooks(written=lambda *_: None, elsewhere=lambda *_: None, broke=lambda *_: None)


class SlowWriter:
    """Nothing is answered until the test says so."""

    def __init__(self) -> None:
        self.pending: list[PendingEvent] = []

    def new_id(self) -> str:
        return "w.1"

    def add(self, pending: Sequence[PendingEvent]) -> None:
        self.pending += pending


class OtherHubIsFaster:
    """A log in which somebody else writes each first event of a task, a moment earlier."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def append(self, entries: Sequence[LogAppend]) -> Sequence[LogOutcome]:
        first = [entry for entry in entries if entry.expected_last == 0]
        await self._log.append([msgspec.structs.replace(entry, message_id="other.1") for entry in first])
        return await self._log.append(entries)


class LaggingLog(OtherHubIsFaster):
    """The same, and every other read is answered by a replica that has heard of nothing yet."""

    reads = 0

    async def read(self, subject: str, start: LogStart, *, limit: int) -> Sequence[LogEntry]:
        if not isinstance(start, FromLast):
            self.reads += 1
            if self.reads % 2:
                return []
        return await self._log.read(subject, start, limit=limit)


class LateLog(OtherHubIsFaster):
    """Its tails hear nothing of what is written, until the test lets them."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.hears = asyncio.Event()
        self.taken = 0

    async def append(self, entries: Sequence[LogAppend]) -> Sequence[LogOutcome]:
        return await self._log.append(entries)

    @asynccontextmanager
    async def tail(self, pattern: str, start: LogStart) -> AsyncIterator["LateLog"]:
        async with self._log.tail(pattern, start) as tail:
            self._tail = tail
            yield self

    async def take(self, limit: int) -> Sequence[LogEntry]:
        await self.hears.wait()
        entries = await self._tail.take(limit)
        self.taken += len(entries)
        return entries


@asynccontextmanager
async def another_hub(rig: TaskRig, **options: object) -> AsyncIterator[TaskRig]:
    """On the same engine."""
    other = TaskRig(rig.engine, rig.clock, **options)
    await other.start(recover=False)
    async with shared(rig), shared(other):
        yield other
    await other.stop()


@asynccontextmanager
async def shared(rig: TaskRig) -> AsyncIterator[None]:
    """Its tracks hear and mend as those of a hub whose engine other hubs have too."""
    async with asyncio.TaskGroup() as group:
        hearing = group.create_task(rig.tracks.run())
        await asyncio.sleep(0)
        yield
        hearing.cancel()


def report_of(handed: HandedTask, body: dict) -> TaskReport:
    (kind, said), ids = *body.items(), {"taskId": handed.item.task_id, "contextId": handed.item.context_id}
    return TaskReport(handed.claim.delivery_id, 1, msgspec.json.encode({kind: ids | said}))


async def test_a_task_is_accepted_where_another_hub_was_faster_with_its_first_event(tmp_path: Path, clock: ManualClock):
    async with task_rig(tmp_path, clock, parts=TaskParts(log=OtherHubIsFaster)) as rig:
        task_id = await rig.submit("begin")
        assert (await rig.get(task_id))["id"] == task_id
        assert await rig.states_of(task_id) == ["SUBMITTED"]


async def test_a_replica_that_lags_does_not_make_a_task_look_empty(tmp_path: Path, clock: ManualClock):
    async with task_rig(tmp_path, clock, parts=TaskParts(log=LaggingLog)) as rig:
        task_id = await rig.submit("begin")
        assert (await rig.get(task_id))["id"] == task_id


async def test_a_replica_that_lags_does_not_take_events_from_who_follows(tmp_path: Path, clock: ManualClock):
    async with task_rig(tmp_path, clock, parts=TaskParts(log=LaggingLog)) as rig:
        task_id = await rig.submit("begin")
        # Nothing of it is in memory any more.
        await rig.restart()
        follower = await rig.follow(task_id)
        await follower.until(1)
        assert follower.numbers == [1]


async def test_what_another_hub_wrote_is_not_shown_before_what_it_follows():
    writer = SlowWriter()
    track = Track(AgentId("a"), TaskId("t"), context_id="c", writer=writer, hooks=NO_HOOKS)
    seen: list[int] = []
    track.listen(lambda _, events: seen.extend(event.number for event in events))
    track.append([Draft(body=b"{}", state=TaskState.SUBMITTED)], at_ms=0)
    second = TaskEvent(number=2, body=b"{}", state=TaskState.WORKING, at_ms=1)

    assert not track.absorb(second)
    writer.pending[0].settled(writer.pending[0], None)
    assert track.absorb(second)
    assert (seen, track.written, track.written_state) == ([1, 2], 2, TaskState.WORKING)


async def test_reports_that_could_not_be_kept_are_taken_when_they_come_again_though_the_track_was_mended(
    tmp_path: Path, clock: ManualClock
):
    async with task_rig(tmp_path, clock) as rig, shared(rig):
        for text in ("one", "two"):
            await rig.submit(text)
        handed = await rig.take(2)
        reports = [report_of(each, artifact("made")) for each in handed]
        rig.line.is_cut = True
        with pytest.raises(EngineUnavailable):
            await rig.reporting.report(COUNTER, reports)
        rig.line.is_cut = False
        await until(lambda: not any(each.claim.track.is_broken for each in handed))
        outcomes = await rig.reporting.report(COUNTER, reports)
        assert [(outcome.outcome, outcome.source) for outcome in outcomes] == [("done", 1)] * 2
        for each in handed:
            assert [event.source for event in await rig.log_of(each.item.task_id)] == [0, 0, 1]


async def test_a_hub_that_has_not_heard_of_a_hand_out_yet_takes_the_word_of_the_instance(
    tmp_path: Path, clock: ManualClock
):
    async with task_rig(tmp_path, clock) as rig, another_hub(rig, parts=TaskParts(log=LateLog)) as other:
        task_id = TaskId(await rig.submit("begin"))
        await rig.settle_down()
        # Somebody asked for it there before it was handed out.
        await other.get(task_id)
        handed = await rig.take_one()
        await rig.settle_down()
        assert (await other.show_hold(handed.claim.delivery_id)).is_held


async def test_an_instance_that_went_on_at_another_hub_is_not_taken_for_lost_where_that_was_not_said(
    tmp_path: Path, clock: ManualClock
):
    async with task_rig(tmp_path, clock) as rig, another_hub(rig) as other:
        task_id = await rig.submit("begin")
        handed = await rig.take_one()
        await rig.settle_down()
        rig.lose_connection("one")
        assert (await other.show_hold(handed.claim.delivery_id)).is_held
        assert (await other.say(handed, artifact("made"))).outcome == "done"
        await until(lambda: handed.claim.is_over)
        await rig.pass_time(rig.settings.reconnect_grace_ms + 1)
        assert (await other.say(handed, COMPLETED, source=2)).outcome == "done"
        assert await rig.states_of(task_id) == ["SUBMITTED", "WORKING", "WORKING", "COMPLETED"]


async def test_what_this_hub_wrote_since_is_not_forgotten_for_what_another_wrote_before(
    tmp_path: Path, clock: ManualClock
):
    async with task_rig(tmp_path, clock) as rig:
        late = LateLog(rig.engine.log)
        tracks, writer = TaskTracks(late, rig.writer, tracks_cached=1), EventWriter(rig.engine.log)
        agent_id, task_id = AgentId("a"), TaskId("t")
        other = TaskTracks(rig.engine.log, writer)
        async with asyncio.TaskGroup() as group:
            duties = [group.create_task(duty()) for duty in (tracks.run, writer.run)]
            theirs = await other.open(agent_id, task_id, context_id="c")
            await theirs.append([Draft(body=b"{}", state=TaskState.WORKING)], at_ms=1)
            track = await tracks.open(agent_id, task_id, context_id="c")
            await track.append([Draft(body=b"{}", state=TaskState.COMPLETED)], at_ms=2)
            # Forgotten before the first of them is heard of.
            for number in range(3):
                tracks.new(agent_id, TaskId(f"t{number}"), context_id="c")
            late.hears.set()
            await until(lambda: late.taken == 2)
            again = await tracks.open(agent_id, task_id, context_id="c")
            assert (again.written, again.state) == (2, TaskState.COMPLETED)
            for duty in duties:
                duty.cancel()


class BlindLog:
    """Its tail gives what the test puts there; its replica has heard of the first entries only until it catches up."""

    def __init__(self, entries: Sequence[LogEntry], *, seen: int) -> None:
        self.entries = list(entries)
        self.seen = seen
        self.told: asyncio.Queue[LogEntry] = asyncio.Queue()
        # How often its tail was asked: who asks has dealt with what came before.
        self.asked = 0

    async def read(self, subject: str, start: LogStart, *, limit: int) -> Sequence[LogEntry]:
        known = self.entries[: self.seen]
        if isinstance(start, FromLast):
            return known[-1:]
        # It catches up between two questions.
        self.seen = len(self.entries)
        return [entry for entry in known if entry.sequence >= start.sequence]  # type: ignore[union-attr]

    @asynccontextmanager
    async def tail(self, pattern: str, start: LogStart) -> AsyncIterator["BlindLog"]:
        yield self

    async def take(self, limit: int) -> Sequence[LogEntry]:
        self.asked += 1
        return [await self.told.get()]


def entry_of(number: int) -> LogEntry:
    return LogEntry(
        subject="task.a.t",
        sequence=number,
        position=number,
        message_id=f"other.{number}",
        data=b"{}",
        headers={"h": f"{TaskState.WORKING.short} 1 1 {number} i"},
        timestamp_ms=number,
    )


async def test_who_follows_gets_an_event_that_was_heard_of_before_the_replica_that_is_read_had_it():
    log = BlindLog([entry_of(number) for number in range(1, 6)], seen=3)
    tracks = TaskTracks(log, EventWriter(log))  # type: ignore[arg-type]  # what tracks need of a log
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        hearing = group.create_task(tracks.run())
        track = await tracks.open(AgentId("a"), TaskId("t"), context_id="c")
        assert track.written == 3
        log.seen = 3
        with tracks.follow(track, after=3) as follower:
            # The fourth was on its way while the track was read, so the fifth follows nothing that is known.
            log.told.put_nowait(entry_of(5))
            numbers: list[int] = []
            while len(numbers) < 2:
                numbers += [event.number for event in await follower.take()]
        assert numbers == [4, 5]
        hearing.cancel()


class RefusingWriter(SlowWriter):
    def is_own(self, entry_id: str) -> bool:
        return False

    def hurry(self) -> None:
        pass

    def drop(self, subject: str, error: MeshwayError) -> None:
        pass


@pytest.mark.parametrize("is_watched", [True, False])
async def test_an_event_that_was_heard_of_while_its_number_was_written_here_is_not_forgotten(is_watched: bool):
    """It is the last one: nothing that comes later shows that it is lacking."""
    log, writer = BlindLog([entry_of(1), entry_of(2)], seen=1), RefusingWriter()
    tracks = TaskTracks(log, writer)  # type: ignore[arg-type]  # what tracks need of a log and a writer
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        hearing = group.create_task(tracks.run())
        await until(lambda: log.asked == 1)
        track = await tracks.open(AgentId("a"), TaskId("t"), context_id="c")
        assert track.written == 1
        log.seen = 1
        written = track.append([Draft(body=b"{}", state=TaskState.WORKING)], at_ms=1)
        log.told.put_nowait(entry_of(2))
        await until(lambda: log.asked == 2)
        if is_watched:
            track.pins += 1
        (pending,) = writer.pending
        pending.settled(pending, Overtaken("Another hub was faster."))
        with pytest.raises(Overtaken):
            await written
        if not is_watched:
            track = await tracks.open(AgentId("a"), TaskId("t"), context_id="c")
        await until(lambda: not track.is_broken and track.written == 2)
        hearing.cancel()
