"""The duty that nobody asks for: work whose time is up, leases that ran out, instances that did not come back."""

import asyncio
import heapq
import logging

from meshway.gateway.cancel_task import CancelTask
from meshway.gateway.report_tasks import ReportTasks
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import MeshwayError, StoreCorrupt
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.claims import Claim
from meshway.tasks.inbox import InboxItem, read_item
from meshway.tasks.tokens import agent_of_inbox
from meshway.tasks.values import TaskState

__all__ = ["WatchTasks"]

_log = logging.getLogger(__name__)

# Finer than any of the times that are watched.
_TICK_S = 0.25
# Of an inbox, at a start.
_PAGE = 200
# Waiting tasks whose times are remembered; later ones are found when somebody leases them, or at the next start.
_WAITING_MAX = 1_000_000


class WatchTasks:
    """`run` and `recover` are duties of the hub; `watch` tells it of a turn that was accepted."""

    def __init__(self, places: TaskPlaces, reports: ReportTasks, cancel: CancelTask) -> None:
        self._places = places
        self._reports = reports
        self._cancel = cancel
        # When a waiting turn must be looked at: epoch ms, agent, task, turn.
        self._waiting: list[tuple[int, AgentId, TaskId, int]] = []

    def watch(self, item: InboxItem) -> None:
        """Remember when this turn must have begun."""
        if len(self._waiting) >= _WAITING_MAX:
            return
        ends_ms = item.expires_at_ms if item.deadline_ms is None else min(item.deadline_ms, item.expires_at_ms)
        heapq.heappush(self._waiting, (ends_ms, item.agent_id, item.task_id, item.turn))

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
        while self._waiting and self._waiting[0][0] <= now_ms:
            _, agent_id, task_id, turn = heapq.heappop(self._waiting)
            try:
                await self._expire(agent_id, task_id, turn)
            except MeshwayError as error:
                _log.warning("task_not_expired", extra={"task": task_id, "reason": error.detail})

    async def _look_at(self, claim: Claim, now_ms: int, monotonic_ms: float) -> None:
        places = self._places
        if claim.deadline_ms is not None and claim.deadline_ms <= now_ms:
            await self._fail(claim)
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

    async def _expire(self, agent_id: AgentId, task_id: TaskId, turn: int) -> None:
        places = self._places
        owner = await places.tasks.owners.owner_of(agent_id, task_id)
        if owner is None or owner.state.is_terminal:
            return
        track = await places.tasks.track_of(owner)
        if track.turn != turn or track.state is not TaskState.SUBMITTED:
            # Somebody works on it, and is held to its own limit.
            return
        text = "No instance of the agent took it in time."
        await places.tasks.say(track, TaskState.FAILED, text=text, metadata={"code": "deadline_exceeded"})

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
                    await self._places.tasks.found(item)
                    self.watch(item)
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
