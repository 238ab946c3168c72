"""Which calls are made in the course of a task, and which are refused: every limit by name."""

import pytest

from meshway.gateway.chain_tokens import ChainTokens
from meshway.gateway.delegation_guard import DelegationGuard
from meshway.gateway.delegation_settings import DelegationSettings
from meshway.gateway.root_ledger import RootLedger
from meshway.kernel.delegation import DelegationLimits, Hop
from meshway.kernel.errors import DeadlineExceeded, DelegationRefused, InvalidRequest, OwnLimitReached
from meshway.kernel.ids import AgentId, PrincipalId
from meshway.kernel.principal import LOCAL_OPERATOR, Principal, Scope, parse_scope
from meshway.testing.registry_fakes import FakeSecretBox

CLIENT = Principal(PrincipalId("client"), frozenset({Scope("call")}))
AGENT = Principal(PrincipalId("agent"), frozenset({Scope("call"), parse_scope("serve:x-*")}))
OTHER_AGENT = Principal(PrincipalId("other"), frozenset({Scope("call"), parse_scope("serve:y")}))


class World:
    def __init__(self, clock, limits=None, **settings):
        self.clock = clock
        self.ledger = RootLedger()
        self.guard = DelegationGuard(
            ChainTokens(FakeSecretBox()),
            self.ledger,
            DelegationSettings(**settings),
            clock,
            limits_of=(limits or {}).get,
        )

    def call(self, agent_id, token=None, *, who=CLIENT, task_id=None, deadline_ms=None):
        """One call, let through: the token that the agent gets."""
        above = self.guard.admit(who, AgentId(agent_id), token).chain_above
        return self.guard.token(self.guard.child(above, AgentId(agent_id), task_id or f"{agent_id}-task", deadline_ms))

    def refusal(self, agent_id, token):
        with pytest.raises(DelegationRefused) as refused:
            self.guard.admit(CLIENT, AgentId(agent_id), token)
        return refused.value


@pytest.fixture
def world(clock):
    return World(clock)


def test_a_chain_grows_by_each_call_and_keeps_its_root(world, clock):
    began = clock.now_ms()
    first = world.call("a", task_id="t1")
    clock.advance(5)
    second = world.call("b", first, task_id="t2")
    chain = world.guard.admit(CLIENT, AgentId("c"), second).chain_above
    assert chain.shown() == "client -> a (task t1) -> b (task t2)"
    assert (chain.root, chain.started_at_ms) == (Hop(AgentId("a"), "t1"), began)


def test_a_call_without_a_chain_begins_a_new_root(world):
    assert world.guard.admit(CLIENT, AgentId("a"), None).chain_above is None
    assert world.guard.child(None, AgentId("a"), "t", None).depth == 1


def test_too_deep_is_refused_and_the_error_shows_the_chain(clock):
    world = World(clock, depth_max=2)
    second = world.call("b", world.call("a"))
    error = world.refusal("c", second)
    assert error.detail == (
        "client -> a (task a-task) -> b (task b-task) -> c: that would be 3 agents in a row, the limit is 2."
    )
    assert error.extensions == {
        "chain": [{"agent": "a", "task": "a-task"}, {"agent": "b", "task": "b-task"}],
        "limit": "depth",
    }
    assert error.agent == "c"


def test_sixteen_agents_in_a_row_are_let_through_and_no_seventeenth(world):
    token = None
    for number in range(16):
        token = world.call(f"a{number}", token)
    assert world.refusal("a16", token).extensions["limit"] == "depth"


def test_an_agent_that_is_in_the_chain_is_not_called_again(world):
    second = world.call("b", world.call("a"))
    assert world.refusal("a", second).extensions["limit"] == "cycle"
    assert world.refusal("b", second).extensions["limit"] == "cycle"


def test_a_setting_allows_cycles_within_depth(clock):
    world = World(clock, depth_max=4, allow_cycles=True)
    token = None
    for agent_id in ("a", "b", "a", "b"):
        token = world.call(agent_id, token)
    assert world.refusal("a", token).extensions["limit"] == "depth"


def test_a_root_task_leads_to_so_many_calls_and_no_more(clock):
    world = World(clock, calls_max=3)
    first, other = world.call("a", task_id="t1"), world.call("a", task_id="t2")
    for number in range(3):
        world.call(f"b{number}", first)
    assert world.refusal("c", first).extensions["limit"] == "calls"
    assert world.call("c", other)


def test_a_refused_call_is_not_counted(clock):
    world = World(clock, calls_max=1)
    first = world.call("a")
    world.refusal("a", first)
    assert world.call("b", first)


def test_a_root_task_leads_to_no_calls_after_its_time(clock):
    world = World(clock, wall_ms_max=1_000)
    first = world.call("a")
    clock.advance(1_000)
    second = world.call("b", first)
    clock.advance(1)
    assert world.refusal("c", second).extensions["limit"] == "wall_time"


def test_the_time_of_a_root_survives_a_restart_of_the_hub(clock):
    first = World(clock, wall_ms_max=1_000).call("a")
    clock.advance(1_001)
    assert World(clock, wall_ms_max=1_000).refusal("b", first).extensions["limit"] == "wall_time"


def test_a_root_task_that_cost_enough_leads_to_no_more_calls(clock):
    world = World(clock, cost_max=10)
    first = world.call("a", task_id="t1")
    world.ledger.report_cost(Hop(AgentId("a"), "t1"), 9.5)
    second = world.call("b", first)
    world.ledger.report_cost(Hop(AgentId("a"), "t1"), 0.5)
    assert world.refusal("c", second).extensions["limit"] == "cost"


@pytest.mark.parametrize("units", [-1, float("nan"), float("inf")])
def test_a_cost_that_is_none_is_refused(world, units):
    with pytest.raises(InvalidRequest, match="cost"):
        world.ledger.report_cost(Hop(AgentId("a"), "t1"), units)


def test_the_earliest_deadline_holds_for_everything_below(world, clock):
    now_ms = clock.now_ms()
    first = world.call("a", deadline_ms=now_ms + 5_000)
    second = world.call("b", first, deadline_ms=now_ms + 9_000)
    assert world.guard.admit(CLIENT, AgentId("c"), second).chain_above.deadline_ms == now_ms + 5_000
    third = world.call("c", second, deadline_ms=now_ms + 1_000)
    clock.advance(1_000)
    with pytest.raises(DeadlineExceeded, match="client -> a"):
        world.guard.admit(CLIENT, AgentId("d"), third)


def test_a_changed_token_is_refused(world):
    token = world.call("a")
    with pytest.raises(InvalidRequest, match="Meshway-Chain"):
        world.guard.admit(CLIENT, AgentId("b"), token[:-3] + "xyz")


def test_an_endless_task_id_does_not_make_a_chain_that_no_header_holds(world):
    token = None
    for number in range(16):
        token = world.call(f"a{number}", token, task_id=f"{number}" + "t" * 10_000)
    assert len(token) < 8_192


# What an operator sets for an agent


def test_limits_of_the_root_stand_in_place_of_those_of_the_hub(clock):
    limits = {"wide": DelegationLimits(calls_max=3), "narrow": DelegationLimits(calls_max=1)}
    world = World(clock, limits, calls_max=2)
    for root, most in (("wide", 3), ("narrow", 1), ("plain", 2)):
        first = world.call(root)
        for number in range(most):
            world.call(f"b{number}", first)
        assert world.refusal("c", first).extensions["limit"] == "calls"


def test_limits_of_the_called_agent_hold_besides(clock):
    limits = {"shy": DelegationLimits(depth_max=2), "bold": DelegationLimits(depth_max=16)}
    world = World(clock, limits, depth_max=3)
    second = world.call("b", world.call("a"))
    assert world.refusal("shy", second).extensions["limit"] == "depth"
    assert world.refusal("bold", world.call("c", second)).extensions["limit"] == "depth"


def test_the_called_agent_has_the_last_word_about_cycles(clock):
    limits = {"loop": DelegationLimits(allow_cycles=True), "once": DelegationLimits(allow_cycles=False)}
    world = World(clock, limits)
    second = world.call("once", world.call("loop"))
    assert world.call("loop", second)
    assert world.refusal("once", second).extensions["limit"] == "cycle"
    plain = world.call("plain", world.call("loop"))
    assert world.call("plain", plain)


# An agent on its own


def test_calls_of_an_agent_outside_every_chain_have_a_rate(clock):
    world = World(clock, own_calls_per_minute=60, own_running_max=None)
    for _ in range(60):
        world.call("a", who=AGENT)
    with pytest.raises(OwnLimitReached, match="Meshway-Chain") as refused:
        world.call("a", who=AGENT)
    assert refused.value.retry_after_ms == 1_001
    assert world.call("a", who=OTHER_AGENT)
    clock.advance(1_000)
    world.call("a", who=AGENT)
    with pytest.raises(OwnLimitReached):
        world.call("a", who=AGENT)


def test_calls_of_an_agent_outside_every_chain_run_so_many_at_once(clock):
    world = World(clock, own_running_max=2)
    ends = [world.guard.admit(AGENT, AgentId("a"), None).end for _ in range(2)]
    with pytest.raises(OwnLimitReached, match="under way"):
        world.guard.admit(AGENT, AgentId("a"), None)
    ends[0]()
    ends[0]()
    world.guard.admit(AGENT, AgentId("a"), None)
    with pytest.raises(OwnLimitReached):
        world.guard.admit(AGENT, AgentId("a"), None)


@pytest.mark.parametrize("who", [CLIENT, LOCAL_OPERATOR])
def test_clients_and_admins_have_no_such_limit(clock, who):
    world = World(clock, own_calls_per_minute=1, own_running_max=1)
    for _ in range(3):
        world.call("a", who=who)


def test_calls_in_a_chain_do_not_count_as_the_agents_own(clock):
    world = World(clock, own_calls_per_minute=1, own_running_max=1)
    first = world.call("a")
    for number in range(3):
        world.call(f"b{number}", first, who=AGENT)


def test_the_ledger_forgets_the_root_that_was_quiet_longest():
    ledger = RootLedger(roots_max=2)
    for task_id in ("t1", "t2", "t1", "t3"):
        ledger.count_call(Hop(AgentId("a"), task_id), 7)
    usages = [ledger.usage(Hop(AgentId("a"), task_id)) for task_id in ("t1", "t3")]
    assert [(usage.calls, usage.first_call_ms) for usage in usages] == [(2, 7), (1, 7)]
    assert ledger.usage(Hop(AgentId("a"), "t2")).calls == 0
