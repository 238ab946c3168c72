"""The table of moves, drains, and the decision to give an instance up."""

import pytest

from meshway.registry.presence import (
    MOVES,
    Signal,
    after_signal,
    agent_state,
    believed,
    is_given_up,
    last_seen_ms,
    with_presence,
)
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentState
from meshway.testing.registry_fakes import an_agent, an_instance

_LIFE = [signal for signal in Signal if signal not in (Signal.DRAIN, Signal.RESUME)]
_BELIEFS = [AgentState.ONLINE, AgentState.SUSPECT, AgentState.OFFLINE]


def test_every_belief_has_a_move_for_every_signal_of_life():
    assert set(MOVES) == set(_BELIEFS)
    assert all(set(moves) == set(_LIFE) for moves in MOVES.values())


def test_no_signal_of_life_makes_draining():
    assert all(state is not AgentState.DRAINING for moves in MOVES.values() for state in moves.values())


@pytest.mark.parametrize("belief", _BELIEFS)
@pytest.mark.parametrize("signal", [Signal.HEARTBEAT, Signal.TRAFFIC_OK, Signal.PROBE_OK])
def test_every_contact_brings_back_from_every_state(belief, signal):
    moved = after_signal(an_instance(state=belief), signal, 77, lease_ttl_ms=1_000)
    assert moved.state is AgentState.ONLINE


def test_an_answer_that_changes_nothing_makes_no_new_value():
    instance = an_instance()
    assert after_signal(instance, Signal.TRAFFIC_OK, 77) is instance


def test_a_change_of_state_carries_its_time():
    moved = after_signal(an_instance(), Signal.TRAFFIC_REFUSED, 77)
    assert (moved.state, moved.state_since_ms) == (AgentState.SUSPECT, 77)


def test_a_lease_that_ended_leaves_an_instance_without_lease():
    leased = after_signal(an_instance(), Signal.HEARTBEAT, 1_000, lease_ttl_ms=500)
    assert (leased.lease_until_ms, leased.lease_ttl_ms) == (1_500, 500)
    ended = after_signal(leased, Signal.LEASE_ENDED, 1_501)
    assert (ended.state, ended.lease_until_ms, ended.lease_ttl_ms) == (AgentState.OFFLINE, None, None)


def test_a_broken_connection_alone_never_makes_offline():
    instance = an_instance()
    for moment in range(100):
        instance = after_signal(instance, Signal.TRAFFIC_BROKEN, moment)
    assert instance.state is AgentState.SUSPECT


def test_life_goes_on_unseen_under_a_drain_and_shows_at_the_resume():
    draining = after_signal(an_instance(), Signal.DRAIN, 10)
    assert (draining.state, draining.state_since_ms) == (AgentState.DRAINING, 10)
    gone = after_signal(draining, Signal.GIVEN_UP, 20)
    assert (gone.state, gone.state_since_ms) == (AgentState.DRAINING, 10)
    assert believed(gone) is AgentState.OFFLINE
    resumed = after_signal(gone, Signal.RESUME, 30)
    assert (resumed.state, resumed.state_since_ms, resumed.state_under_drain) == (AgentState.OFFLINE, 30, None)


def test_draining_and_resuming_twice_change_nothing():
    draining = after_signal(an_instance(), Signal.DRAIN, 10)
    assert after_signal(draining, Signal.DRAIN, 20) is draining
    online = an_instance()
    assert after_signal(online, Signal.RESUME, 20) is online


def test_giving_up_takes_both_the_number_and_the_time():
    rules = RegistrySettings(offline_after_failures=3, offline_after_ms=2_000)
    assert not is_given_up(100, 0.0, 1_999.0, rules)
    assert not is_given_up(2, 0.0, 60_000.0, rules)
    assert is_given_up(3, 0.0, 2_000.0, rules)


def test_the_best_instance_speaks_for_the_agent():
    order = [AgentState.OFFLINE, AgentState.DRAINING, AgentState.SUSPECT, AgentState.ONLINE]
    instances = []
    for state in order:
        instances.append(an_instance(state.value, state))
        assert agent_state(an_agent("a", *instances)) is state


def test_last_seen_is_the_latest_contact_with_any_instance():
    assert last_seen_ms(an_agent("a", an_instance("x"), an_instance("y", last_seen_ms=5))) == 5
    assert last_seen_ms(an_agent("a", an_instance("x"))) is None


def test_merging_takes_life_from_the_live_one_and_the_drain_from_the_stored_one():
    stored = after_signal(an_instance(), Signal.DRAIN, 10)
    live = after_signal(an_instance(), Signal.GIVEN_UP, 20)
    merged = with_presence(stored, live)
    assert (merged.state, merged.state_since_ms, believed(merged)) == (AgentState.DRAINING, 10, AgentState.OFFLINE)
    resumed = with_presence(an_instance(), after_signal(stored, Signal.TRAFFIC_REFUSED, 20))
    assert (resumed.state, resumed.state_under_drain) == (AgentState.SUSPECT, None)
