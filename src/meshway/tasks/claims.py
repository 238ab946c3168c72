"""Who works on which turn of a task at this hub: claims, found by their delivery ids.

A delivery id is `<attempt>.<turn>.<task>.<engine's id>`: an instance that comes back after its hub was gone shows it,
and the hub finds the task again. It is no secret: the engine's part cannot be guessed, and it alone says whether it
holds.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from meshway.engine.ports import Lease
from meshway.kernel.ids import AgentId, InstanceId, TaskId
from meshway.tasks.inbox import InboxItem
from meshway.tasks.track import Track
from meshway.tasks.values import TaskParent

__all__ = ["Claim", "Claims", "DeliveryName", "delivery_id_of", "parse_delivery_id"]

_CHARACTERS_MAX = 1_024
_NUMBER_DIGITS_MAX = 9


@dataclass(frozen=True, slots=True)
class DeliveryName:
    """What a delivery id says."""

    attempt: int
    turn: int
    task_id: TaskId
    engine_id: str


def delivery_id_of(lease: Lease, item: InboxItem) -> str:
    """For the instance that gets it."""
    return f"{lease.attempt}.{item.turn}.{item.task_id}.{lease.delivery_id}"


def parse_delivery_id(text: str) -> DeliveryName | None:
    """None for what no hub ever gave out."""
    parts = text.split(".", 3)
    if len(text) > _CHARACTERS_MAX or len(parts) != 4 or not all(parts):
        return None
    attempt, turn, task_id, engine_id = parts
    if not all(n.isascii() and n.isdecimal() and len(n) <= _NUMBER_DIGITS_MAX for n in (attempt, turn)):
        return None
    return DeliveryName(int(attempt), int(turn), TaskId(task_id), engine_id)


@dataclass(slots=True, eq=False)
class Claim:
    """One hand-out of one turn. `told` ends the work at its instance, with the reason; called at most once."""

    delivery_id: str
    engine_id: str
    agent_id: AgentId
    instance_id: InstanceId
    track: Track
    turn: int
    attempt: int
    # As the engine counts; the monotonic end is a little earlier than the engine's own.
    lease_ends_ms: float
    told: Callable[["Claim", str], None]
    deadline_ms: int | None = None
    # The connection was lost, and its grace ends then (monotonic ms); None: it is there.
    grace_ends_ms: float | None = None
    # The number of the last report that is on its way into the log.
    source: int = 0
    # The task at the head of the chain; None: this one.
    root: TaskParent | None = None
    is_over: bool = False

    @property
    def is_ending(self) -> bool:
        """What ends the turn is written, or on its way: nothing may be said before it, and nobody else ends it."""
        track = self.track
        return not track.is_broken and (track.turn > self.turn or track.state.ends_turn)

    @property
    def has_ended(self) -> bool:
        """What ends the turn is written."""
        return self.is_ending and (self.track.turn > self.turn or self.track.written_state.ends_turn)

    @property
    def own_root(self) -> TaskParent:
        """Where what this work costs is counted."""
        return self.root or TaskParent(agent_id=self.agent_id, task_id=self.track.task_id)


class Claims:
    """Used from the event loop only."""

    def __init__(self) -> None:
        self._by_delivery: dict[str, Claim] = {}
        self._by_task: dict[tuple[AgentId, TaskId], Claim] = {}
        self._listeners: list[Callable[[Claim], None]] = []

    def __len__(self) -> int:
        return len(self._by_delivery)

    def on_end(self, listener: Callable[[Claim], None]) -> None:
        """Call `listener` with each claim that ended, whatever ended it. For life."""
        self._listeners.append(listener)

    def all(self) -> Iterable[Claim]:
        """A copy: claims may end while it is gone through."""
        return tuple(self._by_delivery.values())

    def add(self, claim: Claim) -> None:
        """A newer claim of a task takes the place of the one before, which is over."""
        before = self._by_task.get((claim.agent_id, claim.track.task_id))
        if before is not None:
            self.end(before)
        claim.track.pins += 1
        self._by_delivery[claim.delivery_id] = claim
        self._by_task[claim.agent_id, claim.track.task_id] = claim

    def of_delivery(self, delivery_id: str) -> Claim | None:
        return self._by_delivery.get(delivery_id)

    def of_task(self, agent_id: AgentId, task_id: TaskId) -> Claim | None:
        return self._by_task.get((agent_id, task_id))

    def held_by(self, agent_id: AgentId, instance_id: InstanceId) -> Iterable[Claim]:
        return [
            claim
            for claim in self._by_delivery.values()
            if claim.agent_id == agent_id and claim.instance_id == instance_id
        ]

    def of_agent(self, agent_id: AgentId | None) -> Iterable[Claim]:
        """None: of all agents."""
        return [claim for claim in self._by_delivery.values() if agent_id is None or claim.agent_id == agent_id]

    def end(self, claim: Claim, reason: str | None = None) -> None:
        """Nothing it says counts any more. Tells its instance where there is a reason to stop. Idempotent."""
        if claim.is_over:
            return
        claim.is_over = True
        claim.track.pins -= 1
        self._by_delivery.pop(claim.delivery_id, None)
        if self._by_task.get((claim.agent_id, claim.track.task_id)) is claim:
            del self._by_task[claim.agent_id, claim.track.task_id]
        for listener in self._listeners:
            listener(claim)
        if reason is not None:
            claim.told(claim, reason)
