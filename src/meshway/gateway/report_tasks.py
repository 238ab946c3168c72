"""An instance says what happens in the tasks it holds, and what is to become of them."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from meshway.gateway.lease_tasks import attempts_max_of
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import AgentNotFound, MeshwayError
from meshway.kernel.ids import AgentId, InstanceId
from meshway.kernel.retry import GiveUp, RetryAt, RetryPolicy, decide_after_failure
from meshway.tasks.claims import Claim, parse_delivery_id
from meshway.tasks.event_check import EventRefused, check_event
from meshway.tasks.event_writer import Overtaken
from meshway.tasks.track import Draft, Track
from meshway.tasks.values import TaskEvent, TaskState

__all__ = ["HoldShown", "ReportTasks", "Reported", "TaskReport", "TaskSettlementItem", "Told"]

_log = logging.getLogger(__name__)

# As in LeaseTasks.
_LEASE_MARGIN = 0.95
_REASON_CHARACTERS_MAX = 1_000
# Between attempts that failed, doubled each time: soon enough for a hiccup, slow enough for an outage.
_BACKOFF_INITIAL_MS, _BACKOFF_MAX_MS = 1_000, 60_000


# Ends the work at an instance, with the reason.
Told = Callable[[Claim, str], None]


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One event of one delivery; `source` numbers them from 1 without gaps."""

    delivery_id: str
    source: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Reported:
    """Of one delivery: everything up to `source` is kept; `stale`: it is not theirs any more; `refused`: see detail."""

    delivery_id: str
    outcome: Literal["done", "stale", "refused"]
    source: int = 0
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class TaskSettlementItem:
    """What is to become of a delivery without an event; see the frames of the WebSocket."""

    delivery_id: str
    action: Literal["extend", "retry", "fail", "release"]
    delay_ms: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class HoldShown:
    """Whether a delivery that an instance shows after a lost connection is still its own, and its last report."""

    delivery_id: str
    is_held: bool
    source: int = 0


class ReportTasks:
    """For instances that were admitted. What comes after the end of a lease is stale, whatever it is."""

    def __init__(
        self,
        places: TaskPlaces,
        *,
        chance: Callable[[], float] = random.random,
        taken_on: Callable[[str], None] = lambda delivery_id: None,
    ) -> None:
        """`chance`, in [0, 1), spreads the back-off; it is no secret. `taken_on` hears what was not handed out here."""
        self._places = places
        self._chance = chance
        self._taken_on = taken_on
        places.tasks.tracks.on_written_elsewhere(self._heard_elsewhere)

    def _heard_elsewhere(self, track: Track, events: Sequence[TaskEvent]) -> None:
        """Another hub wrote to a task that an instance works on here."""
        claim = self._places.claims.of_task(track.agent_id, track.task_id)
        if claim is None:
            return
        is_own_word = (track.turn, track.attempt) == (claim.turn, claim.attempt) and track.source > claim.source
        if is_own_word:
            # The instance speaks through two hubs.
            claim.source = track.source
        if claim.has_ended:
            self._places.claims.end(claim, None if is_own_word else "the task has ended")
            self._places.tasks.close_turn(claim.engine_id)
        elif is_own_word and claim.grace_ends_ms is not None:
            # It lost its connection here and went on there, and that hub's news of it did not arrive.
            self._places.claims.end(claim)
        elif (track.turn, track.attempt) != (claim.turn, claim.attempt):
            self._places.claims.end(claim, "another instance has the task")

    @property
    def lease_ms(self) -> int:
        """How long a hand-out lasts."""
        return self._places.settings.lease_ms

    @property
    def grace_ms(self) -> int:
        """How long a lost connection frees nothing."""
        return self._places.settings.reconnect_grace_ms

    async def report(
        self, agent_id: AgentId, reports: Sequence[TaskReport], *, told: Told | None = None
    ) -> Sequence[Reported]:
        """One outcome a delivery, in order of first mention; what is `done` is written.

        With `told`, deliveries that were handed out by another hub are taken on here, as `show_holds` does it.
        Raises: StorageFull, EngineUnavailable; then send the same again: what was kept is confirmed.
        """
        by_delivery: dict[str, list[TaskReport]] = {}
        for report in reports:
            by_delivery.setdefault(report.delivery_id, []).append(report)
        # All are appended before any is waited for: they share one write of the store.
        begun = [await self._begin(agent_id, delivery_id, items, told) for delivery_id, items in by_delivery.items()]
        outcomes = []
        for each, (delivery_id, items) in zip(begun, by_delivery.items(), strict=True):
            try:
                outcomes.append(await self._finish(each))
            except Overtaken:
                # The instance speaks through two hubs, or somebody has ended the task: once more, knowing that.
                outcomes.append(await self._finish(await self._begin(agent_id, delivery_id, items, told)))
        return outcomes

    async def _begin(
        self, agent_id: AgentId, delivery_id: str, items: Sequence[TaskReport], told: Told | None
    ) -> "_Begun":
        claim = await self._live_claim(agent_id, delivery_id, told)
        if claim is not None and told is not None and items[0].source > claim.source + 1:
            # What comes before it may have been taken by another hub, and not be heard of here yet.
            await self._places.tasks.tracks.catch_up(claim.track)
            claim = await self._live_claim(agent_id, delivery_id, told)
        if claim is None or (claim.is_ending and any(item.source > claim.source for item in items)):
            return _Begun(Reported(delivery_id, "stale"))
        track, state, refusal = claim.track, claim.track.state, None
        source = source_before = claim.source
        drafts: list[Draft] = []
        for item in items:
            if item.source <= source:
                continue
            if item.source != source + 1:
                refusal = f"report {item.source} does not follow {source}; send those between"
                break
            if drafts and state.ends_turn:
                refusal = f"report {source} has ended the delivery: it is {state.value}"
                break
            try:
                checked = check_event(item.body, task_id=track.task_id, context_id=track.context_id, before=state)
            except EventRefused as error:
                refusal = error.detail
                break
            state, source = checked.state, item.source
            if checked.cost:
                self._places.report_cost(claim.own_root, checked.cost)
            drafts.append(
                Draft(
                    body=item.body,
                    state=state,
                    turn=claim.turn,
                    attempt=claim.attempt,
                    source=source,
                    instance=claim.instance_id,
                )
            )
        outcome = Reported(delivery_id, "refused" if refusal else "done", source, refusal)
        claim.source = source
        # Also where there is nothing new: what is confirmed again may still be on its way.
        written = track.append(drafts, at_ms=self._places.clock.now_ms())
        return _Begun(outcome, claim, written, source_before)

    async def _finish(self, begun: "_Begun") -> Reported:
        claim, written = begun.claim, begun.written
        if claim is None or written is None:
            return begun.outcome
        try:
            await written
        except MeshwayError:
            claim.source = begun.source_before
            raise
        await self.follow(claim)
        return begun.outcome

    async def follow(self, claim: Claim) -> None:
        """Bring the record up to what was reported; a turn that has ended leaves the inbox.

        Raises: EngineUnavailable.
        """
        places = self._places
        await places.tasks.follow(claim.track)
        if claim.has_ended:
            places.claims.end(claim)
            places.tasks.close_turn(claim.engine_id)

    async def _live_claim(self, agent_id: AgentId, delivery_id: str, told: Told | None = None) -> Claim | None:
        """The claim, if it holds at this moment. Raises: EngineUnavailable."""
        places = self._places
        claim = places.claims.of_delivery(delivery_id)
        if claim is None and told is not None:
            return await self._found_again(agent_id, None, delivery_id, told)
        if claim is None or claim.agent_id != agent_id:
            return None
        if claim.lease_ends_ms <= places.clock.monotonic_ms():
            (held,) = await places.tasks.inbox.extend([claim.engine_id])
            if claim.is_over:
                return None
            if not held:
                places.claims.end(claim, "its lease has ended")
                return None
            self._extended(claim)
        track = claim.track
        if track.is_broken:
            await places.tasks.tracks.open(track.agent_id, track.task_id, context_id=track.context_id)
            if (track.turn, track.attempt) != (claim.turn, claim.attempt) or claim.is_over:
                places.claims.end(claim, "another instance has the task")
                return None
            if claim.has_ended:
                # Another hub has ended it.
                places.claims.end(claim, "the task has ended")
                places.tasks.close_turn(claim.engine_id)
                return None
        if track.attempt == claim.attempt and track.turn == claim.turn:
            # Where a report could not be written, the track may have been read anew before anybody asked for it.
            claim.source = track.source
        return claim

    def _extended(self, claim: Claim) -> None:
        places = self._places
        claim.lease_ends_ms = places.clock.monotonic_ms() + places.settings.lease_ms * _LEASE_MARGIN

    async def settle(
        self, agent_id: AgentId, items: Sequence[TaskSettlementItem], *, told: Told | None = None
    ) -> Sequence[str]:
        """`done` or `stale` for each, in order; `told` as in `report`.

        Raises: StorageFull, EngineUnavailable; then repeat it.
        """
        claims = [await self._live_claim(agent_id, item.delivery_id, told) for item in items]
        extending = [c for c, item in zip(claims, items, strict=True) if c is not None and item.action == "extend"]
        held = await self._extend(extending)
        outcomes = []
        for claim, item in zip(claims, items, strict=True):
            if claim is None or claim.is_over or claim.is_ending:
                outcomes.append("stale")
            elif item.action == "extend":
                outcomes.append("done" if claim.engine_id in held else "stale")
            else:
                outcomes.append("done" if await self._settle(claim, item) else "stale")
        return outcomes

    async def _extend(self, claims: Sequence[Claim]) -> set[str]:
        """Engine ids of those that hold for one more lease."""
        if not claims:
            return set()
        answers = await self._places.tasks.inbox.extend([claim.engine_id for claim in claims])
        held = set()
        for claim, is_held in zip(claims, answers, strict=True):
            if is_held:
                self._extended(claim)
                held.add(claim.engine_id)
            else:
                self._places.claims.end(claim, "its lease has ended")
        return held

    async def _settle(self, claim: Claim, item: TaskSettlementItem) -> bool:
        reason = (item.reason or "no reason given")[:_REASON_CHARACTERS_MAX]
        match item.action:
            case "fail":
                return await self.give_up(claim, reason)
            case "release":
                return await self.release(claim, reason=item.reason or "given back")
            case _:
                return await self.retry(claim, reason=reason, delay_ms=item.delay_ms)

    async def retry(self, claim: Claim, *, reason: str, delay_ms: int | None = None) -> bool:
        """Another attempt after the back-off, or the dead letters after the last one. False: it was over before.

        Raises: StorageFull, EngineUnavailable.
        """
        places = self._places
        owner = await places.tasks.owners.owner_of(claim.agent_id, claim.track.task_id)
        given_back = 0 if owner is None else owner.given_back
        policy = RetryPolicy(self._attempts_max(claim), _BACKOFF_INITIAL_MS, _BACKOFF_MAX_MS)
        decision = decide_after_failure(
            policy,
            claim.attempt - given_back,
            reason=reason,
            now_ms=places.clock.now_ms(),
            chance=self._chance(),
            delay_ms=delay_ms,
        )
        match decision:
            case GiveUp():
                return await self.give_up(claim, decision.reason)
            case RetryAt():
                return await self._again(claim, at_ms=decision.visible_at_ms, reason=reason)

    async def _again(self, claim: Claim, *, at_ms: int, reason: str, tell: str | None = None) -> bool:
        places = self._places
        if claim.is_over or claim.is_ending:
            return False
        # Told before the task is due: who has fallen silent must not take it again.
        places.claims.end(claim, tell)
        await self._say_attempt_failed(claim, reason)
        return await places.tasks.inbox.retry(claim.engine_id, at_ms=at_ms, reason=reason)

    async def _say_attempt_failed(self, claim: Claim, reason: str) -> None:
        facts: dict[str, object] = {"attempt": claim.attempt, "attemptFailed": reason}
        await self._places.tasks.say(claim.track, TaskState.WORKING, metadata=facts)

    async def lost(self, claim: Claim, *, reason: str) -> None:
        """The instance is gone: the task is due again at once, or given up after its last. Raises: as `retry`."""
        places = self._places
        owner = await places.tasks.owners.owner_of(claim.agent_id, claim.track.task_id)
        given_back = 0 if owner is None else owner.given_back
        attempts_max = self._attempts_max(claim)
        if claim.attempt - given_back >= attempts_max:
            # Only what is still ours can be buried; what is not is given up by whoever leases it next.
            (held,) = await places.tasks.inbox.extend([claim.engine_id])
            if held:
                text = f"attempt {claim.attempt - given_back} of {attempts_max} failed: {reason}"
                await self.give_up(claim, text, tell="its lease has ended")
                return
        await self._again(claim, at_ms=places.clock.now_ms(), reason=reason, tell="its lease has ended")

    async def release(self, claim: Claim, *, reason: str) -> bool:
        """Due again at once, and the attempt does not count. False: it was over before. Raises: as `retry`."""
        return await self._give_back(claim, reason, delay_ms=0)

    async def postpone(self, claim: Claim, *, reason: str) -> bool:
        """As `release`, but due after the back-off."""
        policy = RetryPolicy(self._attempts_max(claim), _BACKOFF_INITIAL_MS, _BACKOFF_MAX_MS)
        return await self._give_back(claim, reason, delay_ms=policy.backoff_ms(claim.attempt, self._chance()))

    async def _give_back(self, claim: Claim, reason: str, *, delay_ms: int) -> bool:
        places = self._places
        owner = await places.tasks.owners.owner_of(claim.agent_id, claim.track.task_id)
        if claim.is_over or claim.is_ending:
            return False
        places.claims.end(claim)
        if owner is not None:
            await places.tasks.change_now(owner, given_back=owner.given_back + 1)
        at_ms = places.clock.now_ms() + delay_ms
        return await places.tasks.inbox.retry(claim.engine_id, at_ms=at_ms, reason=reason)

    async def release_all(self, agent_id: AgentId, instance_id: InstanceId) -> None:
        """The instance leaves: everything it holds is due again. Raises: as `retry`."""
        for claim in self._places.claims.held_by(agent_id, instance_id):
            await self.release(claim, reason="the instance has left")

    async def give_up(self, claim: Claim, reason: str, *, tell: str | None = None) -> bool:
        """FAILED, and to the agent's dead letters. False: it was over before. Raises: as `retry`."""
        places = self._places
        if claim.is_over or claim.is_ending:
            return False
        places.claims.end(claim, tell)
        await places.tasks.say(claim.track, TaskState.FAILED, text=reason, metadata={"code": "attempts_used_up"})
        return await places.tasks.inbox.bury(claim.engine_id, reason=reason)

    async def show_holds(
        self,
        agent_id: AgentId,
        instance_id: InstanceId,
        delivery_ids: Sequence[str],
        told: Told,
    ) -> Sequence[HoldShown]:
        """An instance is back and shows what it works on; each is its own again for a full lease, or is not.

        Raises: StorageFull, EngineUnavailable.
        """
        return [await self._show_hold(agent_id, instance_id, each, told) for each in delivery_ids]

    async def _show_hold(self, agent_id: AgentId, instance_id: InstanceId, delivery_id: str, told: Told) -> HoldShown:
        claim = await self._live_claim(agent_id, delivery_id)
        if claim is None:
            claim = await self._found_again(agent_id, instance_id, delivery_id, told)
        elif claim.instance_id != instance_id:
            claim = None
        if claim is None:
            return HoldShown(delivery_id, is_held=False)
        claim.told = told
        claim.grace_ends_ms = None
        await self._extend([claim])
        return HoldShown(delivery_id, is_held=not claim.is_over, source=claim.source)

    async def _found_again(
        self, agent_id: AgentId, instance_id: InstanceId | None, delivery_id: str, told: Told
    ) -> Claim | None:
        """A claim that this hub does not know: made by another one, or by this one before it died.

        `instance_id` None: of whichever instance the task says has it; who knows the delivery id is that.
        """
        places = self._places
        name = parse_delivery_id(delivery_id)
        owner = None if name is None else await places.tasks.owners.owner_of(agent_id, name.task_id)
        if name is None or owner is None or not owner.hub_owned:
            return None
        track = await places.tasks.track_of(owner)
        if (name.turn, name.attempt) > (track.turn, track.attempt):
            # Handed out a moment ago, by a hub that was heard by the instance first.
            await places.tasks.tracks.catch_up(track)
        holder = InstanceId(track.instance) if instance_id is None else instance_id
        if (track.turn, track.attempt, track.instance) != (name.turn, name.attempt, holder):
            return None
        (held,) = await places.tasks.inbox.extend([name.engine_id])
        known = places.claims.of_task(agent_id, name.task_id)
        if not held or track.state.ends_turn or known is not None:
            if held and track.state.ends_turn:
                places.tasks.close_turn(name.engine_id)
            return None
        claim = Claim(
            delivery_id=delivery_id,
            engine_id=name.engine_id,
            agent_id=agent_id,
            instance_id=holder,
            track=track,
            turn=name.turn,
            attempt=name.attempt,
            lease_ends_ms=0.0,
            told=told,
            deadline_ms=owner.deadline_ms,
            source=track.source,
            root=owner.root,
        )
        self._extended(claim)
        places.claims.add(claim)
        self._taken_on(delivery_id)
        return claim

    def _attempts_max(self, claim: Claim) -> int:
        try:
            agent = self._places.agent(claim.agent_id)
        except AgentNotFound:
            return self._places.settings.attempts_max
        return attempts_max_of(agent, self._places.settings.attempts_max)


@dataclass(slots=True)
class _Begun:
    """A delivery's reports on their way into the log."""

    outcome: Reported
    claim: Claim | None = None
    written: "asyncio.Future[None] | None" = None
    source_before: int = 0
