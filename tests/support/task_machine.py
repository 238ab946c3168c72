"""Everybody who has to do with tasks, as one state machine over the rooms of tasks; `support.task_checker` judges.

Clients submit, answer, cancel and follow; instances lease, report, settle, fall silent, leave and come back late; hubs
crash and meet each other; time passes when the walk says so.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from meshway.gateway.lease_tasks import HandedTask
from meshway.kernel.errors import EngineUnavailable, OperationUnsupported, TaskNotCancelable
from meshway.registry.values import AgentSettings
from meshway.tasks.settings import TaskSettings
from meshway.tasks.values import TaskEvent, TaskState
from meshway.testing.clock import ManualClock
from support.task_checker import INTERRUPTED, Broken, EventSeen, Handed, ReceiptSeen, Said, TaskChecker, TaskRules
from support.task_rig import ADMIN, COUNTER, Reader, TaskParts, TaskRig, artifact, open_engine, status

__all__ = ["TaskMachine"]

Value = TypeVar("Value")
# Two attempts, so that random walks often come to the last one; limits that a few steps of time reach.
LEASE_MS, ATTEMPTS_MAX, TIMEOUT_MS, TTL_MS, GRACE_MS = 10_000, 2, 45_000, 60_000, 3_000
INSTANCES = ("one", "two")
PATIENCE_S = 0.5


@dataclass(slots=True)
class Follower:
    """A client that follows a task, over however many hubs."""

    task_id: str
    after: int
    seen: list[EventSeen]
    reader: Reader
    taken: int = 0

    def collect(self) -> None:
        fresh = self.reader.seen[self.taken :]
        self.taken = len(self.reader.seen)
        self.seen += [seen_of(event) for event in fresh]


PICK = st.integers(0, 9)
SAYINGS = st.sampled_from([None, None, "WORKING", "INPUT_REQUIRED", "INPUT_REQUIRED", "COMPLETED", "SUBMITTED"])
# What may happen, how often beside the others, and with what. One rule draws of these: of many rules Hypothesis leaves
# some out in each walk, and most walks would lack what a task needs to come to its end.
STEPS: Mapping[str, tuple[int, st.SearchStrategy]] = {
    "submit": (
        3,
        st.fixed_dictionaries(
            {
                # The hub dies, or fails to write, after the key or the inbox, and the client sends the same again.
                "loses": st.sampled_from([None, None, None, "key", "inbox"]),
                "timeout_ms": st.sampled_from([None, None, 8_000, 30_000]),
                "restarts": st.booleans(),
            }
        ),
    ),
    "answer": (3, st.fixed_dictionaries({"pick": PICK, "loses": st.sampled_from([None, None, "key", "inbox"])})),
    "interfere": (
        2,
        st.fixed_dictionaries(
            {"pick": PICK, "what": st.sampled_from(["cancel", "cancel elsewhere", "answer"])},
        ),
    ),
    "follow": (1, st.fixed_dictionaries({"pick": PICK, "back": st.integers(0, 3)})),
    "lease": (
        5,
        st.fixed_dictionaries(
            {
                "count": st.integers(1, 3),
                "instance": st.sampled_from(INSTANCES),
                "then": st.sampled_from([None, None, None, "silence", "lateness"]),
            }
        ),
    ),
    "report": (
        8,
        st.fixed_dictionaries(
            {
                "pick": PICK,
                "says": st.lists(SAYINGS, min_size=1, max_size=3),
                # Sometimes again what was said before, or with one left out.
                "skips": st.sampled_from([0, 0, 0, 0, -1, 1]),
            }
        ),
    ),
    "settle": (
        4,
        st.fixed_dictionaries(
            {
                "pick": PICK,
                "action": st.sampled_from(["retry", "retry", "release", "release", "extend", "fail"]),
                "delay_ms": st.sampled_from([None, 0, 0, 5_000]),
            }
        ),
    ),
    "come_or_go": (
        2,
        st.fixed_dictionaries({"pick": PICK, "what": st.sampled_from(["back", "back", "lost", "leave"])}),
    ),
    "time_passes": (
        4,
        st.fixed_dictionaries(
            {
                "milliseconds": st.sampled_from([1, 500, 1_000, GRACE_MS, LEASE_MS - 1, LEASE_MS, 20_000]),
                # Whether the hub has looked after everything then.
                "is_seen": st.sampled_from([True, True, False]),
            }
        ),
    ),
    "operate": (2, st.fixed_dictionaries({"work": st.sampled_from(["crash", "restart", "look", "stop"])})),
}
STEP = st.sampled_from([name for name, (weight, _) in STEPS.items() for _ in range(weight)]).flatmap(
    lambda name: st.tuples(st.just(name), STEPS[name][1])
)


class TaskMachine(RuleBasedStateMachine):
    parts = TaskParts()

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self.clock = ManualClock()
        self.number = 0
        # Between two steps, so that a broken promise is not followed by the judgment of what lies about.
        self.is_calm = False
        # Deliveries that instances have, or believe to have, oldest first, with the number of their last report.
        self.held: list[tuple[HandedTask, str]] = []
        self.sources: dict[str, int] = {}
        self.followers: list[Follower] = []

    @initialize()
    def begin(self) -> None:
        task_settings = TaskSettings(
            lease_ms=LEASE_MS,
            attempts_max=ATTEMPTS_MAX,
            task_timeout_ms=TIMEOUT_MS,
            inbox_ttl_ms=TTL_MS,
            reconnect_grace_ms=GRACE_MS,
        )
        self.checker = TaskChecker(TaskRules(LEASE_MS, ATTEMPTS_MAX, TIMEOUT_MS, TTL_MS, GRACE_MS))
        self.options = {"settings": task_settings, "agent": AgentSettings(), "parts": type(self).parts}
        self.engine = self.run(open_engine(Path(self._folder.name), self.clock))
        self.rig = TaskRig(self.engine, self.clock, **self.options)
        self.run(self.rig.start())

    def run(self, call: Awaitable[Value]) -> Value:
        async def answer() -> Value:
            async with asyncio.timeout(20):
                return await call

        return self._runner.run(answer())

    def teardown(self) -> None:
        try:
            if self.is_calm:
                self.look_at_everything()
        finally:
            if hasattr(self, "rig"):
                self.run(self.rig.stop(flush=False))
                self.run(self.engine.close())
            self._runner.close()
            self._folder.cleanup()

    def done(self, *, after_lease: bool = False, flush: bool = True) -> None:
        """Something has happened: the logs tell whether it was right."""
        if flush:
            self.run(self.rig.settle_down())
        logs = {task_id: self.log_of(task_id) for task_id in self.checker.tasks()}
        self.checker.observe(logs, now_ms=self.clock.now_ms(), after_lease=after_lease)
        self.checker.holding((claim.track.task_id, claim.delivery_id) for claim in self.rig.claims.all())

    def log_of(self, task_id: str) -> list[EventSeen]:
        return [seen_of(event) for event in self.run(self.rig.log_of(task_id))]

    @rule(step=STEP)
    def step(self, step: tuple[str, dict[str, object]]) -> None:
        name, arguments = step
        self.is_calm = False
        getattr(self, name)(**arguments)
        self.is_calm = True

    # Clients

    def submit(self, loses: str | None, timeout_ms: int | None, restarts: bool) -> None:
        """`loses`: the hub dies, or fails to write, after the key or the inbox, and the client sends the same again."""
        self.number += 1
        text, key = str(self.number), f"k{self.number}"
        if loses is not None:
            self.run(self.interrupted(self.rig.submit, text, loses, idempotency_key=key, timeout_ms=timeout_ms))
            if restarts:
                self.crash()
        task_id = self.run(self.rig.submit(text, idempotency_key=key, timeout_ms=timeout_ms))
        if self.run(self.rig.submit(text, idempotency_key=key, timeout_ms=timeout_ms)) != task_id:
            raise Broken("one key made two tasks")
        self.checker.accepted(task_id, now_ms=self.clock.now_ms(), timeout_ms=timeout_ms)
        self.done()

    async def interrupted(self, call: Callable[..., Awaitable[object]], text: str, loses: str, **more: object) -> None:
        """A call that does not come to its end."""
        if loses == "inbox":
            self.rig.line.is_cut = True
            with pytest.raises(EngineUnavailable):
                await call(text, **more)
            self.rig.line.is_cut = False
            return
        self.rig.inbox_line.before_put.close()
        async with asyncio.TaskGroup() as group:
            calling = group.create_task(call(text, **more))
            await self.rig.inbox_line.before_put.reached()
            calling.cancel()
        self.rig.inbox_line.before_put.open()

    def answer(self, pick: int, loses: str | None) -> None:
        asking = self.checker.tasks_in(INTERRUPTED)
        if not asking:
            self.report(pick, ["INPUT_REQUIRED"], skips=0)
            asking = self.checker.tasks_in(INTERRUPTED)
        if asking and not self.checker.is_foreign(task_id := _one_of(asking, pick)):
            self._answer(task_id, loses)

    def _answer(self, task_id: str, loses: str | None = None) -> None:
        self.number += 1
        text, key = str(self.number), f"k{self.number}"
        if loses is not None:
            self.run(self.interrupted(self.rig.send, text, loses, task_id=task_id, key=key))
            self.crash()
        is_taken = self.run(self._is_taken(self.rig.send(text, task_id=task_id, key=key)))
        assert self.run(self._is_taken(self.rig.send(text, task_id=task_id, key=key))) is is_taken
        self.checker.answered(task_id, is_taken=is_taken, now_ms=self.clock.now_ms())
        self.done()

    async def _is_taken(self, call: Awaitable[object]) -> bool:
        try:
            await call
        except (OperationUnsupported, TaskNotCancelable):
            return False
        return True

    def interfere(self, pick: int, what: str) -> None:
        tasks = [task_id for task_id in self.checker.tasks() if not self.checker.is_foreign(task_id)]
        if what == "cancel elsewhere":
            self._cancel_held_one_elsewhere(pick)
        elif tasks and what == "answer":
            self._answer(_one_of(tasks, pick))
        elif tasks:
            task_id = _one_of(tasks, pick)
            is_done = self.run(self._is_taken(self.rig.cancel(task_id)))
            self.checker.cancelled(task_id, is_done=is_done)
        self.done()

    def _cancel_held_one_elsewhere(self, pick: int) -> None:
        """Its instance knows as little of it as the hub."""
        if (picked := self._picked(pick % 8)) is not None:
            handed, _ = picked
            self.run(self._cancel_elsewhere(handed.item.task_id))
            self.checker.cancelled_elsewhere(handed.item.task_id)
            self._report(handed, ["COMPLETED"])

    def follow(self, pick: int, back: int) -> None:
        if tasks := self.checker.tasks():
            task_id = _one_of(tasks, pick)
            after = max(0, self.checker.last_number(task_id) - back)
            self.followers.append(Follower(task_id, after, [], self.run(self.rig.follow(task_id, after=after))))

    async def _cancel_elsewhere(self, task_id: str) -> None:
        """By another hub on the same engine."""
        await self.rig.settle_down()
        other = TaskRig(self.engine, self.clock, **self.options)
        await other.start(recover=False)
        await other.cancel(task_id)
        await other.stop()

    # Instances

    def lease(self, count: int, instance: str, then: str | None) -> None:
        """`then`: the instance dies, or comes too late, before the hub has looked."""
        if not self.checker.has_due(now_ms=self.clock.now_ms()) and count < 3:
            self.submit(loses=None, timeout_ms=None if count == 1 else 8_000, restarts=False)
        handed = self.run(self.rig.take(count, instance=instance))
        now_ms = self.clock.now_ms()
        self.checker.leased([handed_of(each, instance) for each in handed], now_ms=now_ms)
        self.held.extend((each, instance) for each in handed)
        self.done(after_lease=True)
        if not handed:
            self.checker.nothing_due(now_ms=now_ms)
        if then is not None:
            self.time_passes(LEASE_MS, is_seen=then == "silence")
        for each in handed if then == "lateness" else ():
            self._report(each, ["COMPLETED"])

    def _picked(self, pick: int) -> tuple[HandedTask, str] | None:
        """One that somebody believes to hold: seldom without right, and then None where nobody ever held one."""
        if pick > 7:
            return _one_of(self.held, pick) if self.held else None
        if not (held := self._rightly_held()):
            self.lease(1, INSTANCES[pick % 2], then=None)
            held = self._rightly_held()
        return _one_of(held, pick) if held else None

    def _rightly_held(self) -> list[tuple[HandedTask, str]]:
        now_ms = self.clock.now_ms()
        return [each for each in self.held if self.checker.is_held(each[0].claim.delivery_id, now_ms=now_ms)]

    def report(self, pick: int, says: list[str | None], skips: int) -> None:
        """In time or late."""
        if (picked := self._picked(pick)) is not None:
            self._report(picked[0], says, skips)

    def _report(self, handed: HandedTask, says: list[str | None], skips: int = 0) -> None:
        delivery_id = handed.claim.delivery_id
        if self.checker.is_foreign(handed.item.task_id):
            # A store judges each entry of a write by itself.
            says = says[:1]
        first = max(1, self.sources.get(delivery_id, 0) + 1 + skips)
        said = [Said(source, state) for source, state in enumerate(says, first)]
        bodies = [artifact(f"{each.source} ") if each.state is None else status(TaskState[each.state]) for each in said]
        try:
            reported = self.run(self.rig.say(handed, *bodies, source=first))
        except EngineUnavailable:
            if not self.checker.is_foreign(handed.item.task_id):
                raise
        else:
            now_ms = self.clock.now_ms()
            self.checker.reported(delivery_id, said, outcome=reported.outcome, source=reported.source, now_ms=now_ms)
            if reported.outcome != "stale":
                self.sources[delivery_id] = reported.source
        # The record and the inbox follow later: a crash may come before.
        self.done(flush=False)

    def settle(self, pick: int, action: str, delay_ms: int | None) -> None:
        if (picked := self._picked(pick)) is None:
            return
        handed, _ = picked
        if self.checker.is_foreign(handed.item.task_id):
            return
        delay_ms = delay_ms if action == "retry" else None
        outcome = self.run(self.rig.settle(handed, action, delay_ms=delay_ms, reason="boom"))
        now_ms = self.clock.now_ms()
        self.checker.settled(handed.claim.delivery_id, action, outcome=outcome, delay_ms=delay_ms, now_ms=now_ms)
        self.done()

    # The hub, and time

    def time_passes(self, milliseconds: int, is_seen: bool) -> None:
        """`is_seen`: the hub has looked after everything then."""
        if not is_seen:
            self.clock.advance(milliseconds)
            return
        self.run(self.rig.pass_time(milliseconds))
        self.checker.looked(now_ms=self.clock.now_ms())
        self.done()

    def operate(self, work: str) -> None:
        match work:
            case "crash":
                self.crash()
            case "restart":
                self.restart()
            case "look":
                self.look_at_everything()
            case "stop":
                self.stop_for_a_while()
        self.done()

    def stop_for_a_while(self) -> None:
        self.run(self.rig.stopping.stop(ADMIN, COUNTER))
        self.checker.stopped()
        if self.run(self.rig.take()):
            raise Broken("a stopped agent was given work")
        self.run(self.rig.stopping.resume(ADMIN, COUNTER))

    def come_or_go(self, pick: int, what: str) -> None:
        """An instance shows what it holds over a new connection, loses it, or says good-bye."""
        picked = self._picked(pick)
        if picked is None or any(self.checker.is_foreign(task_id) for task_id in self.checker.tasks()):
            return
        handed, instance = picked
        now_ms = self.clock.now_ms()
        if what == "leave":
            self.run(self.rig.leave(instance))
            self.checker.left(instance, now_ms=now_ms)
        elif what == "lost":
            self.rig.lose_connection(instance)
            self.checker.lost_connection(instance, now_ms=now_ms)
        else:
            shown = self.run(self.rig.show_hold(handed.claim.delivery_id, instance=instance))
            self.checker.showed(handed.claim.delivery_id, is_held=shown.is_held, source=shown.source, now_ms=now_ms)
        self.done()

    def crash(self) -> None:
        """Of the hub alone: the engine goes on."""
        for follower in self.followers:
            follower.collect()
        self.run(self.rig.restart(crash=True))
        self._came_back()

    def restart(self) -> None:
        """Of all of it."""
        for follower in self.followers:
            follower.collect()
        self.run(self._reopen())
        self.checker.engine_restarted(now_ms=self.clock.now_ms())
        self._came_back()

    async def _reopen(self) -> None:
        # A lease that has ended, and that the engine has not looked at since, would be found and last once more.
        if (await self.rig.inbox.depth(COUNTER)).held:
            await self.engine.queue.wake_due()
        await self.rig.stop()
        await self.engine.close()
        self.engine = await open_engine(Path(self._folder.name), self.clock)
        await self.rig.restart(engine=self.engine)

    def _came_back(self) -> None:
        """Those who followed go on after the last event they have."""
        self.checker.crashed()
        for follower in self.followers:
            last = follower.after + len(follower.seen)
            follower.reader, follower.taken = self.run(self.rig.follow(follower.task_id, after=last)), 0

    def look_at_everything(self) -> None:
        self.run(self.rig.settle_down())
        self.checker.stored(self.run(self.rig.waiting()), self.run(self.rig.dead()))
        for owner in self.run(self.rig.list_tasks(page_size=100)).tasks:
            self.checker.recorded(owner.task_id, state=owner.state.name, turn=owner.turn)
        for task_id in self.checker.tasks():
            receipts = self.run(self.rig.receipts(task_id))
            self.checker.receipts(task_id, [ReceiptSeen(each.state, each.turn, each.attempt) for each in receipts])
        for follower in self.followers:
            self.run(self._caught_up(follower))
            is_over = follower.reader.is_over
            self.checker.followed(follower.task_id, follower.after, follower.seen, is_over=is_over)

    async def _caught_up(self, follower: Follower) -> None:
        """Until it has everything there is, or a while has passed and it still has not."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    follower.reader.grew.clear()
                    follower.collect()
                    if follower.after + len(follower.seen) >= self.checker.last_number(follower.task_id):
                        return
                    await follower.reader.grew.wait()
        except TimeoutError:
            return


class _Metadata(msgspec.Struct, frozen=True):
    attempt: int | None = None
    attemptFailed: str | None = None  # noqa: N815 - the wire's own name, here and below
    code: str | None = None


class _StatusUpdate(msgspec.Struct):
    metadata: _Metadata = _Metadata()


class _Body(msgspec.Struct):
    task: dict | None = None
    artifactUpdate: dict | None = None  # noqa: N815
    statusUpdate: _StatusUpdate | None = None  # noqa: N815


_decode_body = msgspec.json.Decoder(_Body).decode


def seen_of(event: TaskEvent) -> EventSeen:
    body = _decode_body(event.body)
    kind = "task" if body.task is not None else "artifact" if body.artifactUpdate is not None else "status"
    metadata = _Metadata() if body.statusUpdate is None else body.statusUpdate.metadata
    failed = metadata.attempt if metadata.attemptFailed is not None else None
    return EventSeen(
        event.number,
        kind,
        event.state.name,
        event.turn,
        event.attempt,
        event.source,
        code=metadata.code,
        announces=metadata.attempt if failed is None else None,
        failed=failed,
    )


def _one_of(tasks: Sequence[Value], pick: int) -> Value:
    """Later ones are more likely."""
    return tasks[-1 - pick % len(tasks)]


def handed_of(handed: HandedTask, instance: str) -> Handed:
    claim = handed.claim
    return Handed(handed.item.task_id, claim.delivery_id, claim.turn, claim.attempt, instance)
