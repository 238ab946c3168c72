"""Random calls against models: whatever the order, an engine answers as a few lines of plain Python would.

The models know no time: leases are long and nothing expires. Time has tests of its own.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from contract_engines import ADAPTERS
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from meshway.engine.ports import (
    Ack,
    Appended,
    Engine,
    Enqueued,
    Extend,
    FromLast,
    FromSequence,
    KvConflict,
    KvCreate,
    KvDelete,
    KvPut,
    KvUpdate,
    KvWritten,
    LogAppend,
    LogTrim,
    Priority,
    QueueAppend,
    SettleOutcome,
    ToDeadLetters,
    ToRetry,
    WrongLast,
)

Value = TypeVar("Value")

MODEL_RUNS = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
KEYS = st.sampled_from(["a", "a.b", "a.b.c", "a.bc", "b", "a.b-c"])
SUBJECTS = st.sampled_from(["s.a", "s.b", "t.a"])
IDS = st.sampled_from([f"id{number}" for number in range(12)])


class EngineMachine(RuleBasedStateMachine):
    """An engine of its own for each run, on a loop of its own."""

    adapter = ""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        opening = ADAPTERS[self.adapter](Path(self._folder.name))
        self.engine: Engine = self.run(self._stack.enter_async_context(opening))

    def run(self, call: Awaitable[Value]) -> Value:
        async def answer() -> Value:
            async with asyncio.timeout(20):
                return await call

        return self._runner.run(answer())

    def teardown(self) -> None:
        self.run(self._stack.aclose())
        self._runner.close()
        self._folder.cleanup()


class KeyValueMachine(EngineMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, tuple[bytes, int]] = {}
        self.highest: dict[str, int] = {}

    def _written(self, key: str, value: bytes | None, outcome: object) -> None:
        assert isinstance(outcome, KvWritten)
        if value is None:
            self.model.pop(key, None)
            return
        assert outcome.revision > self.highest.get(key, 0)
        self.highest[key] = outcome.revision
        self.model[key] = (value, outcome.revision)

    def _refused(self, key: str, outcome: object) -> None:
        assert isinstance(outcome, KvConflict)
        found = None if outcome.current is None else (outcome.current.value, outcome.current.revision)
        assert found == self.model.get(key)

    @rule(key=KEYS, value=st.binary(max_size=20))
    def put(self, key: str, value: bytes) -> None:
        (outcome,) = self.run(self.engine.key_value.write([KvPut(key=key, value=value)]))
        self._written(key, value, outcome)

    @rule(key=KEYS, value=st.binary(max_size=20))
    def create(self, key: str, value: bytes) -> None:
        (outcome,) = self.run(self.engine.key_value.write([KvCreate(key=key, value=value)]))
        if key in self.model:
            self._refused(key, outcome)
        else:
            self._written(key, value, outcome)

    @rule(key=KEYS, value=st.binary(max_size=20), off=st.sampled_from([0, 0, 1, -1]))
    def update(self, key: str, value: bytes, off: int) -> None:
        revision = self.model.get(key, (b"", 1))[1] + off
        (outcome,) = self.run(self.engine.key_value.write([KvUpdate(key=key, value=value, revision=revision)]))
        if key in self.model and off == 0:
            self._written(key, value, outcome)
        else:
            self._refused(key, outcome)

    @rule(key=KEYS, off=st.sampled_from([None, 0, 1]))
    def delete(self, key: str, off: int | None) -> None:
        revision = None if off is None else self.model.get(key, (b"", 1))[1] + off
        (outcome,) = self.run(self.engine.key_value.write([KvDelete(key=key, revision=revision)]))
        if key in self.model and off == 1:
            self._refused(key, outcome)
        else:
            self._written(key, None, outcome)

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4))
    def put_many_and_delete_the_first(self, keys: list[str]) -> None:
        writes = [KvPut(key=key, value=b"%d" % number) for number, key in enumerate(keys)]
        outcomes = self.run(self.engine.key_value.write([*writes, KvDelete(key=keys[0])]))
        for write, outcome in zip(writes, outcomes, strict=False):
            self._written(write.key, write.value, outcome)
        self._written(keys[0], None, outcomes[-1])

    @rule(prefix=st.sampled_from(["", "a", "a.b", "b", "c"]), limit=st.integers(1, 4))
    def pages(self, prefix: str, limit: int) -> None:
        found = []
        after: str | None = None
        while True:
            page = self.run(self.engine.key_value.page(prefix, after=after, limit=limit))
            found += [(entry.key, entry.value, entry.revision) for entry in page.entries]
            if page.next_after is None:
                break
            after = page.next_after
        expected = [key for key in sorted(self.model) if not prefix or key == prefix or key.startswith(prefix + ".")]
        assert found == [(key, *self.model[key]) for key in expected]

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        keys = ["a", "a.b", "a.b.c", "a.bc", "b", "a.b-c"]
        found = self.run(self.engine.key_value.get(keys))
        assert [entry and (entry.value, entry.revision) for entry in found] == [self.model.get(key) for key in keys]


@dataclass
class SubjectModel:
    entries: list[tuple[str, bytes]] = field(default_factory=list)
    trimmed: int = 0


class LogMachine(EngineMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, SubjectModel] = {}
        self.last_position = 0

    def _appended(self, subject: SubjectModel, outcome: object, message_id: str, data: bytes) -> None:
        assert isinstance(outcome, Appended)
        subject.entries.append((message_id, data))
        assert (outcome.sequence, outcome.duplicate) == (len(subject.entries), False)
        assert outcome.position > self.last_position
        self.last_position = outcome.position

    @rule(name=SUBJECTS, message_id=IDS, data=st.binary(max_size=20))
    def append(self, name: str, message_id: str, data: bytes) -> None:
        entry = LogAppend(subject=name, message_id=message_id, data=data)
        (outcome,) = self.run(self.engine.log.append([entry]))
        subject = self.model.setdefault(name, SubjectModel())
        known = [number for number, (known_id, _data) in enumerate(subject.entries, 1) if known_id == message_id]
        if known:
            assert isinstance(outcome, Appended)
            assert (outcome.sequence, outcome.duplicate) == (known[-1], True)
        else:
            self._appended(subject, outcome, message_id, data)

    @rule(
        name=SUBJECTS, number=st.integers(100, 140), data=st.binary(max_size=20), off=st.sampled_from([0, 0, 0, -1, 1])
    )
    def append_after(self, name: str, number: int, data: bytes, off: int) -> None:
        subject = self.model.setdefault(name, SubjectModel())
        last = len(subject.entries)
        expected = max(0, last + off)
        message_id = f"expected{number}"
        entry = LogAppend(subject=name, message_id=message_id, data=data, expected_last=expected)
        (outcome,) = self.run(self.engine.log.append([entry]))
        if expected == last:
            self._appended(subject, outcome, message_id, data)
        elif expected < last and subject.entries[expected][0] == message_id and expected >= subject.trimmed:
            assert isinstance(outcome, Appended)
            assert (outcome.sequence, outcome.duplicate) == (expected + 1, True)
        else:
            assert outcome == WrongLast(last=last, last_message_id=subject.entries[-1][0] if last else None)

    @rule(name=SUBJECTS, keep=st.integers(0, 8))
    def trim(self, name: str, keep: int) -> None:
        (dropped,) = self.run(self.engine.log.trim([LogTrim(subject=name, keep_count=keep)]))
        subject = self.model.get(name, SubjectModel())
        target = max(subject.trimmed, len(subject.entries) - keep)
        assert dropped == target - subject.trimmed
        subject.trimmed = target

    @rule(name=SUBJECTS, begin=st.integers(0, 20), limit=st.integers(1, 5))
    def read(self, name: str, begin: int, limit: int) -> None:
        subject = self.model.get(name, SubjectModel())
        found = self.run(self.engine.log.read(name, FromSequence(begin), limit=limit))
        first = max(begin, subject.trimmed + 1)
        expected = list(enumerate(subject.entries, 1))[first - 1 : first - 1 + limit]
        assert [(entry.sequence, (entry.message_id, entry.data)) for entry in found] == expected

    @rule(name=SUBJECTS, count=st.integers(1, 6))
    def read_last(self, name: str, count: int) -> None:
        subject = self.model.get(name, SubjectModel())
        found = self.run(self.engine.log.read(name, FromLast(count)))
        expected = subject.entries[subject.trimmed :][-count:]
        assert [(entry.message_id, entry.data) for entry in found] == expected

    @invariant()
    def bounds_are_those_of_the_model(self) -> None:
        for name in ("s.a", "s.b", "t.a"):
            (bounds,) = self.run(self.engine.log.bounds([name]))
            subject = self.model.get(name, SubjectModel())
            last = len(subject.entries)
            if last == 0:
                assert bounds is None
            else:
                assert bounds is not None
                assert (bounds.first, bounds.last) == (subject.trimmed + 1, last)
                assert (bounds.count, bounds.last_message_id) == (last - subject.trimmed, subject.entries[-1][0])


# See `Queue.lease`.
_REPLICAS_KNOW_AFTER_S = 1.0


class QueueMachine(EngineMachine):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        # Message ids in order of hand-out turn, with priority and number of append.
        self.waiting: list[tuple[int, int, str]] = []
        self.held: dict[str, tuple[tuple[int, int, str], str]] = {}
        self.attempts: dict[str, int] = {}
        self.given_back: set[str] = set()
        self.dead: list[str] = []
        self.settled: list[str] = []
        self.number = 0
        self.priorities: dict[str, int] = {}
        self.appended_s: dict[str, float] = {}

    def _wait(self, message_id: str, priority: int) -> None:
        self.number += 1
        self.waiting.append((-priority, self.number, message_id))
        self.waiting.sort()
        self.attempts[message_id] = 0
        self.priorities[message_id] = priority
        self.appended_s[message_id] = time.monotonic()

    @rule(message_id=IDS, priority=st.sampled_from(list(Priority)))
    def append(self, message_id: str, priority: Priority) -> None:
        message = QueueAppend(queue="q", message_id=message_id, data=b"x", priority=priority)
        assert self.run(self.engine.queue.append([message])) == [Enqueued(duplicate=message_id in self.seen)]
        if message_id not in self.seen:
            self.seen.add(message_id)
            self._wait(message_id, priority)

    @rule(count=st.integers(1, 4))
    def lease(self, count: int) -> None:
        wait_ms = 5_000 if self.waiting else 0
        leases = self.run(self.engine.queue.lease("q", count=count, wait_ms=wait_ms))
        assert len(leases) <= count
        assert leases or not self.waiting
        for lease in leases:
            (turn,) = [each for each in self._next() if each[2] == lease.message.message_id]
            self.waiting.remove(turn)
            self.given_back.discard(turn[2])
            self.attempts[turn[2]] += 1
            assert lease.attempt == self.attempts[turn[2]]
            self.held[turn[2]] = (turn, lease.delivery_id)

    def _next(self) -> list[tuple[int, int, str]]:
        """What may be handed out next. Replicas may pass over what was appended a moment ago."""
        allowed = self._first_of(self.waiting)
        if self.adapter == "nats-cluster":
            begin_s = time.monotonic() - _REPLICAS_KNOW_AFTER_S
            new = [turn for turn in self.waiting if self.appended_s[turn[2]] > begin_s]
            allowed = [*new, *self._first_of([turn for turn in self.waiting if turn not in new]), *allowed]
        return list(dict.fromkeys(allowed))

    def _first_of(self, waiting: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
        """Of the highest priority what was given back, in any order, then the oldest."""
        first = [turn for turn in waiting if turn[0] == waiting[0][0]]
        return [turn for turn in first if turn[2] in self.given_back] or first[:1]

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99), how=st.sampled_from(["ack", "retry", "dead", "extend"]))
    def settle(self, pick: int, how: str) -> None:
        message_id = sorted(self.held)[pick % len(self.held)]
        turn, delivery_id = self.held[message_id]
        settlement = {
            "ack": Ack(delivery_id=delivery_id),
            "retry": ToRetry(delivery_id=delivery_id, visible_at_ms=0),
            "dead": ToDeadLetters(delivery_id=delivery_id, reason="r"),
            "extend": Extend(delivery_id=delivery_id),
        }[how]
        assert list(self.run(self.engine.queue.settle([settlement]))) == [SettleOutcome.DONE]
        if how == "extend":
            return
        del self.held[message_id]
        self.settled.append(delivery_id)
        if how == "retry":
            self.given_back.add(message_id)
            self.waiting.append(turn)
            self.waiting.sort()
        elif how == "dead":
            self.dead.append(message_id)

    @precondition(lambda self: self.settled)
    @rule(pick=st.integers(0, 99))
    def settle_again(self, pick: int) -> None:
        delivery_id = self.settled[pick % len(self.settled)]
        assert list(self.run(self.engine.queue.settle([Ack(delivery_id=delivery_id)]))) == [SettleOutcome.STALE]

    @rule(message_id=IDS)
    def redrive(self, message_id: str) -> None:
        assert list(self.run(self.engine.queue_admin.redrive("q", [message_id]))) == [message_id in self.dead]
        if message_id in self.dead:
            self.dead.remove(message_id)
            self._wait(message_id, self.priorities[message_id])

    @rule()
    def purge(self) -> None:
        assert self.run(self.engine.queue_admin.purge("q")) == len(self.waiting) + len(self.held)
        self.settled += [delivery_id for _turn, delivery_id in self.held.values()]
        self.waiting, self.held = [], {}
        self.given_back.clear()

    @invariant()
    def shows_what_the_model_holds(self) -> None:
        turns = sorted([*self.waiting, *(turn for turn, _delivery_id in self.held.values())])
        shown = self.run(self.engine.queue.peek("q"))
        assert [message.message_id for message in shown] == [message_id for *_turn, message_id in turns]
        dead = self.run(self.engine.queue_admin.dead_letters("q"))
        assert [letter.message.message_id for letter in dead] == self.dead


@pytest.mark.parametrize("machine", [KeyValueMachine, LogMachine, QueueMachine])
@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_an_engine_answers_as_its_model_does(machine: type[EngineMachine], adapter: str) -> None:
    run_state_machine_as_test(type(machine.__name__, (machine,), {"adapter": adapter}), settings=MODEL_RUNS)
