"""Presence under any order of events: a tracker on virtual time against a model that only remembers what was told it.

The model is the promise in words: who has a running lease, or was heard of last, is online; who was refused is not; who
never sent a heartbeat loses nothing by silence; what is stored follows what is shown. `test_the_machine_bites` plants
bugs and expects each to be found.
"""

import asyncio

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from meshway.kernel.ids import AgentId
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.presence import Signal, after_signal, believed
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentState
from meshway.testing.clock import ManualClock
from meshway.testing.fake_key_value import FakeKeyValue
from meshway.testing.registry_fakes import an_agent, an_instance

ECHO = AgentId("echo")
NAMES = ("one", "two")
RULES = RegistrySettings(offline_after_failures=3, offline_after_ms=1_000, sleep_tolerance_ms=5_000)
BOUNDS = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False
)


class Told:
    """What the model remembers of one instance; times are monotonic."""

    def __init__(self):
        self.draining = False
        self.belief = AgentState.ONLINE
        self.lease_ends = None
        self.ttl = 0
        self.heard = None
        self.refusals = []


class PresenceMachine(RuleBasedStateMachine):
    tracker_class = PresenceTracker

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()

    def teardown(self):
        self.loop.close()

    @initialize()
    def begin(self):
        self.clock = ManualClock()
        self.key_value = FakeKeyValue(self.clock)
        self.directory = Directory(self.key_value, settings=RULES)
        self.store = AgentStore(self.key_value, self.directory)
        self.tracker = self.tracker_class(self.store, self.directory, clock=self.clock, settings=RULES)
        self.wait(self.store.change(ECHO, lambda _: an_agent("echo", *map(an_instance, NAMES))))
        self.told = {name: Told() for name in NAMES}

    def wait(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def _heard(self, name):
        told = self.told[name]
        told.belief, told.heard, told.refusals = AgentState.ONLINE, self.clock.monotonic_ms(), []

    def _refused(self, name):
        told = self.told[name]
        told.refusals.append(self.clock.monotonic_ms())
        long_enough = self.clock.monotonic_ms() - told.refusals[0] >= RULES.offline_after_ms
        if len(told.refusals) >= RULES.offline_after_failures and long_enough:
            told.belief = AgentState.OFFLINE
        elif told.belief is AgentState.ONLINE:
            told.belief = AgentState.SUSPECT

    @rule(name=st.sampled_from(NAMES), probe=st.booleans())
    def answers(self, name, probe):
        (self.tracker.saw_probe if probe else self.tracker.saw_traffic)("echo", name, ok=True)
        self._heard(name)

    @rule(name=st.sampled_from(NAMES), probe=st.booleans(), times=st.integers(1, 3))
    def is_refused(self, name, probe, times):
        for _ in range(times):
            (self.tracker.saw_probe if probe else self.tracker.saw_traffic)("echo", name, ok=False)
            self._refused(name)

    @rule(name=st.sampled_from(NAMES))
    def breaks(self, name):
        self.tracker.saw_broken("echo", name)
        if self.told[name].belief is AgentState.ONLINE:
            self.told[name].belief = AgentState.SUSPECT

    @rule(name=st.sampled_from(NAMES), ttl=st.sampled_from([500, 2_000, 10_000]))
    def beats(self, name, ttl):
        self.tracker.heartbeat("echo", name, ttl_ms=ttl)
        self._heard(name)
        self.told[name].lease_ends, self.told[name].ttl = self.clock.monotonic_ms() + ttl, ttl

    @rule(name=st.sampled_from(NAMES), signal=st.sampled_from([Signal.DRAIN, Signal.RESUME]))
    def is_drained_or_resumed(self, name, signal):
        def decide(stored):
            now_ms = self.clock.now_ms()
            moved = tuple(after_signal(i, signal, now_ms) if i.id == name else i for i in stored.instances)
            return msgspec.structs.replace(stored, instances=moved)

        self.wait(self.store.change(ECHO, decide))
        self.told[name].draining = signal is Signal.DRAIN

    @rule(steps=st.integers(1, 30))
    def time_passes(self, steps):
        for _ in range(steps):
            self.clock.advance(500)
            self.tracker.sweep()
            for told in self.told.values():
                self._end_lease(told)

    def _end_lease(self, told):
        if told.lease_ends is None or told.lease_ends > self.clock.monotonic_ms():
            return
        healthy = told.belief is AgentState.ONLINE and not told.refusals
        if healthy and self.clock.monotonic_ms() - told.heard < told.ttl:
            told.lease_ends = told.heard + told.ttl
            return
        told.lease_ends, told.belief = None, AgentState.OFFLINE

    @rule(asleep_ms=st.integers(6_000, 10**8), suspended=st.booleans())
    def the_hub_sleeps(self, asleep_ms, suspended):
        if suspended:
            self.clock.set_wall(self.clock.now_ms() + asleep_ms)
        else:
            self.clock.advance(asleep_ms)
        before = {i.id: i.state for i in self.directory.get("echo").instances}
        self.tracker.sweep()
        assert {i.id: i.state for i in self.directory.get("echo").instances} == before
        for told in self.told.values():
            if told.lease_ends is not None:
                told.lease_ends = self.clock.monotonic_ms() + told.ttl

    @rule()
    def what_was_seen_is_stored(self):
        assert self.wait(self.tracker.flush())
        stored = self.wait(self.store.read(ECHO))
        shown = self.directory.get("echo")
        assert [(i.state, believed(i)) for i in stored.instances] == [(i.state, believed(i)) for i in shown.instances]

    @invariant()
    def shown_is_what_was_told(self):
        if not hasattr(self, "told"):
            return
        for instance in self.directory.get("echo").instances:
            told = self.told[instance.id]
            assert believed(instance) is told.belief, instance.id
            assert (instance.state is AgentState.DRAINING) == told.draining
            assert (instance.lease_ttl_ms is not None) == (told.lease_ends is not None)


TestPresence = PresenceMachine.TestCase
TestPresence.settings = BOUNDS


class ForgetsTheDrain(PresenceTracker):
    """A planted bug: an answer ends a drain."""

    def saw_traffic(self, agent_id, instance_id, *, ok):
        super().saw_traffic(agent_id, instance_id, ok=ok)
        agent = self._directory.get(agent_id)
        moved = tuple(after_signal(i, Signal.RESUME, 0) if i.id == instance_id else i for i in agent.instances)
        self._directory.show(msgspec.structs.replace(agent, instances=moved))


class ReapsAfterSleep(PresenceTracker):
    """A planted bug: the hub's own sleep counts against everybody."""

    def _grant_grace(self, monotonic_ms, now_ms):
        for agent_id, instance_id in list(self._leased):
            self._end_lease(agent_id, self._live[agent_id][instance_id], now_ms)


class NeverReaps(PresenceTracker):
    """A planted bug: leases do not end."""

    def _end_lease(self, agent_id, live, now_ms):
        return False


class ForgetsWhatItSaw(PresenceTracker):
    """A planted bug: somebody else's write undoes an observation that is not stored yet."""

    def _overlay(self, stored):
        return stored


class CountsForEver(PresenceTracker):
    """A planted bug: an answer does not end a row of refusals."""

    def _observe(self, agent_id, live, signal):
        failures = live.failures
        super()._observe(agent_id, live, signal)
        live.failures = failures


class StoresNothing(PresenceTracker):
    """A planted bug: the writer drops what it should store."""

    async def _write(self, agent_id, instance_ids):
        pass


@pytest.mark.parametrize(
    "bug", [ForgetsTheDrain, ReapsAfterSleep, NeverReaps, ForgetsWhatItSaw, CountsForEver, StoresNothing]
)
def test_the_machine_bites(bug):
    class Buggy(PresenceMachine):
        tracker_class = bug

    bounds = settings(BOUNDS, max_examples=300, phases=[Phase.generate], database=None, derandomize=True)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Buggy, settings=bounds)
