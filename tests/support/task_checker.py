"""Judges what becomes of tasks: what was asked of a hub, what it answered, and what stands in its logs. Pure.

It knows nothing of the hub but its promises. Time is virtual and one thing happens after the other, so every answer and
every event can be predicted: each call here says what was asked and answered, then `observe` is shown the logs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["INTERRUPTED", "Broken", "EventSeen", "Handed", "ReceiptSeen", "Said", "TaskChecker", "TaskRules"]

TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELED", "REJECTED"})
INTERRUPTED = frozenset({"INPUT_REQUIRED", "AUTH_REQUIRED"})
ENDS_TURN = TERMINAL | INTERRUPTED
# What an instance may say while it works.
SAYABLE = ENDS_TURN | {"WORKING"}


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass(frozen=True, slots=True)
class TaskRules:
    """What the hub was told to do."""

    lease_ms: int
    attempts_max: int
    task_timeout_ms: int
    inbox_ttl_ms: int
    grace_ms: int
    backoff_initial_ms: int = 1_000

    @property
    def soft_ms(self) -> int:
        """The hub looks after a lease that is nearly over."""
        return int(self.lease_ms * 0.95)


class EventSeen(NamedTuple):
    """An event as the log has it. `announces`: the attempt it begins; `failed`: the attempt that it says failed."""

    number: int
    kind: str
    state: str
    turn: int
    attempt: int
    source: int
    code: str | None = None
    announces: int | None = None
    failed: int | None = None


class Handed(NamedTuple):
    """What an instance was given."""

    task_id: str
    delivery_id: str
    turn: int
    attempt: int
    instance: str


class Said(NamedTuple):
    """One report: `state` None is an artifact."""

    source: int
    state: str | None


class ReceiptSeen(NamedTuple):
    """One step of a task, as its client is told."""

    state: str
    turn: int
    attempt: int


@dataclass(slots=True)
class _Hold:
    """One hand-out as the engine counts; `is_known`: the hub knows whose it is."""

    handed: Handed
    soft_ms: int
    hard_ms: int
    source: int = 0
    is_known: bool = True
    grace_ends_ms: int | None = None

    def is_silent(self, now_ms: int) -> bool:
        """Whether the hub gives up on the instance when it looks."""
        did_not_return = self.grace_ends_ms is not None and self.grace_ends_ms <= now_ms
        return did_not_return or self.soft_ms <= now_ms < self.hard_ms


@dataclass(slots=True)
class _Task:
    task_id: str
    due_ms: int
    expires_ms: int
    deadline_ms: int | None
    state: str = "SUBMITTED"
    turn: int = 1
    # Of this turn: hand-outs, and those among them that do not count.
    hand_outs: int = 0
    given_back: int = 0
    hold: _Hold | None = None
    # Somebody besides this hub has written to it.
    is_foreign: bool = False
    events: list[EventSeen] = field(default_factory=list)
    expected: list[EventSeen] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.state not in ENDS_TURN

    def expect(self, kind: str, state: str, **facts: object) -> None:
        """The next event, which `observe` must find. It is the word of the last attempt unless it says more."""
        last = (self.expected or self.events or [None])[-1]
        place = {"turn": 1, "attempt": 0, "source": 0}
        if last is not None:
            place = {"turn": last.turn, "attempt": last.attempt, "source": last.source}
        number = 1 if last is None else last.number + 1
        self.expected.append(EventSeen(number, kind, state, **{**place, **facts}))
        self.state = state
        if state in ENDS_TURN:
            self.hold = None


class TaskChecker:
    """Raises Broken at the first promise that was not kept."""

    def __init__(self, rules: TaskRules) -> None:
        self.rules = rules
        self._tasks: dict[str, _Task] = {}
        self._holds: dict[str, _Hold] = {}
        self._dead: set[str] = set()

    # Clients

    def accepted(self, task_id: str, *, now_ms: int, timeout_ms: int | None = None) -> None:
        """A new task was accepted."""
        if task_id in self._tasks:
            raise Broken(f"{task_id}: two tasks have this id")
        deadline_ms = None if timeout_ms is None else now_ms + timeout_ms
        task = _Task(task_id, now_ms, now_ms + self.rules.inbox_ttl_ms, deadline_ms)
        task.expect("task", "SUBMITTED")
        self._tasks[task_id] = task

    def answered(self, task_id: str, *, is_taken: bool, now_ms: int) -> None:
        """The client sent a further message."""
        task = self._tasks[task_id]
        may = task.state in INTERRUPTED
        if is_taken is not may:
            raise Broken(f"{task_id}: an answer was {'taken' if is_taken else 'refused'}; it is {task.state}")
        if not may:
            return
        task.turn += 1
        task.hand_outs = task.given_back = 0
        task.due_ms, task.deadline_ms = now_ms, None
        task.expires_ms = now_ms + self.rules.inbox_ttl_ms
        task.expect("task", "SUBMITTED", turn=task.turn, attempt=0, source=0)

    def cancelled(self, task_id: str, *, is_done: bool) -> None:
        """Its client, or an operator, cancelled it."""
        task = self._tasks[task_id]
        may = task.state not in TERMINAL
        if is_done is not may:
            raise Broken(f"{task_id}: was {'' if is_done else 'not '}cancelled though it was {task.state}")
        if may:
            task.expect("status", "CANCELED")

    def cancelled_elsewhere(self, task_id: str) -> None:
        """Another hub did it; this one does not know yet."""
        self.cancelled(task_id, is_done=True)
        self._tasks[task_id].is_foreign = True

    def stopped(self) -> None:
        """The agent was stopped: what runs is cancelled, what waits is not."""
        for task in self._tasks.values():
            if task.state == "WORKING" or task.state in INTERRUPTED:
                task.expect("status", "CANCELED")

    # Instances

    def leased(self, handed: Sequence[Handed], *, now_ms: int) -> None:
        """An instance asked for work and got this."""
        for each in handed:
            self._hand_out(each, now_ms)

    def _hand_out(self, handed: Handed, now_ms: int) -> None:
        task = self._tasks.get(handed.task_id)
        if task is None:
            raise Broken(f"{handed.task_id}: nobody asked for it")
        name = task.task_id
        if not task.is_open or handed.turn != task.turn:
            raise Broken(f"{name}: turn {handed.turn} was handed out; it is {task.state} in turn {task.turn}")
        self._drop_expired(task, now_ms)
        if task.hold is not None:
            raise Broken(f"{name}: was handed out while {task.hold.handed.instance} holds it")
        if task.due_ms > now_ms:
            raise Broken(f"{name}: was handed out {task.due_ms - now_ms} ms before it was due")
        if self._is_late(task, now_ms):
            raise Broken(f"{name}: was handed out though its time was up")
        task.hand_outs += 1
        if handed.attempt != task.hand_outs:
            raise Broken(f"{name}: hand-out {task.hand_outs} was called attempt {handed.attempt}")
        if task.hand_outs - task.given_back > self.rules.attempts_max:
            raise Broken(f"{name}: was handed out after all its attempts")
        if task.deadline_ms is None:
            task.deadline_ms = now_ms + self.rules.task_timeout_ms
        hold = _Hold(handed, now_ms + self.rules.soft_ms, now_ms + self.rules.lease_ms)
        task.hold = self._holds[handed.delivery_id] = hold
        task.expect("status", "WORKING", turn=task.turn, attempt=handed.attempt, source=0, announces=handed.attempt)

    def nothing_due(self, *, now_ms: int) -> None:
        """An instance asked and got nothing: nothing may be left that it could have got."""
        for task in self._tasks.values():
            self._drop_expired(task, now_ms)
            if task.is_open and task.hold is None and task.due_ms <= now_ms:
                raise Broken(f"{task.task_id}: is due and was not handed out")

    def reported(self, delivery_id: str, said: Sequence[Said], *, outcome: str, source: int, now_ms: int) -> None:
        """An instance said this in one call."""
        hold = self._live(delivery_id, now_ms)
        if hold is None:
            # A hub that does not know yet what another has done may refuse for other reasons, but keeps nothing.
            is_foreign = self._tasks[self._holds[delivery_id].handed.task_id].is_foreign
            if outcome != "stale" and not (is_foreign and outcome == "refused"):
                raise Broken(f"{delivery_id}: a report of what is over was {outcome}")
            return
        task = self._tasks[hold.handed.task_id]
        expected_outcome = "done"
        for each in said:
            if each.source <= hold.source:
                continue
            may = task.state not in ENDS_TURN and (each.state is None or each.state in SAYABLE)
            if each.source != hold.source + 1 or not may:
                expected_outcome = "refused"
                break
            hold.source = each.source
            kind = "artifact" if each.state is None else "status"
            task.expect(kind, each.state or task.state, source=each.source)
        if (outcome, source) != (expected_outcome, hold.source):
            raise Broken(f"{delivery_id}: was {outcome} up to {source}, not {expected_outcome} up to {hold.source}")

    def settled(self, delivery_id: str, action: str, *, outcome: str, delay_ms: int | None, now_ms: int) -> None:
        """An instance said what is to become of what it holds."""
        hold = self._live(delivery_id, now_ms)
        if outcome != ("stale" if hold is None else "done"):
            raise Broken(f"{delivery_id}: {action} of what is {'over' if hold is None else 'held'} was {outcome}")
        if hold is None:
            return
        task = self._tasks[hold.handed.task_id]
        match action:
            case "extend":
                self._extend(hold, now_ms)
            case "release":
                self._give_back(task, now_ms)
            case "fail":
                self._give_up(task)
            case "retry":
                counted = hold.handed.attempt - task.given_back
                if counted >= self.rules.attempts_max:
                    self._give_up(task)
                else:
                    wait_ms = (self.rules.backoff_initial_ms << counted - 1) // 2 if delay_ms is None else delay_ms
                    self._attempt_failed(task, due_ms=now_ms + wait_ms)

    def left(self, instance: str, *, now_ms: int) -> None:
        """An instance said good-bye: all it holds at this hub is due again, uncounted."""
        for task in self._tasks.values():
            if task.hold is not None and task.hold.is_known and task.hold.handed.instance == instance:
                if task.hold.hard_ms <= now_ms:
                    # Its lease had ended, as the next hand-out shows; that it was given back is believed all the same.
                    task.due_ms = task.hold.hard_ms
                    task.given_back += 1
                    task.hold = None
                else:
                    self._give_back(task, now_ms)

    def lost_connection(self, instance: str, *, now_ms: int) -> None:
        for task in self._tasks.values():
            if task.hold is not None and task.hold.is_known and task.hold.handed.instance == instance:
                task.hold.grace_ends_ms = now_ms + self.rules.grace_ms

    def showed(self, delivery_id: str, *, is_held: bool, source: int, now_ms: int) -> None:
        """An instance was back and asked whether this is still its own."""
        hold = self._holds[delivery_id]
        task = self._tasks[hold.handed.task_id]
        is_own = task.hold is hold and hold.hard_ms > now_ms
        if is_held is not is_own:
            raise Broken(f"{delivery_id}: is {'held' if is_held else 'over'}, says the hub; it is not")
        if not is_own:
            self._drop_expired(task, now_ms)
            return
        if source != hold.source:
            raise Broken(f"{delivery_id}: report {hold.source} was kept, the hub says {source}")
        hold.is_known, hold.grace_ends_ms = True, None
        self._extend(hold, now_ms)

    def _live(self, delivery_id: str, now_ms: int) -> _Hold | None:
        """The hold if whoever has it may speak; asked by a call, which extends what is nearly over."""
        hold = self._holds[delivery_id]
        task = self._tasks[hold.handed.task_id]
        if task.hold is not hold or not hold.is_known:
            return None
        if hold.hard_ms <= now_ms:
            self._drop_expired(task, now_ms)
            return None
        if hold.soft_ms <= now_ms:
            self._extend(hold, now_ms)
        return hold

    def _extend(self, hold: _Hold, now_ms: int) -> None:
        hold.soft_ms, hold.hard_ms = now_ms + self.rules.soft_ms, now_ms + self.rules.lease_ms

    def _give_back(self, task: _Task, now_ms: int) -> None:
        task.given_back += 1
        task.hold, task.due_ms = None, now_ms

    def _attempt_failed(self, task: _Task, *, due_ms: int) -> None:
        assert task.hold is not None
        task.expect("status", "WORKING", failed=task.hold.handed.attempt)
        task.hold, task.due_ms = None, due_ms

    def _give_up(self, task: _Task) -> None:
        self._dead.add(f"{task.task_id}.{task.turn}")
        task.expect("status", "FAILED", code="attempts_used_up")

    def _drop_expired(self, task: _Task, now_ms: int) -> None:
        hold = task.hold
        if hold is not None and hold.hard_ms <= now_ms:
            task.hold, task.due_ms = None, hold.hard_ms

    # The hub

    def looked(self, *, now_ms: int) -> None:
        """The hub looked after everything at this time."""
        for task in self._tasks.values():
            if not task.is_open or task.is_foreign:
                continue
            hold = task.hold
            if hold is None or not hold.is_known:
                self._look_at_waiting(task, now_ms)
            elif task.deadline_ms is not None and task.deadline_ms <= now_ms:
                task.expect("status", "FAILED", code="deadline_exceeded")
            elif hold.is_silent(now_ms):
                self._lost(task, hold, now_ms)
            else:
                self._drop_expired(task, now_ms)

    def _lost(self, task: _Task, hold: _Hold, now_ms: int) -> None:
        """Due again; after the last attempt it is given up, unless its lease is over: then by the next hand-out."""
        is_last = hold.handed.attempt - task.given_back >= self.rules.attempts_max
        if is_last and hold.hard_ms > now_ms:
            self._give_up(task)
        else:
            self._attempt_failed(task, due_ms=min(now_ms, hold.hard_ms))

    def _look_at_waiting(self, task: _Task, now_ms: int) -> None:
        limits = [task.deadline_ms] if task.state == "WORKING" else [task.deadline_ms, task.expires_ms]
        if any(limit is not None and limit <= now_ms for limit in limits):
            task.expect("status", "FAILED", code="deadline_exceeded")

    def _is_late(self, task: _Task, now_ms: int) -> bool:
        return task.expires_ms <= now_ms or (task.deadline_ms is not None and task.deadline_ms <= now_ms)

    def crashed(self) -> None:
        """The hub forgot everything that is not stored. The engine did not."""
        for task in self._tasks.values():
            task.is_foreign = False
            if task.hold is not None:
                task.hold.is_known = False

    def engine_restarted(self, *, now_ms: int) -> None:
        """Each lease that had not ended was given one full lease time."""
        for task in self._tasks.values():
            self._drop_expired(task, now_ms)
            if task.hold is not None:
                task.hold.hard_ms = now_ms + self.rules.lease_ms

    # What is there

    def observe(self, logs: Mapping[str, Sequence[EventSeen]], *, now_ms: int, after_lease: bool = False) -> None:
        """The events of all tasks, just after something happened."""
        for task_id, events in logs.items():
            task = self._tasks[task_id]
            known = len(task.events)
            if list(events[:known]) != task.events:
                raise Broken(f"{task_id}: what was written has changed: {task.events} {events}")
            for event in events[known:]:
                self._take(task, event, now_ms, after_lease=after_lease)
            if task.expected:
                raise Broken(f"{task_id}: was to have {task.expected[0]}")

    def _take(self, task: _Task, event: EventSeen, now_ms: int, *, after_lease: bool) -> None:
        name, last = task.task_id, task.events[-1] if task.events else None
        if event.number != (1 if last is None else last.number + 1):
            raise Broken(f"{name}: event {event.number} follows {last}")
        if last is not None and last.state in TERMINAL:
            raise Broken(f"{name}: {event} follows the end: {last}")
        if last is not None and event.turn == last.turn and event.attempt < last.attempt:
            raise Broken(f"{name}: {event} is of an attempt before {last}")
        if not task.expected and after_lease:
            self._given_up_at_lease(task, event, now_ms)
        if not task.expected or task.expected[0] != event:
            raise Broken(f"{name}: has {event}, not {task.expected[:1]}")
        task.expected.pop(0)
        task.events.append(event)

    def _given_up_at_lease(self, task: _Task, event: EventSeen, now_ms: int) -> None:
        """What an instance would have got, had it not had its time or its attempts: the hub ends it then."""
        self._drop_expired(task, now_ms)
        if not task.is_open or task.hold is not None or task.due_ms > now_ms:
            return
        if task.hand_outs + 1 - task.given_back > self.rules.attempts_max and event.code == "attempts_used_up":
            self._give_up(task)
        elif self._is_late(task, now_ms) and event.code == "deadline_exceeded":
            task.expect("status", "FAILED", code="deadline_exceeded")

    def holding(self, claims: Iterable[tuple[str, str]]) -> None:
        """Task and delivery of everything that the hub believes to be worked on."""
        seen: dict[str, str] = {}
        for task_id, delivery_id in claims:
            if task_id in seen:
                raise Broken(f"{task_id}: is held twice, by {seen[task_id]} and {delivery_id}")
            seen[task_id] = delivery_id

    def stored(self, waiting: Sequence[str], dead: Sequence[str]) -> None:
        """All of the inbox and of the dead letters, as `<task>.<turn>`: nothing that was accepted is lost."""
        if len(set(waiting)) != len(waiting):
            raise Broken(f"a turn is in the inbox twice: {waiting}")
        for name in waiting:
            if name.rpartition(".")[0] not in self._tasks:
                raise Broken(f"{name}: is in the inbox, and nobody asked for it")
        for task in self._tasks.values():
            if task.is_open and f"{task.task_id}.{task.turn}" not in waiting:
                raise Broken(f"{task.task_id}: is lost: {task.state} and not in the inbox")
        if sorted(dead) != sorted(self._dead):
            raise Broken(f"the dead letters are {dead}, not {self._dead}")

    def recorded(self, task_id: str, *, state: str, turn: int) -> None:
        """What lists show."""
        task = self._tasks[task_id]
        if not task.is_foreign and (state, turn) != (task.state, task.turn):
            raise Broken(f"{task_id}: is listed as {state} in turn {turn}; it is {task.state} in turn {task.turn}")

    def receipts(self, task_id: str, receipts: Sequence[ReceiptSeen]) -> None:
        """They agree with the events."""
        task = self._tasks[task_id]
        if task.is_foreign:
            return
        expected = list(_steps(task.events))
        if list(receipts) != expected:
            raise Broken(f"{task_id}: has the receipts {receipts}, not {expected}")

    def followed(self, task_id: str, after: int, seen: Sequence[EventSeen], *, is_over: bool) -> None:
        """What one follower got so far, all of it: the same as everybody else."""
        task = self._tasks[task_id]
        there = task.events[after:]
        if task.is_foreign:
            there = there[: len(seen)]
        if list(seen) != there:
            raise Broken(f"{task_id}: a follower after {after} saw {list(seen)}, not {there}")
        if is_over and task.state not in TERMINAL:
            raise Broken(f"{task_id}: a follower was let go before the end")

    # For whoever drives

    def tasks(self) -> Sequence[str]:
        return list(self._tasks)

    def has_due(self, *, now_ms: int) -> bool:
        """Whether an instance that asks now gets something, or has the hub give something up."""
        return any(
            task.is_open and task.due_ms <= now_ms and (task.hold is None or task.hold.hard_ms <= now_ms)
            for task in self._tasks.values()
        )

    def is_held(self, delivery_id: str, *, now_ms: int) -> bool:
        """Whether what is said of it now counts."""
        hold = self._holds[delivery_id]
        is_own = self._tasks[hold.handed.task_id].hold is hold
        return is_own and hold.is_known and hold.hard_ms > now_ms

    def last_number(self, task_id: str) -> int:
        """Of the last event that is written, as far as this hub can know."""
        task = self._tasks[task_id]
        return len(task.events) - task.is_foreign

    def is_foreign(self, task_id: str) -> bool:
        return self._tasks[task_id].is_foreign

    def tasks_in(self, states: Iterable[str]) -> Sequence[str]:
        wanted = set(states)
        return [task.task_id for task in self._tasks.values() if task.state in wanted]


def _steps(events: Sequence[EventSeen]) -> Iterable[ReceiptSeen]:
    ran = False
    for event in events:
        here = (event.turn, event.attempt)
        if event.kind == "task":
            yield ReceiptSeen("queued", *here)
        elif event.announces is not None:
            ran = False
            yield ReceiptSeen("claimed", *here)
        elif event.failed is not None:
            yield ReceiptSeen("failed", *here)
            yield ReceiptSeen("queued", event.turn, event.attempt + 1)
        else:
            is_own = event.code is None and event.state != "CANCELED"
            if is_own and not ran:
                ran = True
                yield ReceiptSeen("running", *here)
            if event.state in TERMINAL - {"COMPLETED"}:
                yield ReceiptSeen("failed", *here)
            elif event.state in ENDS_TURN:
                yield ReceiptSeen("replied", *here)
