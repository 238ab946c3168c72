"""The judge of queues where calls overlap and are cut off: it excuses what nobody can know, and nothing else."""

import pytest

from support.queue_checker import Broken, DeadSeen, Delivered, Posted, QueueChecker, QueueRules

RULES = QueueRules(lease_ms=1_000, attempts_max=2, backoff_initial_ms=100, backoff_max_ms=100)
USED_UP = "attempt 2 of 2 was not settled: its lease ran out"


@pytest.fixture
def checker() -> QueueChecker:
    checker = QueueChecker(RULES, exact=False)
    checker.posting([Posted("a"), Posted("b")])
    checker.posted(Posted("a"), duplicate=False, now_ms=0)
    return checker


def lease(checker, delivery_id, message_id="a", *, at_ms, attempt=1):
    checker.leased([Delivered(delivery_id, attempt, at_ms + 1_000, message_id)], count=1, begin_ms=at_ms, end_ms=at_ms)


def settle(checker, delivery_id, action, outcome, *, at_ms, **words):
    checker.settling(delivery_id, action)
    checker.settled(delivery_id, action, outcome, begin_ms=at_ms, end_ms=at_ms, **words)


def test_a_post_without_an_answer_may_have_been_kept_or_not(checker):
    checker.audit(["a"], [], now_ms=10)
    checker.audit(["a", "b"], [], now_ms=10)
    lease(checker, "d1", "b", at_ms=20)
    checker.posted(Posted("b"), duplicate=True, now_ms=30)


def test_what_was_accepted_must_be_there(checker):
    with pytest.raises(Broken, match="a: is lost"):
        checker.audit(["b"], [], now_ms=10)


def test_two_may_not_hold_one_message(checker):
    lease(checker, "d1", at_ms=0)
    with pytest.raises(Broken, match="held twice"):
        lease(checker, "d2", at_ms=999, attempt=2)


def test_who_was_silent_until_the_lease_ended_holds_it_no_more(checker):
    lease(checker, "d1", at_ms=0)
    lease(checker, "d2", at_ms=1_000, attempt=2)
    with pytest.raises(Broken, match="somebody else has the message"):
        settle(checker, "d1", "ack", "done", at_ms=1_001)


def test_a_settlement_without_an_answer_may_have_ended_the_hold(checker):
    lease(checker, "d1", at_ms=0)
    settle(checker, "d1", "retry", None, at_ms=10)
    lease(checker, "d2", at_ms=500, attempt=2)
    settle(checker, "d2", "ack", None, at_ms=510)
    settle(checker, "d2", "ack", "stale", at_ms=520)
    checker.audit([], [], now_ms=530)


def test_what_is_done_never_comes_again(checker):
    lease(checker, "d1", at_ms=0)
    settle(checker, "d1", "ack", "done", at_ms=10)
    with pytest.raises(Broken, match="though it is done"):
        lease(checker, "d2", at_ms=5_000, attempt=2)


def test_a_live_delivery_may_not_be_called_stale(checker):
    lease(checker, "d1", at_ms=0)
    with pytest.raises(Broken, match="live delivery is stale"):
        settle(checker, "d1", "ack", "stale", at_ms=10)


def test_one_delivery_is_done_once(checker):
    lease(checker, "d1", at_ms=0)
    settle(checker, "d1", "ack", "done", at_ms=10)
    with pytest.raises(Broken, match="done twice"):
        settle(checker, "d1", "ack", "done", at_ms=20)


def test_a_hand_out_that_never_arrived_counts_as_an_attempt(checker):
    lease(checker, "d1", at_ms=0, attempt=2)
    with pytest.raises(Broken, match="attempt 3 of 2"):
        lease(checker, "d2", at_ms=1_000, attempt=3)


def test_a_retry_keeps_to_its_back_off(checker):
    lease(checker, "d1", at_ms=0)
    settle(checker, "d1", "retry", "done", at_ms=10)
    with pytest.raises(Broken, match="too early"):
        lease(checker, "d2", at_ms=59, attempt=2)


def test_a_dead_letter_must_say_truly_how_it_died(checker):
    lease(checker, "d1", at_ms=0)
    settle(checker, "d1", "dead_letter", "done", at_ms=10, reason="bad")
    attempts = [(1, "dead_letter", "bad")]
    checker.audit([], [DeadSeen("a", "bad", attempts)], now_ms=20)
    with pytest.raises(Broken, match="died of 'bad'"):
        checker.audit([], [DeadSeen("a", USED_UP, attempts)], now_ms=20)
    with pytest.raises(Broken, match="had the attempts"):
        checker.audit([], [DeadSeen("a", "bad", [(1, "retry", "bad")])], now_ms=20)


def test_a_message_may_die_only_when_its_last_lease_is_over(checker):
    lease(checker, "d1", at_ms=0)
    lease(checker, "d2", at_ms=1_000, attempt=2)
    letter = DeadSeen("a", USED_UP, [(1, "expired", "the lease ran out"), (2, "expired", "the lease ran out")])
    with pytest.raises(Broken, match="though it is queued"):
        checker.audit([], [letter], now_ms=1_999)
    checker.audit([], [letter], now_ms=2_000)


def test_priorities_hold_within_one_lease():
    checker = QueueChecker(RULES, exact=False)
    checker.posting([Posted("low", 0), Posted("high", 2)])
    both = [Delivered("d1", 1, 1_000, "low"), Delivered("d2", 1, 1_000, "high")]
    with pytest.raises(Broken, match="priorities"):
        checker.leased(both, count=2, begin_ms=0, end_ms=0)


def test_a_key_is_served_in_order():
    checker = QueueChecker(QueueRules(1_000, 2, 100, 100, ordered=True), exact=False)
    posts = [Posted("a1", key="a"), Posted("a2", key="a")]
    checker.posting(posts)
    for posted in posts:
        checker.posted(posted, duplicate=False, now_ms=0)
    with pytest.raises(Broken, match="came before a1"):
        lease(checker, "d2", "a2", at_ms=0)
    lease(checker, "d1", "a1", at_ms=0)
    settle(checker, "d1", "ack", "done", at_ms=1)
    lease(checker, "d3", "a2", at_ms=2)
