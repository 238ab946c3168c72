"""Hand tasks of an inbox to an instance of their agent: one claim each, announced in the task before it is given."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from meshway.engine.ports import Lease
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import AgentNotFound, InvalidRequest, MeshwayError, StoreCorrupt
from meshway.kernel.ids import AgentId, InstanceId
from meshway.kernel.retry import is_exhausted
from meshway.registry.values import Agent, AgentState
from meshway.tasks import event_bodies
from meshway.tasks.claims import Claim, delivery_id_of
from meshway.tasks.event_writer import Overtaken
from meshway.tasks.inbox import InboxItem, read_item
from meshway.tasks.track import Draft, Track
from meshway.tasks.values import TaskOwner, TaskState

__all__ = ["HUB_INSTANCE", "HandedTask", "LeaseTasks", "Standing", "attempts_max_of"]

_log = logging.getLogger(__name__)

# As whom the hub itself takes tasks of agents with a URL; an instance cannot be called so by accident.
HUB_INSTANCE = InstanceId("hub_delivery")
# Hand-outs of nothing but ended tasks in one call; then the caller asks again, and others get their turn.
_ROUNDS_MAX = 100
# How soon an instance that is drained no more asks again; draining is an operator's affair of minutes.
_DRAIN_LOOK_S = 0.25
# A lease of ours ends this much before the engine's: the clocks of both are read at different moments.
_LEASE_MARGIN = 0.95


@dataclass(frozen=True, slots=True)
class HandedTask:
    """One attempt at one turn. `chain` is the token for calls made in its course; `snapshot` the task before the turn,
    from the second turn on."""

    claim: Claim
    item: InboxItem
    lease_ms: int
    chain: str
    snapshot: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Taker:
    """Who asks for tasks, and how it is told to stop."""

    agent_id: AgentId
    instance_id: InstanceId
    told: Callable[[Claim, str], None]
    standing: "Standing"


class Standing:
    """Whether tasks may be handed to an instance. A process that hangs would take its own lost work again and again."""

    def __init__(self) -> None:
        self._good = asyncio.Event()
        self._good.set()
        self._waits: asyncio.Timeout | None = None

    @property
    def is_good(self) -> bool:
        return self._good.is_set()

    def lose(self) -> None:
        """It let a lease run out. Its wait for tasks ends."""
        self._good.clear()
        self.interrupt()

    def interrupt(self) -> None:
        """End its wait for tasks: what allowed it has changed."""
        if self._waits is not None and not self._waits.expired():
            self._waits.reschedule(asyncio.get_running_loop().time())

    def regain(self) -> None:
        """It was heard."""
        self._good.set()

    async def regained(self) -> None:
        """Wait until it is good."""
        await self._good.wait()

    async def lease(self, leasing: Awaitable[Sequence[Lease]]) -> Sequence[Lease]:
        """What was leased; nothing where the standing was lost meanwhile (a cancelled call leases nothing)."""
        try:
            async with asyncio.timeout(None) as self._waits:
                return await leasing
        except TimeoutError:
            return []
        finally:
            self._waits = None


class LeaseTasks:
    """Also where tasks whose last attempt was lost are given up: nobody but the next lease sees them."""

    def __init__(self, places: TaskPlaces) -> None:
        self._places = places
        # Replaced at each stop and resume.
        self._stops_changed = asyncio.Event()
        # Those who wait for tasks at this moment.
        self._takers: set[_Taker] = set()
        places.stops.listen(self._heard_of_stop)
        places.directory.listen(self._heard_of_agent)

    def monotonic_ms(self) -> float:
        """What the ends of leases are compared with."""
        return self._places.clock.monotonic_ms()

    async def execute(
        self,
        agent_id: AgentId,
        instance_id: InstanceId,
        *,
        count: int,
        wait_ms: int,
        told: Callable[[Claim, str], None],
        standing: "Standing | None" = None,
    ) -> Sequence[HandedTask]:
        """Up to `count` for an instance that was admitted; as soon as one is due, empty after `wait_ms`.

        A stopped agent gets none, nor an instance that drains or lost its `standing`. `told` hears when the work on
        one must end. Raises: AgentNotFound (agent or instance was removed), EngineUnavailable, StorageFull.
        """
        taker = _Taker(agent_id, instance_id, told, standing or Standing())
        places = self._places
        ends_ms = places.clock.monotonic_ms() + wait_ms
        for _ in range(_ROUNDS_MAX):
            is_allowed = await self._until_allowed(agent_id, instance_id, ends_ms)
            self._refuse_removed(agent_id, instance_id)
            if not is_allowed:
                return []
            left_ms = max(0, int(ends_ms - places.clock.monotonic_ms()))
            leases = await self._lease(taker, count=count, wait_ms=left_ms)
            if not leases:
                self._refuse_removed(agent_id, instance_id)
                return []
            handed = await self._claim_all(leases, taker)
            if handed or not taker.standing.is_good:
                return handed
        return []

    async def _lease(self, taker: _Taker, *, count: int, wait_ms: int) -> Sequence[Lease]:
        self._takers.add(taker)
        try:
            inbox = self._places.tasks.inbox
            return await taker.standing.lease(inbox.lease(taker.agent_id, count=count, wait_ms=wait_ms))
        finally:
            self._takers.discard(taker)

    def _refuse_removed(self, agent_id: AgentId, instance_id: InstanceId) -> None:
        if self._is_known(agent_id, instance_id):
            return
        if self._places.directory.get(agent_id) is None:
            text = f"There is no agent {agent_id!r} at this hub (any more); register it again to go on."
        else:
            text = f"Agent {agent_id!r} has no instance {instance_id!r} (any more)."
        raise AgentNotFound(text, agent=agent_id)

    def _is_known(self, agent_id: AgentId, instance_id: InstanceId) -> bool:
        agent = self._places.directory.get(agent_id)
        if agent is None:
            return False
        return agent.instance(instance_id) is not None if agent.pull else instance_id == HUB_INSTANCE

    def _heard_of_agent(self, agent_id: AgentId, agent: Agent | None) -> None:
        if agent is None:
            # Also who waits for the end of a stop has nothing to wait for.
            self._heard_of_stop()
        for taker in self._takers:
            if taker.agent_id == agent_id and not self._is_known(agent_id, taker.instance_id):
                taker.standing.interrupt()

    async def _until_allowed(self, agent_id: AgentId, instance_id: InstanceId, ends_ms: float) -> bool:
        """Queued work of a stopped agent is held. False: it may still take nothing when the time is over."""
        places = self._places
        try:
            async with asyncio.timeout(max(0.0, (ends_ms - places.clock.monotonic_ms()) / 1000)):
                while places.stops.is_stopped(agent_id) and self._is_known(agent_id, instance_id):
                    await self._stops_changed.wait()
                # The directory tells nobody of one instance.
                while self._is_draining(agent_id, instance_id):  # noqa: ASYNC110
                    await asyncio.sleep(_DRAIN_LOOK_S)
        except TimeoutError:
            return not (places.stops.is_stopped(agent_id) or self._is_draining(agent_id, instance_id))
        return True

    def _is_draining(self, agent_id: AgentId, instance_id: InstanceId) -> bool:
        agent = self._places.directory.get(agent_id)
        instances = () if agent is None else agent.instances
        return any(each.id == instance_id and each.state is AgentState.DRAINING for each in instances)

    def _may_have(self, agent_id: AgentId, taker: _Taker) -> bool:
        """Nothing is handed out in a stop or a drain, nor to who was removed or fell silent."""
        if self._places.stops.is_stopped(agent_id) or self._is_draining(agent_id, taker.instance_id):
            return False
        return taker.standing.is_good and self._is_known(agent_id, taker.instance_id)

    def _heard_of_stop(self, *_: object) -> None:
        changed, self._stops_changed = self._stops_changed, asyncio.Event()
        changed.set()

    async def _claim_all(self, leases: Sequence[Lease], taker: "_Taker") -> list[HandedTask]:
        if len(leases) == 1:
            return [handed] if (handed := await self._claim_or_leave(leases[0], taker)) else []
        # Together: their events share one write of the store.
        async with asyncio.TaskGroup() as group:
            claims = [group.create_task(self._claim_or_leave(lease, taker)) for lease in leases]
        return [handed for claim in claims if (handed := claim.result()) is not None]

    async def _claim_or_leave(self, lease: Lease, taker: "_Taker") -> HandedTask | None:
        """A failure leaves this one to its lease's end; the others are handed out none the less."""
        for _ in range(_ROUNDS_MAX):
            try:
                return await self._claim(lease, taker)
            except Overtaken:
                # Another hub wrote to the task meanwhile: the one that accepted it, or that heard of its end.
                continue
            except StoreCorrupt as error:
                await self._places.tasks.inbox.bury(lease.delivery_id, reason=error.detail)
                _log.error("inbox_message_unreadable", extra={"queue": lease.message.queue, "reason": error.detail})
            except MeshwayError as error:
                _log.warning("task_not_handed_out", extra={"queue": lease.message.queue, "reason": error.detail})
            return None
        return None

    async def _claim(self, lease: Lease, taker: "_Taker") -> HandedTask | None:
        """None: there is nothing to do about it any more."""
        places = self._places
        item = read_item(lease.message)
        if lease.attempt > 1:
            places.tasks.owners.doubt(item.agent_id, item.task_id)
        track, owner = await places.tasks.found(item, is_untouched=lease.attempt == 1)
        snapshot = None
        if item.turn > 1:
            snapshot = await self._snapshot(track)
            # Much can have happened meanwhile; from here on nothing is waited for until the claim stands.
            track, owner = await places.tasks.found(item)
        if track.state.is_terminal or track.turn > item.turn or (track.turn == item.turn and track.state.ends_turn):
            places.tasks.close_turn(lease.delivery_id)
            return None
        before = places.claims.of_task(item.agent_id, item.task_id)
        if before is not None:
            # The engine was faster than the look at all claims. Where the taker had it, that costs it its standing.
            places.claims.end(before, "its lease has ended")
        if not self._may_have(item.agent_id, taker):
            # It was waited for since before that changed.
            await self._hold(lease, item)
            return None
        agent = places.agent(item.agent_id)
        now_ms = places.clock.now_ms()
        if await self._is_given_up(lease, item, track, owner, agent, now_ms):
            return None
        owner = self._with_deadline(owner, item, agent, now_ms)
        claim = Claim(
            delivery_id=delivery_id_of(lease, item),
            engine_id=lease.delivery_id,
            agent_id=item.agent_id,
            instance_id=taker.instance_id,
            track=track,
            turn=item.turn,
            attempt=lease.attempt,
            lease_ends_ms=places.clock.monotonic_ms() + places.settings.lease_ms * _LEASE_MARGIN,
            told=taker.told,
            deadline_ms=owner.deadline_ms,
            root=item.root,
        )
        # The claim before, if there is one, is over from here on: its word comes too late.
        places.claims.add(claim)
        try:
            await places.tasks.append(track, [self._announced(claim, now_ms)], instance_id=taker.instance_id)
        except BaseException:
            places.claims.end(claim)
            raise
        if claim.is_over:
            # Cancelled while it was announced.
            places.tasks.close_turn(lease.delivery_id)
            return None
        if not self._may_have(item.agent_id, taker):
            # That changed while it was announced: what looked for running tasks may have missed it.
            places.claims.end(claim)
            await self._take_back(lease, item, track)
            return None
        return HandedTask(claim, item, places.settings.lease_ms, self._chain(item, owner), snapshot)

    async def _hold(self, lease: Lease, item: InboxItem) -> None:
        """Back into the inbox, as if never taken."""
        tasks = self._places.tasks
        owner = await tasks.owners.owner_of(item.agent_id, item.task_id)
        if owner is not None:
            await tasks.change_now(owner, given_back=owner.given_back + 1)
        await tasks.inbox.retry(lease.delivery_id, at_ms=self._places.clock.now_ms(), reason="not handed out")

    async def _take_back(self, lease: Lease, item: InboxItem, track: Track) -> None:
        """What was announced and may not be handed out: of an agent that was removed nothing is left running."""
        tasks = self._places.tasks
        if self._places.directory.get(item.agent_id) is not None:
            await self._hold(lease, item)
            return
        await tasks.say(track, TaskState.CANCELED, text="its agent was removed")
        tasks.close_turn(lease.delivery_id)

    async def _is_given_up(
        self, lease: Lease, item: InboxItem, track: Track, owner: TaskOwner, agent: Agent, now_ms: int
    ) -> bool:
        places = self._places
        attempts_max = attempts_max_of(agent, places.settings.attempts_max)
        ending = is_exhausted(attempts_max, lease.attempt - owner.given_back)
        if ending is not None:
            await places.tasks.say(track, TaskState.FAILED, text=ending.reason, metadata={"code": "attempts_used_up"})
            await places.tasks.inbox.bury(lease.delivery_id, reason=ending.reason)
            return True
        late = owner.deadline_ms is not None and now_ms >= owner.deadline_ms
        if late or now_ms >= item.expires_at_ms:
            text = "Its time was up before an instance took it." if late else "It waited too long for an instance."
            await places.tasks.say(track, TaskState.FAILED, text=text, metadata={"code": "deadline_exceeded"})
            places.tasks.close_turn(lease.delivery_id)
            return True
        return False

    def _with_deadline(self, owner: TaskOwner, item: InboxItem, agent: Agent, now_ms: int) -> TaskOwner:
        """The agent's own time-out counts from the first attempt at a turn."""
        if owner.deadline_ms is not None:
            return owner
        timeout_ms = agent.settings.task_timeout_ms or self._places.settings.task_timeout_ms
        return self._places.tasks.change(owner, deadline_ms=item.deadline_ms or now_ms + timeout_ms)

    def _announced(self, claim: Claim, now_ms: int) -> Draft:
        body = event_bodies.status(
            claim.track.task_id,
            claim.track.context_id,
            TaskState.WORKING,
            at_ms=now_ms,
            metadata={"attempt": claim.attempt},
        )
        return Draft(
            body=body,
            state=TaskState.WORKING,
            turn=claim.turn,
            attempt=claim.attempt,
            source=0,
            instance=claim.instance_id,
        )

    async def _snapshot(self, track: Track) -> bytes:
        picture = await self._places.tasks.tracks.picture(track)
        return picture.encode()

    def _chain(self, item: InboxItem, owner: TaskOwner) -> str:
        places = self._places
        try:
            above = places.chains.read(item.chain) if item.chain else None
        except InvalidRequest:
            # The mesh's secret key was changed while the task waited: its work begins a chain of its own.
            above = None
        return places.guard.token(places.guard.child(above, item.agent_id, item.task_id, owner.deadline_ms))


def attempts_max_of(agent: Agent, default: int) -> int:
    """The agent's own setting, or the hub's."""
    return agent.settings.attempts_max or default
