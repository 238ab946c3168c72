"""Hubs with one planted fault each: what a judge of tasks must notice."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from meshway.engine.ports import Lease, LogAppend, LogOutcome
from meshway.gateway.cancel_task import CancelTask
from meshway.gateway.lease_tasks import HandedTask, LeaseTasks
from meshway.gateway.report_tasks import ReportTasks, TaskReport, Told
from meshway.gateway.watch_tasks import WatchTasks
from meshway.kernel.ids import AgentId, InstanceId
from meshway.tasks import event_bodies
from meshway.tasks.claims import Claim
from meshway.tasks.follower import Outlet, TaskFollower
from meshway.tasks.hub_tasks import HubTasks
from meshway.tasks.inbox import InboxItem, read_item
from meshway.tasks.track import Track
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.values import TaskOwner, TaskState
from support.gates import Line
from support.task_rig import TaskParts

__all__ = ["FAULTS"]


class KeepsFormerClaims(LeaseTasks):
    async def _claim(self, lease: Lease, taker: object) -> HandedTask | None:
        claims, item = self._places.claims, read_item(lease.message)
        before = claims.of_task(item.agent_id, item.task_id)
        handed = await super()._claim(lease, taker)
        if before is not None and handed is not None:
            before.is_over = False
            before.track.pins += 1
            claims._by_delivery[before.delivery_id] = before
        return handed


class BelievesLateReports(ReportTasks):
    async def _live_claim(self, agent_id: AgentId, delivery_id: str, told: Told | None = None) -> Claim | None:
        return self._places.claims.of_delivery(delivery_id)


class NumbersReportsItself(ReportTasks):
    async def _begin(
        self, agent_id: AgentId, delivery_id: str, items: Sequence[TaskReport], told: Told | None
    ) -> object:
        claim = self._places.claims.of_delivery(delivery_id)
        source = 0 if claim is None else claim.source
        items = [replace(item, source=number) for number, item in enumerate(items, source + 1)]
        return await super()._begin(agent_id, delivery_id, items, told)


class CountsWhatIsGivenBack(ReportTasks):
    async def release(self, claim: Claim, *, reason: str) -> bool:
        places = self._places
        if claim.is_over:
            return False
        places.claims.end(claim)
        return await places.tasks.inbox.retry(claim.engine_id, at_ms=places.clock.now_ms(), reason=reason)


class ForgivesCrashes(ReportTasks):
    async def lost(self, claim: Claim, *, reason: str) -> None:
        await self.release(claim, reason=reason)


class BuriesNothing(ReportTasks):
    async def give_up(self, claim: Claim, reason: str) -> bool:
        places = self._places
        places.claims.end(claim)
        await places.tasks.say(claim.track, TaskState.FAILED, text=reason, metadata={"code": "attempts_used_up"})
        places.tasks.close_turn(claim.engine_id)
        return True


class TriesForEver(LeaseTasks):
    async def _is_given_up(self, *_: object) -> bool:
        return False


class EndsTurnsWhenTheyAreTaken(LeaseTasks):
    async def execute(self, *place: object, **more: object) -> Sequence[HandedTask]:
        handed = await super().execute(*place, **more)
        await self._places.tasks.inbox.done([each.claim.engine_id for each in handed])
        return handed


class CancelsWhatHasEnded(CancelTask):
    async def _end(self, owner: TaskOwner, reason: str) -> Track:
        tasks = self._places.tasks
        track = await tasks.track_of(owner)
        body = event_bodies.status(track.task_id, track.context_id, TaskState.CANCELED, at_ms=0)
        await tasks.append(track, [tasks.draft(track, body, TaskState.CANCELED)])
        return track


class LetsTimeGoBy(WatchTasks):
    async def _fail(self, claim: Claim) -> None:
        return


class ForgetsWhatWaited(WatchTasks):
    async def recover(self) -> None:
        return


class MakesNothingGood(HubTasks):
    """A crash between inbox and log stays as it is."""

    async def found(self, item: InboxItem, *, is_untouched: bool = False) -> tuple[Track, TaskOwner]:
        track = await self.tracks.open(item.agent_id, item.task_id, context_id=item.context_id)
        owner = await self.owners.owner_of(item.agent_id, item.task_id)
        return (track, owner) if owner is not None else await super().found(item)


class MakesTasksAnew(HubTasks):
    async def accept_named(self, item: InboxItem) -> Track:
        return await self.accept(item)


class KeepsOldRecords(HubTasks):
    async def follow(self, track: Track, *, instance_id: InstanceId | None = None) -> None:
        return


class HearsOnlyWhatComes(TaskFollower):
    """What is written between the question and the listening is lost."""

    def _begin_live(self) -> None:
        self.position = max(self.position, self._track.written)
        self._is_live = True


class FollowsBadly(TaskTracks):
    def follow(self, track: Track, *, after: int, outlet: Outlet | None = None) -> TaskFollower:
        return HearsOnlyWhatComes(track, self._log, after=after, outlet=outlet)


class WritesAnywhere(Line):
    """Another hub that has gone on with a task is not noticed."""

    async def append(self, entries: Sequence[LogAppend]) -> Sequence[LogOutcome]:
        return await super().append([msgspec.structs.replace(entry, expected_last=None) for entry in entries])


FAULTS = {
    "a former claim is not ended": TaskParts(lease=KeepsFormerClaims),
    "the end of a lease is not looked at": TaskParts(report=BelievesLateReports),
    "source numbers are not checked": TaskParts(report=NumbersReportsItself),
    "what is given back counts": TaskParts(report=CountsWhatIsGivenBack),
    "a crash does not count": TaskParts(report=ForgivesCrashes),
    "nothing goes to the dead letters": TaskParts(report=BuriesNothing),
    "attempts are never used up": TaskParts(lease=TriesForEver),
    "a turn leaves the inbox before its end": TaskParts(lease=EndsTurnsWhenTheyAreTaken),
    "what has ended can be cancelled": TaskParts(cancel=CancelsWhatHasEnded),
    "deadlines do not matter": TaskParts(watch=LetsTimeGoBy),
    "a starting hub does not look into its inboxes": TaskParts(watch=ForgetsWhatWaited),
    "nothing is restored between inbox and log": TaskParts(tasks=MakesNothingGood),
    "a repeated submit is a new turn": TaskParts(tasks=MakesTasksAnew),
    "records do not follow": TaskParts(tasks=KeepsOldRecords),
    "events between read and live are lost": TaskParts(tracks=FollowsBadly),
    "nobody says what an event follows": TaskParts(log=WritesAnywhere),
}
