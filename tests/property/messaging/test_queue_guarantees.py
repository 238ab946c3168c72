"""The promises of queues under any order of events, on virtual time: the verbs over the embedded engine, judged.

Workers post, lease, settle, fall silent and come back late; time passes; the hub restarts; operators redrive and purge.
`support.queue_checker` knows nothing of the hub and predicts every answer. Planted faults show that it would notice.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from meshway.engine.embedded import EmbeddedEngine, EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import (
    Ack,
    Enqueued,
    Lease,
    Queue,
    QueueAppend,
    QueueDepth,
    QueuedMessage,
    QueueOutcome,
    Settlement,
    SettleOutcome,
    ToDeadLetters,
    ToRetry,
)
from meshway.kernel.metrics import NullMetrics
from meshway.messaging.channel import QueueChannelSettings
from meshway.messaging.incoming import PRIORITIES
from meshway.messaging.queue_views import DeadLetterView
from meshway.testing.clock import ManualClock
from support.queue_checker import Broken, DeadSeen, Delivered, Posted, QueueChecker, QueueRules
from support.queue_rig import CALLER, QueueRig, load_channels, message, settlement

Value = TypeVar("Value")
# Two attempts, so that random walks often come to the last one.
LEASE_MS, BACKOFF_MS, WINDOW_MS, ATTEMPTS_MAX = 10_000, 8_000, 20_000, 2
RUNS = settings(
    max_examples=25,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
# A planted fault only has to be found, not to be made small, and by the same calls each time: chance might miss it.
HUNTS = settings(
    RUNS, phases=[Phase.generate], max_examples=300, derandomize=True, database=None, report_multiple_bugs=False
)


class QueueMachine(RuleBasedStateMachine):
    wrap: Callable[[Queue], Queue] = staticmethod(lambda queue: queue)

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self.clock = ManualClock()
        self.number = 0
        self.held: list[str] = []
        self.accepted: list[tuple[int, Posted]] = []

    @initialize(ordered=st.booleans(), dead_letter=st.sampled_from([True, True, False]))
    def begin(self, ordered: bool, dead_letter: bool) -> None:
        rules = QueueChannelSettings(
            lease_ms=LEASE_MS,
            attempts_max=ATTEMPTS_MAX,
            backoff_initial_ms=BACKOFF_MS,
            backoff_max_ms=BACKOFF_MS * 2,
            dead_letter=dead_letter,
            ordered=ordered,
            dedupe_window_ms=WINDOW_MS,
        )
        self.ordered = ordered
        self.checker = QueueChecker(
            QueueRules(LEASE_MS, ATTEMPTS_MAX, BACKOFF_MS, BACKOFF_MS * 2, dead_letter, ordered, WINDOW_MS, jitter=0.0),
            exact=True,
        )
        self.engine = self.run(self._open())
        self.rig = QueueRig(self.engine, self.clock, wrap=type(self).wrap)
        self.run(self.rig.put("q", rules))

    async def _open(self) -> EmbeddedEngine:
        # Nothing here depends on the disk, and a sync costs more than all the rest.
        return await open_embedded_engine(
            Path(self._folder.name),
            settings=EmbeddedSettings(),
            clock=self.clock,
            metrics=NullMetrics(),
            sync=lambda _file: None,
        )

    def run(self, call: Awaitable[Value]) -> Value:
        async def answer() -> Value:
            async with asyncio.timeout(20):
                return await call

        return self._runner.run(answer())

    def teardown(self) -> None:
        try:
            if hasattr(self, "engine"):
                self.look_at_everything()
        finally:
            if hasattr(self, "engine"):
                self.run(self.engine.close())
            self._runner.close()
            self._folder.cleanup()

    # Senders

    @rule(
        priorities=st.lists(st.sampled_from(list(PRIORITIES)), min_size=2, max_size=4),
        key=st.sampled_from(["a", "b", None]),
        delay_ms=st.sampled_from([None, None, None, 1, 5_000]),
        expires_in_ms=st.sampled_from([None, None, None, 6_500, 30_000]),
        dedupe_id=st.sampled_from([None, None, "x", "y"]),
    )
    def post(
        self,
        priorities: list[str],
        key: str | None,
        delay_ms: int | None,
        expires_in_ms: int | None,
        dedupe_id: str | None,
    ) -> None:
        now_ms = self.clock.now_ms()
        posts, messages = [], []
        for priority in priorities:
            self.number += 1
            key = key if self.ordered else None
            posts.append(
                Posted(
                    f"m{self.number}",
                    PRIORITIES[priority],
                    key,
                    now_ms + (delay_ms or 0),
                    # The engine rounds up to whole seconds.
                    None if expires_in_ms is None else now_ms + -(-expires_in_ms // 1_000) * 1_000,
                    dedupe_id,
                )
            )
            messages.append(
                message(
                    self.number,
                    id=f"m{self.number}",
                    priority=priority,
                    delay_ms=delay_ms,
                    expires_in_ms=expires_in_ms,
                    dedupe_id=dedupe_id,
                    ordering_key=key,
                )
            )
        self._send(posts, messages)

    @precondition(lambda self: self.accepted)
    @rule(pick=st.integers(0, 99))
    def post_again(self, pick: int) -> None:
        """A sender that did not hear the answer."""
        at_ms, posted = self.accepted[pick % len(self.accepted)]
        if self.clock.now_ms() - at_ms < 100_000:
            self._send([posted], [message(int(posted.id[1:]), id=posted.id)])

    def _send(self, posts: list[Posted], messages: list[object]) -> None:
        self.checker.posting(posts)
        receipts = self.run(self.rig.enqueue.execute(CALLER, "q", messages))
        for posted, receipt in zip(posts, receipts, strict=True):
            assert receipt.id == posted.id
            self.checker.posted(posted, duplicate=receipt.duplicate, now_ms=self.clock.now_ms())
            if not receipt.duplicate:
                self.accepted.append((self.clock.now_ms(), posted))

    # Workers

    @rule(count=st.integers(1, 4), and_die=st.sampled_from([False, False, True]))
    def lease(self, count: int, and_die: bool) -> None:
        # A lease drops what has expired but looks no further in that call; the sweep has looked everywhere.
        self.run(self.engine.sweep())
        now_ms = self.clock.now_ms()
        deliveries = self.run(self.rig.take("q", count))
        self.checker.leased(
            [
                Delivered(each.delivery_id, each.attempt, each.lease_until_ms, _id_of(each.document))
                for each in deliveries
            ],
            count=count,
            begin_ms=now_ms,
            end_ms=now_ms,
        )
        self.held.extend(each.delivery_id for each in deliveries)
        if and_die:
            self.clock.advance(LEASE_MS)

    @precondition(lambda self: self.held)
    @rule(
        pick=st.integers(0, 99),
        action=st.sampled_from(["ack", "retry", "retry", "dead_letter", "extend"]),
        delay_ms=st.sampled_from([None, 5_000, None, 0]),
        reason=st.sampled_from([None, "boom", "no model answered"]),
    )
    def settle(self, pick: int, action: str, delay_ms: int | None, reason: str | None) -> None:
        """By whoever still believes to hold it: sometimes in time, sometimes late, sometimes twice."""
        delivery_id = self.held.pop(-1 - pick % min(len(self.held), 5))
        # Once more, when there is nothing fresher.
        self.held.insert(0, delivery_id)
        delay_ms = delay_ms if action == "retry" else None
        now_ms = self.clock.now_ms()
        self.checker.settling(delivery_id, action)
        item = settlement(delivery_id, action, delay_ms=delay_ms, reason=reason)
        (outcome,) = self.run(self.rig.say("q", item))
        self.checker.settled(
            delivery_id,
            action,
            outcome,
            begin_ms=now_ms,
            end_ms=now_ms,
            reason=reason or "",
            delay_ms=delay_ms,
        )

    @rule(milliseconds=st.sampled_from([1, 499, 500, 999, 1_000, 5_000, LEASE_MS - 1, LEASE_MS, LEASE_MS, 30_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)

    # Operators

    @rule(
        work=st.sampled_from(["restart", "restart", "look", "redrive", "redrive", "purge"]),
        pick=st.one_of(st.none(), st.lists(st.integers(0, 9), min_size=1, max_size=3)),
    )
    def operate(self, work: str, pick: list[int] | None) -> None:
        """One rule for all of it, so that workers have most of the steps."""
        match work:
            case "restart":
                self.restart()
            case "look":
                self.look_at_everything()
            case "redrive":
                self.redrive(pick)
            case "purge":
                self.purge()

    def restart(self) -> None:
        self.run(self.engine.close())
        self.engine = self.run(self._open())
        self.rig = QueueRig(self.engine, self.clock, wrap=type(self).wrap)
        self.run(load_channels(self.rig.channels))

    def redrive(self, pick: list[int] | None) -> None:
        dead = [letter.id for letter in self.look_at_everything()]
        ids = None if pick is None else [dead[index] if index < len(dead) else f"unknown-{index}" for index in pick]
        started = self.run(self.rig.redrive.execute(CALLER, "q", ids=ids, rate_per_s=None))
        self.checker.redriven(dead if ids is None else ids, started.messages, now_ms=self.clock.now_ms())

    def purge(self) -> None:
        self.look_at_everything()
        dropped = self.run(self.rig.purge.execute(CALLER, "q", confirm="q"))
        self.checker.purged(dropped, now_ms=self.clock.now_ms())

    def look_at_everything(self) -> Sequence[DeadLetterView]:
        documents = self.run(self.rig.inspect.peek(CALLER, "q", cursor=None, limit=500)).items
        letters = self.run(self.rig.inspect.dead_letters(CALLER, "q", cursor=None, limit=500)).items
        self.checker.audit(
            [_id_of(document) for document in documents],
            [
                DeadSeen(letter.id, letter.reason, [(one.attempt, one.outcome, one.reason) for one in letter.attempts])
                for letter in letters
            ],
            now_ms=self.clock.now_ms(),
        )
        return letters


def _id_of(document: bytes) -> str:
    """Of a document that is whole."""
    read = msgspec.json.decode(document)
    assert read["id"] == f"m{read['data']}"
    return read["id"]


def _run(wrap: Callable[[Queue], Queue], runs: settings) -> None:
    machine = type("Machine", (QueueMachine,), {"wrap": staticmethod(wrap)})
    run_state_machine_as_test(machine, settings=runs)


def test_queues_keep_their_promises_in_any_order_of_events() -> None:
    _run(lambda queue: queue, RUNS)


class _Faulty:
    """A queue with one planted fault; everything else is passed on."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    async def append(self, messages: Sequence[QueueAppend]) -> Sequence[QueueOutcome]:
        return await self.queue.append(messages)

    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        return await self.queue.lease(queue, count=count, wait_ms=wait_ms)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        return await self.queue.settle(settlements)

    async def peek(self, queue: str, *, after: str | None = None, limit: int = 50) -> Sequence[QueuedMessage]:
        return await self.queue.peek(queue, after=after, limit=limit)

    async def depth(self, queues: Sequence[str]) -> Sequence[QueueDepth]:
        return await self.queue.depth(queues)


class HandsOutWhatIsHeld(_Faulty):
    last: Sequence[Lease] = ()

    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        held, self.last = self.last, await self.queue.lease(queue, count=count, wait_ms=wait_ms)
        again = [msgspec.structs.replace(lease, delivery_id=f"{lease.delivery_id}0") for lease in held]
        return self.last or again[:count]


class DoesNotCountRetries(_Faulty):
    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        leases = await self.queue.lease(queue, count=count, wait_ms=wait_ms)
        return [msgspec.structs.replace(lease, attempt=1) for lease in leases]


class DropsDeadLetters(_Faulty):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        return await self.queue.settle(
            [Ack(delivery_id=each.delivery_id) if isinstance(each, ToDeadLetters) else each for each in settlements]
        )


class ForgetsWhyOneDied(_Faulty):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        return await self.queue.settle(
            [
                msgspec.structs.replace(each, reason="failed") if isinstance(each, ToDeadLetters) else each
                for each in settlements
            ]
        )


class IgnoresDedupeIds(_Faulty):
    async def append(self, messages: Sequence[QueueAppend]) -> Sequence[QueueOutcome]:
        return await self.queue.append([msgspec.structs.replace(each, dedupe_id=None) for each in messages])


class ForgetsOrderingKeys(_Faulty):
    async def append(self, messages: Sequence[QueueAppend]) -> Sequence[QueueOutcome]:
        return await self.queue.append([msgspec.structs.replace(each, ordering_key=None) for each in messages])


class ForgetsPriorities(_Faulty):
    async def append(self, messages: Sequence[QueueAppend]) -> Sequence[QueueOutcome]:
        plain = QueueAppend(queue="q", message_id="", data=b"").priority
        return await self.queue.append([msgspec.structs.replace(each, priority=plain) for each in messages])


class BelievesLateSettlements(_Faulty):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        await self.queue.settle(settlements)
        return [SettleOutcome.DONE] * len(settlements)


class LosesAcks(_Faulty):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        if isinstance(settlements[0], Ack):
            return [SettleOutcome.DONE] * len(settlements)
        return await self.queue.settle(settlements)


class LosesTheThirdOfThree(_Faulty):
    async def append(self, messages: Sequence[QueueAppend]) -> Sequence[QueueOutcome]:
        outcomes = await self.queue.append(messages[:2])
        return [*outcomes, *(Enqueued(duplicate=False) for _ in messages[2:])]


class KnowsNoBackOff(_Faulty):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        return await self.queue.settle(
            [
                msgspec.structs.replace(each, visible_at_ms=0) if isinstance(each, ToRetry) else each
                for each in settlements
            ]
        )


class NeverTiresOfRetrying(_Faulty):
    """The attempt after the last one is handed out once more, as if the maximum were one higher."""

    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        leases = await self.queue.lease(queue, count=count, wait_ms=wait_ms)
        return [msgspec.structs.replace(each, attempt=min(each.attempt, ATTEMPTS_MAX)) for each in leases]


@pytest.mark.parametrize("fault", _Faulty.__subclasses__())
def test_the_judge_notices_a_planted_fault(fault: type[_Faulty]) -> None:
    with pytest.raises((Broken, ExceptionGroup)):
        _run(fault, HUNTS)
