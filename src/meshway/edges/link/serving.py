"""An instance of an agent on a connection: its tasks go out as far as its credit goes, its reports come in."""

import asyncio

import msgspec
import structlog

from meshway.edges.link.codec import encode_frame
from meshway.edges.link.pumps import PumpPlaces
from meshway.edges.link.subscription import Subscription
from meshway.edges.link.task_frames import report_outcome, task_delivery
from meshway.gateway.lease_tasks import Standing
from meshway.gateway.report_tasks import TaskReport, TaskSettlementItem
from meshway.gateway.serve_agent import INSTANCE_TTL_MS, ServeRequest
from meshway.gateway.task_use_cases import TaskUseCases
from meshway.kernel.errors import AgentNotFound, InvalidRequest, MeshwayError, NotFound
from meshway.kernel.ids import AgentId, InstanceId
from meshway.protocols.link import frames
from meshway.tasks.claims import Claim

__all__ = ["Serving"]

_log = structlog.get_logger()

_HEARTBEAT_S = INSTANCE_TTL_MS / 3_000


class Serving:
    """One `serve` of one connection. Other hubs, and other connections, may have further instances of the agent."""

    def __init__(self, places: PumpPlaces, tasks: TaskUseCases, frame: frames.Serve) -> None:
        self.frame = frame
        self._places = places
        self._tasks = tasks
        self._agent_id = AgentId("")
        self._instance_id = InstanceId("")
        self._is_joined = False
        self._has_left = False
        self._seen_at = 0.0
        # Lost with a lease that ran out, until the next sign of life.
        self._standing = Standing()
        self._lost_at = 0.0

    async def pump(self, subscription: Subscription[frames.Serve]) -> None:
        """Join, then hand out for as long as the connection lasts."""
        frame, socket, tasks = self.frame, self._places.socket, self._tasks
        request = ServeRequest(
            agent=frame.agent,
            instance=frame.instance,
            card=None if isinstance(frame.card, msgspec.UnsetType) else bytes(frame.card),
            labels=frame.labels,
            capacity=frame.capacity,
        )
        self._agent_id, self._instance_id = await tasks.serve.join(self._places.principal, request)
        self._is_joined = True
        shown = await tasks.report.show_holds(
            self._agent_id, self._instance_id, [hold.delivery_id for hold in frame.holds], self.told
        )
        subscription.has_begun = True
        served = frames.Served(
            id=frame.id,
            instance=self._instance_id,
            lease_ms=tasks.report.lease_ms,
            grace_ms=tasks.report.grace_ms,
            holds=[
                frames.HoldState(delivery_id=hold.delivery_id, held=hold.is_held, source=hold.source) for hold in shown
            ],
        )
        socket.send(encode_frame(served))
        wait_ms = self._places.services.settings.long_poll_max_ms
        while True:
            count = await subscription.demand(socket)
            await self._standing.regained()
            try:
                handed = await tasks.lease.execute(
                    self._agent_id,
                    self._instance_id,
                    count=count,
                    wait_ms=wait_ms,
                    told=self.told,
                    standing=self._standing,
                )
            except AgentNotFound:
                # It was removed, and with its subscription it ends; what it holds is for others.
                await tasks.report.release_all(self._agent_id, self._instance_id)
                raise
            if handed:
                socket.send(encode_frame(frames.Tasks(id=frame.id, tasks=list(map(task_delivery, handed)))))
            size = sum(len(each.item.message) for each in handed)
            subscription.spend(len(handed), documents_bytes=size)

    def told(self, claim: Claim, reason: str) -> None:
        """The work on this must end."""
        if claim.lease_ends_ms <= self._tasks.lease.monotonic_ms():
            self._standing.lose()
            self._lost_at = asyncio.get_running_loop().time()
        notice = frames.CancelTasks(id=self.frame.id, delivery_ids=[claim.delivery_id], reason=reason)
        self._places.socket.send(encode_frame(notice))

    def heard(self) -> None:
        """A frame came."""
        self._standing.regain()

    async def report(self, frame: frames.Report) -> frames.Reported:
        """Raises: NotFound, StorageFull, EngineUnavailable."""
        self._refuse_strangers()
        reports = [TaskReport(item.delivery_id, item.source, bytes(item.event)) for item in frame.reports]
        outcomes = await self._tasks.report.report(self._agent_id, reports)
        return frames.Reported(
            ref=frame.ref,
            outcomes=list(map(report_outcome, outcomes)),
        )

    async def settle(self, frame: frames.SettleTasks) -> frames.Settled:
        """Raises: NotFound, InvalidRequest, StorageFull, EngineUnavailable."""
        self._refuse_strangers()
        if any(item.delay_ms is not None and item.delay_ms < 0 for item in frame.settlements):
            raise InvalidRequest("settlements: delay_ms must be 0 or more")
        items = [
            TaskSettlementItem(item.delivery_id, item.action, item.delay_ms, item.reason) for item in frame.settlements
        ]
        return frames.Settled(ref=frame.ref, outcomes=list(await self._tasks.report.settle(self._agent_id, items)))

    async def leave(self) -> None:
        """For good: what is held is released at once. Raises: StorageFull, EngineUnavailable."""
        self._has_left = True
        if not self._is_joined:
            return
        await self._tasks.report.release_all(self._agent_id, self._instance_id)
        await self._tasks.serve.leave(self._agent_id, self._instance_id)

    def swept(self, now: float, heard_at: float) -> None:
        """The connection lives, and the instance with it. Bytes came last at `heard_at`, answers to pings included."""
        if heard_at > self._lost_at:
            # It has no work to speak of, and is no process that hangs.
            self._standing.regain()
        if self._is_joined and not self._has_left and now - self._seen_at >= _HEARTBEAT_S:
            self._seen_at = now
            self._tasks.serve.heartbeat(self._agent_id, self._instance_id)

    def connection_lost(self) -> None:
        """Nothing is freed yet."""
        if self._is_joined and not self._has_left:
            try:
                self._tasks.serve.lost(self._agent_id, self._instance_id, self.told)
            except MeshwayError as error:
                _log.warning("lost_instance_not_marked", agent=self._agent_id, reason=error.detail)

    def _refuse_strangers(self) -> None:
        if not self._is_joined:
            raise NotFound(f"Subscription {self.frame.id!r} serves no agent yet; wait for `served`.")
