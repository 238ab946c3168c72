"""The duty that empties the inboxes of agents with a URL: it takes tasks as an instance would, and calls the agent."""

import asyncio
import contextlib
import logging

from meshway.gateway.agent_tasks import AgentTasks
from meshway.gateway.lease_tasks import HUB_INSTANCE, HandedTask, LeaseTasks
from meshway.gateway.push_attempt import PushAttempt
from meshway.gateway.report_tasks import ReportTasks, TaskSettlementItem
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import AgentNotFound, CallerError, MeshwayError, UpstreamUnreachable
from meshway.kernel.ids import AgentId
from meshway.registry.values import Agent
from meshway.tasks.claims import Claim
from meshway.tasks.inbox import InboxItem
from meshway.tasks.tokens import agent_of_inbox

__all__ = ["PushInbox"]

_log = logging.getLogger(__name__)

# Calls of one agent at once: enough for slow models, few enough for small servers. The agent's own capacity holds too.
_CALLS_MAX = 32
# An idle inbox is waited for this long before its worker goes; the next task wakes another one.
_IDLE_MS = 2_000
_EXTENDS_PER_LEASE = 3
_CANCEL_TIMEOUT_S = 5.0
_PAUSE_S = 0.5


class PushInbox:
    """One worker for each agent that has something waiting."""

    def __init__(self, places: TaskPlaces, lease: LeaseTasks, reports: ReportTasks, agents: AgentTasks) -> None:
        self._places = places
        self._lease = lease
        self._reports = reports
        self._agents = agents
        self._working: set[AgentId] = set()
        self._woken: set[AgentId] = set()
        self._wake = asyncio.Event()
        self._looks_again = True
        # Agents without a URL, or gone, that something waits for: it has its turn when they have one.
        self._absent: set[AgentId] = set()
        places.directory.listen(self._heard_of_agent)
        self._attempts: dict[str, asyncio.Task[None]] = {}

    def put(self, item: InboxItem) -> None:
        """A turn was put into an inbox."""
        self.wake(item.agent_id)

    def wake(self, agent_id: AgentId) -> None:
        """Something was put into the agent's inbox."""
        agent = self._places.directory.get(agent_id)
        if agent is None or agent.pull:
            self._absent.add(agent_id)
            return
        self._absent.discard(agent_id)
        self._woken.add(agent_id)
        self._wake.set()

    def _heard_of_agent(self, agent_id: AgentId, agent: Agent | None) -> None:
        if agent_id in self._absent and agent is not None and not agent.pull:
            self.wake(agent_id)

    def look_again(self) -> None:
        """A hub was lost: what it had taken on comes back, and somebody must be there for it."""
        self._looks_again = True
        self._wake.set()

    async def run(self) -> None:
        """For ever; begins with what a hub before has left."""
        self._looks_again = True
        async with asyncio.TaskGroup() as group:
            while True:
                if self._looks_again:
                    self._looks_again = False
                    await self._wake_all()
                await self._wake.wait()
                self._wake.clear()
                woken, self._woken = self._woken, set()
                for agent_id in woken - self._working:
                    self._working.add(agent_id)
                    group.create_task(self._work(agent_id))

    async def _wake_all(self) -> None:
        after: str | None = None
        while names := await self._places.tasks.inbox.names(after=after):
            for name in names:
                agent_id = agent_of_inbox(name)
                if agent_id is not None:
                    self.wake(agent_id)
            after = names[-1]

    async def _work(self, agent_id: AgentId) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                running: set[asyncio.Task[None]] = set()
                while True:
                    if len(running) >= _CALLS_MAX:
                        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    agent = self._places.directory.get(agent_id)
                    if agent is None or agent.pull:
                        self._absent.add(agent_id)
                        return
                    handed = await self._take(agent_id, _CALLS_MAX - len(running))
                    for each in handed:
                        task = group.create_task(self._attempt(each))
                        running.add(task)
                        task.add_done_callback(running.discard)
                    if not handed and not running and not await self._is_needed(agent_id):
                        return
        finally:
            self._working.discard(agent_id)
            if agent_id in self._woken:
                self._wake.set()
            # It may have got a URL again while the last attempts ended.
            self._heard_of_agent(agent_id, self._places.directory.get(agent_id))

    async def _is_needed(self, agent_id: AgentId) -> bool:
        """Whether something was put in meanwhile, or waits for its next attempt or for the end of a stop."""
        if agent_id in self._woken:
            return True
        try:
            depth = await self._places.tasks.inbox.depth(agent_id)
        except MeshwayError:
            return True
        return depth.waiting + depth.held + depth.delayed > 0

    async def _take(self, agent_id: AgentId, count: int) -> list[HandedTask]:
        self._woken.discard(agent_id)
        try:
            handed = await self._lease.execute(
                agent_id, HUB_INSTANCE, count=max(1, count), wait_ms=_IDLE_MS, told=self._told
            )
        except AgentNotFound:
            # Removed while it was waited for; whoever asks next sees it.
            return []
        except MeshwayError as error:
            _log.warning("durable_tasks_not_taken", extra={"agent": agent_id, "reason": error.detail})
            await asyncio.sleep(_PAUSE_S)
            return []
        return list(handed)

    def _told(self, claim: Claim, reason: str) -> None:
        attempt = self._attempts.get(claim.delivery_id)
        if attempt is not None:
            attempt.cancel()

    async def _attempt(self, handed: HandedTask) -> None:
        claim = handed.claim
        agent = self._places.directory.get(claim.agent_id)
        if agent is None or agent.pull:
            # Since it was leased.
            await self._settle(claim, "release", "the agent is not called by URL any more")
            return
        attempt = PushAttempt(self._places, self._agents, self._reports, agent, handed)
        try:
            await self._execute(attempt, claim)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not claim.is_over or (task is not None and task.cancelling() > 1):
                # The hub ends; the lease does the rest.
                raise
            if task is not None:
                task.uncancel()
            await self._cancel(attempt)
        except CallerError as error:
            # The agent refuses it, or cannot do it: asking again gives the same answer.
            await self._settle(claim, "fail", error.detail)
        except UpstreamUnreachable as error:
            await self._postpone(claim, error)
        except MeshwayError as error:
            await self._settle(claim, "retry", error.detail)
        except Exception as error:  # noqa: BLE001  the boundary of an attempt: others go on
            _log.error("durable_attempt_failed", extra={"agent": agent.id}, exc_info=error)
            await self._settle(claim, "retry", "the hub failed on it")

    async def _execute(self, attempt: PushAttempt, claim: Claim) -> None:
        """The work and the extending of its lease, together. Raises: what the attempt raises."""
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            extending = group.create_task(self._extend(claim))
            current = asyncio.current_task()
            assert current is not None
            self._attempts[claim.delivery_id] = current
            try:
                await attempt.execute()
            except Exception as error:  # noqa: BLE001  raised again below, as it is: the group would wrap it
                failure = error
            finally:
                del self._attempts[claim.delivery_id]
                extending.cancel()
        if failure is not None:
            raise failure

    async def _extend(self, claim: Claim) -> None:
        while not claim.is_over:
            await asyncio.sleep(self._reports.lease_ms / 1000 / _EXTENDS_PER_LEASE)
            with contextlib.suppress(MeshwayError):
                await self._reports.settle(claim.agent_id, [TaskSettlementItem(claim.delivery_id, "extend")])

    async def _settle(self, claim: Claim, action: str, reason: str) -> None:
        item = TaskSettlementItem(
            claim.delivery_id,
            "fail" if action == "fail" else "release" if action == "release" else "retry",
            None,
            reason,
        )
        try:
            await self._reports.settle(claim.agent_id, [item])
        except MeshwayError as error:
            _log.warning("durable_attempt_not_settled", extra={"agent": claim.agent_id, "reason": error.detail})

    async def _postpone(self, claim: Claim, error: UpstreamUnreachable) -> None:
        """An agent that is away has failed at nothing: what waits for it is bounded by the inbox, not by attempts."""
        with contextlib.suppress(MeshwayError):
            await self._reports.postpone(claim, reason=error.detail)

    async def _cancel(self, attempt: PushAttempt) -> None:
        with contextlib.suppress(MeshwayError, TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT_S):
                await attempt.cancel()
