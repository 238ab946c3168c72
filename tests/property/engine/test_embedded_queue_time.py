"""A queue under virtual time against a model of its whole life: delays, leases, back-off, expiry, order, restarts.

Exact where the contract suite can only wait: after every step the engine must agree with the model to the millisecond.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from meshway.engine.embedded import EmbeddedEngine, EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import (
    Ack,
    Extend,
    Lease,
    Priority,
    Queue,
    QueueAppend,
    QueueDepth,
    QueueSettings,
    Settlement,
    SettleOutcome,
    ToDeadLetters,
    ToRetry,
)
from meshway.kernel.metrics import NullMetrics
from meshway.testing.clock import ManualClock

Value = TypeVar("Value")
LEASE_MS = 10_000
RUNS = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
# A planted fault only has to be found, not to be made small, and by the same calls each time: chance might miss it.
HUNTS = settings(
    RUNS,
    phases=[Phase.generate],
    max_examples=400,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
)


@dataclass
class Message:
    number: int
    priority: int
    key: str | None
    visible_at_ms: int
    expires_at_ms: int | None
    attempt: int = 0
    # While it is held: until when, and under which id.
    held_until_ms: int | None = None
    delivery_id: str = ""


class QueueModel:
    """The rules of the port, as plainly as they can be put."""

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        self.messages: list[Message] = []
        self.dead = 0

    def pass_time(self, now_ms: int) -> None:
        """Leases that are over make their messages due; what has expired and is not held goes."""
        for message in self.messages:
            if message.held_until_ms is not None and message.held_until_ms <= now_ms:
                message.visible_at_ms = message.held_until_ms
                message.held_until_ms = None
        self.messages = [
            message
            for message in self.messages
            if message.held_until_ms is not None or message.expires_at_ms is None or message.expires_at_ms > now_ms
        ]

    def due(self, now_ms: int) -> list[Message]:
        """What may be handed out, in the order in which it is."""
        heads: set[str] = set()
        found: list[Message] = []
        for message in sorted(self.messages, key=lambda each: each.number):
            if self.ordered and message.key is not None:
                if message.key in heads:
                    continue
                heads.add(message.key)
            if message.held_until_ms is None and message.visible_at_ms <= now_ms:
                found.append(message)
        return sorted(found, key=lambda each: (0 if self.ordered else -each.priority, each.number))


class QueueTimeMachine(RuleBasedStateMachine):
    """`wrap` puts a faulty queue between the machine and the engine, to prove that the machine would notice."""

    wrap: Callable[[Queue], Queue] = staticmethod(lambda queue: queue)

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self.clock = ManualClock()
        self.settled: list[str] = []
        self.number = 0

    @initialize(ordered=st.booleans())
    def begin(self, ordered: bool) -> None:
        self.model = QueueModel(ordered=ordered)
        self.engine = self.run(self._open())
        self.run(self.engine.queue_admin.configure("q", QueueSettings(ordered=ordered, lease_ms=LEASE_MS)))

    async def _open(self) -> EmbeddedEngine:
        # The duties stay away, so that only what the machine does moves anything.
        quiet = EmbeddedSettings(due_check_ms=500, sweep_interval_ms=2_000)
        return await open_embedded_engine(
            Path(self._folder.name), settings=quiet, clock=self.clock, metrics=NullMetrics()
        )

    def run(self, call: Awaitable[Value]) -> Value:
        async def answer() -> Value:
            async with asyncio.timeout(20):
                return await call

        return self._runner.run(answer())

    @property
    def queue(self) -> Queue:
        return type(self).wrap(self.engine.queue)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.run(self.engine.close())
        self._runner.close()
        self._folder.cleanup()

    @rule(
        priority=st.sampled_from(list(Priority)),
        key=st.sampled_from([None, "a", "b"]),
        delay_ms=st.sampled_from([0, 0, 0, 1, 5_000]),
        expires_in_ms=st.sampled_from([None, None, 1_000, 8_500, 30_000]),
    )
    def append(self, priority: Priority, key: str | None, delay_ms: int, expires_in_ms: int | None) -> None:
        now_ms = self.clock.now_ms()
        self.number += 1
        deliver_at_ms = now_ms + delay_ms if delay_ms else None
        message = QueueAppend(
            queue="q",
            message_id=f"m{self.number}",
            data=b"%d" % self.number,
            priority=priority,
            deliver_at_ms=deliver_at_ms,
            expires_at_ms=None if expires_in_ms is None else now_ms + expires_in_ms,
            ordering_key=key,
        )
        self.run(self.queue.append([message]))
        # Expiry is rounded up to whole seconds.
        expires_at_ms = None if expires_in_ms is None else now_ms + -(-expires_in_ms // 1000) * 1000
        self.model.pass_time(now_ms)
        self.model.messages.append(Message(self.number, priority, key, now_ms + delay_ms, expires_at_ms))

    @rule(milliseconds=st.sampled_from([1, 999, 1_000, 4_999, 5_000, LEASE_MS - 1, LEASE_MS, 60_000]))
    def advance(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)

    @rule(count=st.integers(1, 4))
    def lease(self, count: int) -> None:
        now_ms = self.clock.now_ms()
        # A lease drops what has expired but looks no further in that call; the sweep has looked everywhere.
        self.run(self.engine.sweep())
        leases = self.run(self.queue.lease("q", count=count))
        self.model.pass_time(now_ms)
        expected = self.model.due(now_ms)[:count]
        assert [lease.message.message_id for lease in leases] == [f"m{message.number}" for message in expected]
        for lease, message in zip(leases, expected, strict=True):
            message.attempt += 1
            message.held_until_ms = now_ms + LEASE_MS
            message.delivery_id = lease.delivery_id
            assert (lease.attempt, lease.lease_until_ms) == (message.attempt, message.held_until_ms)

    @precondition(lambda self: any(message.delivery_id for message in self.model.messages))
    @rule(pick=st.integers(0, 99), how=st.sampled_from(["ack", "retry", "later", "dead", "extend"]))
    def settle(self, pick: int, how: str) -> None:
        now_ms = self.clock.now_ms()
        known = [message for message in self.model.messages if message.delivery_id]
        message = known[pick % len(known)]
        delivery_id = message.delivery_id
        settlement: Settlement = {
            "ack": Ack(delivery_id=delivery_id),
            "retry": ToRetry(delivery_id=delivery_id, visible_at_ms=now_ms),
            "later": ToRetry(delivery_id=delivery_id, visible_at_ms=now_ms + 5_000),
            "dead": ToDeadLetters(delivery_id=delivery_id, reason="r"),
            "extend": Extend(delivery_id=delivery_id),
        }[how]
        is_live = message.held_until_ms is not None and message.held_until_ms > now_ms
        (outcome,) = self.run(self.queue.settle([settlement]))
        assert outcome is (SettleOutcome.DONE if is_live else SettleOutcome.STALE)
        if not is_live:
            return
        if how == "extend":
            message.held_until_ms = now_ms + LEASE_MS
            return
        self.settled.append(delivery_id)
        message.held_until_ms = None
        message.delivery_id = ""
        message.visible_at_ms = now_ms + 5_000 if how == "later" else now_ms
        if how in ("ack", "dead"):
            self.model.messages.remove(message)
            self.model.dead += how == "dead"
        self.model.pass_time(now_ms)

    @precondition(lambda self: self.settled)
    @rule(pick=st.integers(0, 99))
    def settle_again(self, pick: int) -> None:
        delivery_id = self.settled[pick % len(self.settled)]
        assert list(self.run(self.queue.settle([Ack(delivery_id=delivery_id)]))) == [SettleOutcome.STALE]

    @rule()
    def restart(self) -> None:
        self.run(self.engine.close())
        self.engine = self.run(self._open())

    @rule()
    def depth(self) -> None:
        now_ms = self.clock.now_ms()
        self.run(self.engine.sweep())
        self.model.pass_time(now_ms)
        (depth,) = self.run(self.engine.queue.depth(["q"]))
        assert depth.waiting + depth.held + depth.delayed == len(self.model.messages)
        assert depth.dead == self.model.dead

    @invariant()
    def shows_every_message_once(self) -> None:
        if not hasattr(self, "engine"):
            return
        shown = [message.message_id for message in self.run(self.engine.queue.peek("q", limit=1_000))]
        assert len(shown) == len(set(shown))


def _run(wrap: Callable[[Queue], Queue], runs: settings) -> None:
    machine = type("Machine", (QueueTimeMachine,), {"wrap": staticmethod(wrap)})
    run_state_machine_as_test(machine, settings=runs)


def test_a_queue_lives_by_its_model_to_the_millisecond() -> None:
    _run(lambda queue: queue, RUNS)


class _Faulty:
    """A queue with one planted fault; everything else is passed on."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    async def append(self, messages: Sequence[QueueAppend]) -> object:
        return await self.queue.append(messages)

    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        return await self.queue.lease(queue, count=count, wait_ms=wait_ms)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        return await self.queue.settle(settlements)

    async def depth(self, queues: Sequence[str]) -> Sequence[QueueDepth]:
        return await self.queue.depth(queues)


class BelievesLateSettlements(_Faulty):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        await self.queue.settle(settlements)
        return [SettleOutcome.DONE] * len(settlements)


class LosesAnAck(_Faulty):
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        if isinstance(settlements[0], Ack):
            return [SettleOutcome.DONE]
        return await self.queue.settle(settlements)


class HandsOutNewestFirst(_Faulty):
    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        return list(reversed(await self.queue.lease(queue, count=count, wait_ms=wait_ms)))


class HandsOutOneTooFew(_Faulty):
    async def lease(self, queue: str, *, count: int, wait_ms: int = 0) -> Sequence[Lease]:
        return (await self.queue.lease(queue, count=count, wait_ms=wait_ms))[:1]


class ForgetsPriority(_Faulty):
    async def append(self, messages: Sequence[QueueAppend]) -> object:
        without_priority = [
            QueueAppend(
                queue=message.queue,
                message_id=message.message_id,
                data=message.data,
                deliver_at_ms=message.deliver_at_ms,
                expires_at_ms=message.expires_at_ms,
                ordering_key=message.ordering_key,
            )
            for message in messages
        ]
        return await self.queue.append(without_priority)


@pytest.mark.parametrize(
    "fault", [BelievesLateSettlements, LosesAnAck, HandsOutNewestFirst, HandsOutOneTooFew, ForgetsPriority]
)
def test_the_model_notices_a_planted_fault(fault: type[_Faulty]) -> None:
    with pytest.raises((AssertionError, ExceptionGroup, ValueError)):
        _run(fault, HUNTS)
