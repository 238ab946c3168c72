"""The duty that nobody asks for: work whose time is up, leases that ran out, instances that did not come back."""

import asyncio
import logging
import math
from collections.abc import Sequence

from meshway.gateway.cancel_task import CancelTask
from meshway.gateway.report_tasks import ReportTasks
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import MeshwayError, StoreCorrupt
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.claims import Claim
from meshway.tasks.inbox import InboxItem, read_item
from meshway.tasks.tokens import agent_of_inbox
from meshway.tasks.track import Track
from meshway.tasks.values import TaskEvent, TaskState

__all__ = ["WatchTasks"]

_log = logging.getLogger(__name__)

# Finer than any of the times that are watched.
_TICK_S = 0.25
# Of an inbox, at a start.
_PAGE = 200


class WatchTasks:
    """`run` and `recover` are duties of the hub; `watch` tells it of a turn that was accepted."""

    def __init__(self, places: TaskPlaces, reports: ReportTasks, cancel: CancelTask) -> None:
        self._places = places
        self._reports = reports
        self._cancel = cancel
        # Turns that wait for an instance, and the epoch ms by which one must have taken them.
        self._waiting: dict[tuple[AgentId, TaskId], int] = {}
        self._unwatched = asyncio.Event()
        # None of them ends before this, so most looks need not go through them.
        self._first_end_ms: float = math.inf
        places.tasks.tracks.on_written(self._forget)
        places.tasks.tracks.on_written_elsewhere(self._forget_elsewhere)
        places.claims.on_end(self._watch_again)

    def watch(self, item: InboxItem) -> None:
        """Remember when this turn must have begun."""
        ends_ms = item.expires_at_ms if item.deadline_ms is None else min(item.deadline_ms, item.expires_at_ms)
        self._watch_until(item.agent_id, item.task_id, ends_ms)

    def _watch_again(self, claim: Claim) -> None:
        """Work that has begun is held to its limit also while nobody is there to go on with it."""
        if claim.deadline_ms is not None and not claim.is_ending:
            self._watch_until(claim.agent_id, claim.track.task_id, claim.deadline_ms)

    def _watch_until(self, agent_id: AgentId, task_id: TaskId, ends_ms: int) -> None:
        self._waiting[agent_id, task_id] = ends_ms
        self._first_end_ms = min(self._first_end_ms, ends_ms)

    def _forget(self, track: Track, events: Sequence[TaskEvent]) -> None:
        """Who works on it is held to its own limit."""
        if not self._waiting:
            # Said of each event of each stream, and most hubs' inboxes are empty.
            return
        key = (track.agent_id, track.task_id)
        if track.written_state.ends_turn or self._places.claims.of_task(*key) is not None:
            self._waiting.pop(key, None)

    def _forget_elsewhere(self, track: Track, events: Sequence[TaskEvent]) -> None:
        """Another hub has given it to an instance, and holds it to its limit."""
        if track.written_state.ends_turn or track.instance:
            self._waiting.pop((track.agent_id, track.task_id), None)

    async def run(self) -> None:
        """Look after all for ever."""
        while True:
            await asyncio.sleep(_TICK_S)
            await self.look()

    async def look(self) -> None:
        """Once. Failures of single tasks are logged; they are met again at the next look."""
        now_ms, monotonic_ms = self._places.clock.now_ms(), self._places.clock.monotonic_ms()
        for claim in self._places.claims.all():
            try:
                await self._look_at(claim, now_ms, monotonic_ms)
            except MeshwayError as error:
                _log.warning("claim_not_ended", extra={"task": claim.track.task_id, "reason": error.detail})
        if self._first_end_ms > now_ms:
            return
        for (agent_id, task_id), ends_ms in list(self._waiting.items()):
            if ends_ms > now_ms:
                continue
            del self._waiting[agent_id, task_id]
            try:
                await self._expire(agent_id, task_id)
            except MeshwayError as error:
                self._waiting.setdefault((agent_id, task_id), ends_ms)
                _log.warning("task_not_expired", extra={"task": task_id, "reason": error.detail})
        self._first_end_ms = min(self._waiting.values(), default=math.inf)

    async def _look_at(self, claim: Claim, now_ms: int, monotonic_ms: float) -> None:
        places = self._places
        if claim.is_ending:
            # Who reported it ends the claim, unless its connection broke before it was written.
            await self._reports.follow(claim)
        elif claim.deadline_ms is not None and claim.deadline_ms <= now_ms:
            await self._fail(claim)
        elif places.admission.is_draining:
            # It was this hub that closed the connection; the next one gives each lease that it finds its full time.
            return
        elif claim.grace_ends_ms is not None and claim.grace_ends_ms <= monotonic_ms:
            _log.warning("instance_did_not_come_back", extra=_facts(claim))
            await self._reports.lost(claim, reason=f"instance {claim.instance_id} lost its connection")
        elif claim.lease_ends_ms <= monotonic_ms:
            _log.warning("task_lease_ended", extra=_facts(claim))
            (held,) = await places.tasks.inbox.extend([claim.engine_id])
            if held and not claim.is_over:
                # The engine's lease is a little longer than ours.
                await self._reports.lost(claim, reason=f"instance {claim.instance_id} fell silent")
            places.claims.end(claim, "its lease has ended")

    async def _fail(self, claim: Claim) -> None:
        """The work's own limit; what it has caused ends with it."""
        places = self._places
        places.claims.end(claim, "its time is up")
        text = "The work did not end in time."
        await places.tasks.say(claim.track, TaskState.FAILED, text=text, metadata={"code": "deadline_exceeded"})
        places.tasks.close_turn(claim.engine_id)
        owner = await places.tasks.owners.owner_of(claim.agent_id, claim.track.task_id)
        if owner is not None:
            await self._cancel.cancel_children(owner, reason="what asked for it ran out of time")

    async def _expire(self, agent_id: AgentId, task_id: TaskId) -> None:
        places = self._places
        owner = await places.tasks.owners.owner_of(agent_id, task_id)
        if owner is None or owner.state.is_terminal:
            return
        track = await places.tasks.track_of(owner)
        if not track.last:
            # Its first event could not be written when it was accepted.
            await self._recover_inbox(agent_id)
        if not track.last or track.state.ends_turn or places.claims.of_task(agent_id, task_id) is not None:
            return
        if track.instance and owner.deadline_ms is not None and owner.deadline_ms > places.clock.now_ms():
            # It was handed out by another hub.
            self._watch_until(agent_id, task_id, owner.deadline_ms)
            return
        began = bool(track.instance)
        text = "The work did not end in time." if began else "No instance of the agent took it in time."
        await places.tasks.say(track, TaskState.FAILED, text=text, metadata={"code": "deadline_exceeded"})
        await self._cancel.cancel_children(owner, reason="what asked for it ran out of time")

    def hub_lost(self) -> None:
        """What another hub had accepted and watched is to be watched by this one, if that is its duty."""
        self._unwatched.set()

    async def recover_always(self) -> None:
        """`recover` at the start of this duty, and whenever a hub was lost; for ever."""
        while True:
            self._unwatched.clear()
            await self.recover()
            await self._unwatched.wait()

    async def recover(self) -> None:
        """At a start: make good what a crash has left undone in the inboxes, and remember what waits there."""
        after: str | None = None
        while True:
            names = await self._places.tasks.inbox.names(after=after)
            if not names:
                return
            for name in names:
                agent_id = agent_of_inbox(name)
                if agent_id is not None:
                    await self._recover_inbox(agent_id)
            after = names[-1]

    async def _recover_inbox(self, agent_id: AgentId) -> None:
        after: str | None = None
        while True:
            page = await self._places.tasks.inbox.peek(agent_id, after=after, limit=_PAGE)
            for message in page:
                try:
                    item = read_item(message)
                    _, owner = await self._places.tasks.found(item)
                    self.watch(item)
                    if owner.state is TaskState.WORKING and owner.deadline_ms is not None:
                        self._watch_until(item.agent_id, item.task_id, owner.deadline_ms)
                except StoreCorrupt as error:
                    _log.error("inbox_message_unreadable", extra={"agent": agent_id, "reason": error.detail})
                except MeshwayError as error:
                    _log.warning("task_not_recovered", extra={"agent": agent_id, "reason": error.detail})
            if len(page) < _PAGE:
                return
            after = page[-1].position


def _facts(claim: Claim) -> dict[str, object]:
    return {
        "agent": claim.agent_id,
        "task": claim.track.task_id,
        "instance": claim.instance_id,
        "attempt": claim.attempt,
    }
