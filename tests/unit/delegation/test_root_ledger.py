"""What each root task has caused, counted by all hubs of a mesh."""

import pytest

from meshway.gateway.root_ledger import RootLedger, RootShare
from meshway.kernel.delegation import Hop
from meshway.kernel.errors import InvalidRequest

ROOT = Hop("a", "t-1")


def root(number):
    return Hop("a", f"t-{number}")


def shared(**options):
    ledger = RootLedger(**options)
    ledger.share()
    return ledger


def test_calls_and_cost_of_all_hubs_add_up():
    ledger = shared()
    ledger.count_call(ROOT, 5)
    ledger.report_cost(ROOT, 1.5)
    ledger.heard_shares("b", [RootShare("a", "t-1", 3, 2.0)])
    ledger.heard_shares("c", [RootShare("a", "t-1", 1, 0.0)])
    usage = ledger.usage(ROOT)
    assert (usage.calls, usage.cost, usage.own_calls, usage.first_call_ms) == (5, 3.5, 1, 5)


def test_what_is_said_twice_counts_once():
    ledger = shared()
    for _ in range(3):
        ledger.heard_shares("b", [RootShare("a", "t-1", 3, 2.0)])
    assert (ledger.usage(ROOT).calls, ledger.usage(ROOT).cost) == (3, 2.0)


def test_only_what_changed_is_told_and_everything_when_asked():
    ledger = shared()
    ledger.count_call(root(1), 0)
    ledger.count_call(root(2), 0)
    assert len(ledger.shares_to_tell(is_whole=False)) == 2
    assert ledger.shares_to_tell(is_whole=False) == []
    ledger.count_call(root(2), 0)
    assert ledger.shares_to_tell(is_whole=False) == [RootShare("a", "t-2", 2, 0.0)]
    assert len(ledger.shares_to_tell(is_whole=True)) == 2


def test_what_only_others_counted_is_not_told_on():
    ledger = shared()
    ledger.heard_shares("b", [RootShare("a", "t-1", 3, 2.0)])
    assert ledger.shares_to_tell(is_whole=True) == []


def test_a_cost_without_a_call_is_told_too():
    """The call passed at one hub, and its agent says at another what it cost."""
    ledger = shared()
    ledger.report_cost(ROOT, 2.0)
    assert ledger.shares_to_tell(is_whole=False) == [RootShare("a", "t-1", 0, 2.0)]
    assert ledger.shares_to_tell(is_whole=True) == [RootShare("a", "t-1", 0, 2.0)]


def test_a_hub_on_its_own_remembers_nothing_to_tell():
    ledger = RootLedger()
    ledger.count_call(ROOT, 0)
    assert ledger._changed is None


def test_the_root_that_was_quiet_longest_is_forgotten_first():
    ledger = shared(roots_max=2)
    ledger.count_call(root(1), 0)
    ledger.count_call(root(2), 0)
    ledger.count_call(root(1), 0)
    ledger.count_call(root(3), 0)
    assert [ledger.usage(root(number)).calls for number in (1, 3)] == [2, 1]


def test_what_others_say_again_and_again_makes_no_hub_forget_what_it_counted():
    ledger = shared(roots_max=10)
    for number in range(10):
        ledger.count_call(root(number), 0)
    theirs = [RootShare("b", f"t-{number}", 1, 0.0) for number in range(10)]
    ledger.heard_shares("b", theirs)
    assert [ledger.usage(root(number)).calls for number in range(10)] == [1] * 10


def test_a_root_that_others_repeat_without_change_is_quiet():
    ledger = shared(roots_max=2)
    theirs = [RootShare("b", "t-1", 1, 0.0)]
    ledger.heard_shares("b", theirs)
    ledger.count_call(root(1), 0)
    ledger.heard_shares("b", theirs)
    ledger.count_call(root(2), 0)
    assert [ledger.usage(root(number)).calls for number in (1, 2)] == [1, 1]


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_a_cost_that_is_none_is_refused(cost):
    ledger = shared()
    with pytest.raises(InvalidRequest):
        ledger.report_cost(ROOT, cost)
    assert ledger.usage(ROOT).cost == 0
