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
from meshway.kernel.errors import EngineUnavailable
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.event_writer import PendingEvent
from meshway.tasks.track import Draft, Track, TrackHooks
from meshway.tasks.values import TaskEvent, TaskState
from meshway.testing.clock import ManualClock
from support.task_clients import until
from support.task_rig import COUNTER, TaskParts, TaskRig, artifact, task_rig

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
