"""Which instance takes a call: health, load, weight, capacity, owners, breakers."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshway.kernel.errors import TooManyInFlight, UpstreamUnreachable
from meshway.registry.values import AgentSettings, AgentState
from meshway.routing.balancer import Balancer
from meshway.routing.settings import RoutingSettings
from meshway.testing.registry_fakes import an_agent, an_instance

SETTINGS = RoutingSettings(breaker_failures=3, breaker_open_ms=1_000, breaker_open_max_ms=4_000)


@pytest.fixture
def balancer(clock):
    return Balancer(clock=clock, settings=SETTINGS, chance=random.Random(1))


def picks(balancer, agent, count, **options):
    return Counter(balancer.pick(agent, **options).id for _ in range(count))


def refuse(balancer, agent, instance_id, times=3):
    for _ in range(times):
        balancer.saw(agent.id, instance_id, ok=False)


def test_idle_instances_share_by_weight(balancer):
    agent = an_agent("a", an_instance("x", weight=3), an_instance("y", weight=1))
    share = picks(balancer, agent, 4_000)
    assert 2_800 <= share["x"] <= 3_200


@pytest.mark.parametrize("weights", [(1, 1), (9, 1), (1_000, 1), (5, 3, 2), (1,) * 20])
def test_every_share_is_what_the_weights_say(balancer, weights):
    agent = an_agent("a", *(an_instance(f"i{n}", weight=weight) for n, weight in enumerate(weights)))
    calls = 6_000
    share = picks(balancer, agent, calls)
    for number, weight in enumerate(weights):
        likely = weight / sum(weights)
        spread = (calls * likely * (1 - likely)) ** 0.5
        # Five standard deviations: by chance once in a million runs, and the seed is fixed.
        assert abs(share[f"i{number}"] - calls * likely) <= 5 * spread + 1


def test_a_full_heavy_instance_leaves_its_calls_to_the_light_ones(balancer):
    agent = an_agent("a", an_instance("heavy", weight=1_000, capacity=1), an_instance("x"), an_instance("y"))
    balancer.begin("a", "heavy")
    share = picks(balancer, agent, 1_000)
    assert set(share) == {"x", "y"}
    assert 400 <= share["x"] <= 600


def test_of_two_the_less_loaded_is_taken(balancer):
    agent = an_agent("a", an_instance("x"), an_instance("y"))
    balancer.begin("a", "x")
    assert picks(balancer, agent, 50) == {"y": 50}
    balancer.end("a", "x")
    assert set(picks(balancer, agent, 50)) == {"x", "y"}


def test_load_counts_relative_to_weight(balancer):
    agent = an_agent("a", an_instance("big", weight=10), an_instance("small"))
    for _ in range(5):
        balancer.begin("a", "big")
    balancer.begin("a", "small")
    assert picks(balancer, agent, 50) == {"big": 50}


def test_calls_that_stay_open_spread_evenly_over_many(balancer):
    agent = an_agent("a", *(an_instance(f"i{n}") for n in range(10)))
    for _ in range(1_000):
        balancer.begin("a", balancer.pick(agent).id)
    loads = [balancer.in_flight("a", f"i{n}") for n in range(10)]
    assert max(loads) - min(loads) <= 6


def test_suspect_ones_are_second_choice_and_draining_ones_none(balancer):
    agent = an_agent(
        "a",
        an_instance("on"),
        an_instance("sus", AgentState.SUSPECT),
        an_instance("drain", AgentState.DRAINING),
        an_instance("off", AgentState.OFFLINE),
    )
    assert picks(balancer, agent, 50) == {"on": 50}
    assert picks(balancer, agent, 50, exclude={"on"}) == {"sus": 50}


def test_an_offline_instance_gets_one_trial_and_no_more_until_it_is_decided(balancer, clock):
    agent = an_agent("a", an_instance("x", AgentState.OFFLINE))
    assert balancer.pick(agent).id == "x"
    with pytest.raises(UpstreamUnreachable):
        balancer.pick(agent)
    balancer.saw("a", "x", ok=True)
    assert balancer.pick(agent).id == "x"


def test_a_trial_that_is_never_decided_blocks_nobody_for_ever(balancer, clock):
    agent = an_agent("a", an_instance("x", AgentState.OFFLINE))
    balancer.pick(agent)
    clock.advance(SETTINGS.trial_ms)
    assert balancer.pick(agent).id == "x"


def test_refusals_in_a_row_open_the_breaker_and_pauses_grow_to_their_maximum(balancer, clock):
    agent = an_agent("a", an_instance("x", AgentState.SUSPECT))
    refuse(balancer, agent, "x", times=2)
    assert balancer.pick(agent).id == "x"
    refuse(balancer, agent, "x", times=1)
    pauses = []
    for _ in range(5):
        with pytest.raises(UpstreamUnreachable) as refused:
            balancer.pick(agent)
        pauses.append(refused.value.retry_after_ms)
        clock.advance(refused.value.retry_after_ms + 1)
        balancer.pick(agent)
        refuse(balancer, agent, "x", times=1)
    for pause, full in zip(pauses, [1_000, 2_000, 4_000, 4_000, 4_000], strict=True):
        assert full * 0.74 <= pause <= full


def test_an_answer_between_refusals_keeps_the_breaker_closed(balancer):
    agent = an_agent("a", an_instance("x", AgentState.SUSPECT))
    for _ in range(10):
        refuse(balancer, agent, "x", times=2)
        balancer.saw("a", "x", ok=True)
    assert balancer.pick(agent).id == "x"


def test_a_sign_of_life_after_the_failures_closes_the_breaker(balancer, clock):
    failing = an_agent("a", an_instance("x", state_since_ms=clock.now_ms()))
    refuse(balancer, failing, "x")
    with pytest.raises(UpstreamUnreachable):
        balancer.pick(failing)
    clock.advance(10)
    back = an_agent("a", an_instance("x", state_since_ms=clock.now_ms()))
    assert balancer.pick(back).id == "x"


def test_calls_that_fail_after_it_opened_do_not_lengthen_the_pause(balancer, clock):
    agent = an_agent("a", an_instance("x", AgentState.SUSPECT))
    refuse(balancer, agent, "x", times=200)
    clock.advance(1_000)
    assert balancer.pick(agent).id == "x"


def test_capacity_is_kept_and_a_full_agent_says_when_to_come_back(balancer):
    agent = an_agent("a", an_instance("x", capacity=2), an_instance("y", capacity=1))
    for _ in range(3):
        balancer.begin("a", balancer.pick(agent).id)
    assert (balancer.in_flight("a", "x"), balancer.in_flight("a", "y")) == (2, 1)
    with pytest.raises(TooManyInFlight) as refused:
        balancer.pick(agent)
    assert refused.value.agent == "a"
    assert refused.value.retry_after_ms
    balancer.end("a", "y")
    assert balancer.pick(agent).id == "y"


def test_a_single_full_instance_refuses(balancer):
    agent = an_agent("a", an_instance("x", capacity=1))
    balancer.begin("a", balancer.pick(agent).id)
    with pytest.raises(TooManyInFlight):
        balancer.pick(agent)


def test_reported_calls_of_others_count_until_the_report_is_old(balancer, clock):
    agent = an_agent("a", an_instance("x", capacity=3))
    balancer.begin("a", "x")
    balancer.report("a", "x", 3, ttl_ms=1_000)
    assert balancer.in_flight("a", "x") == 3
    with pytest.raises(TooManyInFlight):
        balancer.pick(agent)
    clock.advance(1_000)
    assert balancer.in_flight("a", "x") == 1
    assert balancer.pick(agent).id == "x"


@pytest.mark.parametrize("state", list(AgentState))
def test_the_owner_of_a_task_is_meant_whatever_its_state_and_load(balancer, state):
    agent = an_agent("a", an_instance("x", state, capacity=1), an_instance("y"))
    balancer.begin("a", "x")
    assert picks(balancer, agent, 20, wanted="x") == {"x": 20}


def test_an_owner_that_refused_is_not_replaced_by_another(balancer):
    agent = an_agent("a", an_instance("x"), an_instance("y"))
    with pytest.raises(UpstreamUnreachable):
        balancer.pick(agent, wanted="x", exclude={"x"})
    refuse(balancer, agent, "x")
    with pytest.raises(UpstreamUnreachable):
        balancer.pick(agent, wanted="x")


def test_an_owner_that_no_longer_exists_is_replaced_by_any(balancer):
    agent = an_agent("a", an_instance("x"), an_instance("y"))
    assert set(picks(balancer, agent, 50, wanted="gone")) == {"x", "y"}


def test_the_refusal_names_the_agent_and_the_states(balancer):
    agent = an_agent("a", an_instance("x", AgentState.DRAINING), an_instance("y"))
    with pytest.raises(UpstreamUnreachable) as refused:
        balancer.pick(agent, exclude={"y"})
    assert refused.value.agent == "a"
    assert not refused.value.may_have_acted
    assert "x draining" in refused.value.detail
    assert "y refused this call" in refused.value.detail


def test_where_nobody_probes_a_call_finds_out_who_is_back(balancer, clock):
    instances = an_instance("on"), an_instance("off", AgentState.OFFLINE)
    silent = an_agent("a", *instances, settings=AgentSettings(probe=False))
    assert picks(balancer, silent, 50) == {"off": 1, "on": 49}
    refuse(balancer, silent, "off", times=1)
    assert picks(balancer, silent, 50) == {"on": 50}
    clock.advance(1_000)
    assert picks(balancer, silent, 50) == {"off": 1, "on": 49}


def test_a_hub_that_probes_nobody_lets_calls_find_out(clock):
    balancer = Balancer(clock=clock, settings=SETTINGS, chance=random.Random(1), hub_probes=False)
    agent = an_agent("a", an_instance("on"), an_instance("sus", AgentState.SUSPECT))
    assert picks(balancer, agent, 50) == {"sus": 1, "on": 49}


def test_counts_never_go_below_zero_and_forgotten_instances_are_dropped(balancer):
    balancer.end("a", "x")
    assert balancer.in_flight("a", "x") == 0
    for number in range(10_000):
        balancer.begin("a", f"i{number}")
        balancer.end("a", f"i{number}")
    balancer.begin("a", "held")
    for number in range(10_000):
        balancer.begin("b", f"i{number}")
        balancer.end("b", f"i{number}")
    assert len(balancer._loads) <= 1_025
    assert balancer.in_flight("a", "held") == 1


_states = st.sampled_from(list(AgentState))


@given(
    states=st.lists(_states, min_size=1, max_size=8),
    excluded=st.sets(st.integers(0, 7)),
    busy=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    seed=st.integers(0, 1_000),
)
def test_a_pick_is_never_excluded_draining_full_or_worse_than_another(states, excluded, busy, seed):
    class Still:
        def now_ms(self):
            return 0

        def monotonic_ms(self):
            return 0.0

    balancer = Balancer(clock=Still(), settings=SETTINGS, chance=random.Random(seed))
    agent = an_agent("a", *(an_instance(f"i{n}", state, capacity=2) for n, state in enumerate(states)))
    for number, calls in enumerate(busy[: len(states)]):
        for _ in range(calls):
            balancer.begin("a", f"i{number}")
    exclude = {f"i{number}" for number in excluded}
    free = [i for i in agent.instances if i.id not in exclude and balancer.in_flight("a", i.id) < 2]
    free = [i for i in free if i.state is not AgentState.DRAINING]
    rank = {AgentState.ONLINE: 0, AgentState.SUSPECT: 1, AgentState.OFFLINE: 2}
    try:
        picked = balancer.pick(agent, exclude=exclude)
    except UpstreamUnreachable:
        assert not free
    except TooManyInFlight:
        assert all(instance.state is AgentState.OFFLINE for instance in free)
    else:
        assert picked in free
        assert rank[picked.state] == min(rank[instance.state] for instance in free)
