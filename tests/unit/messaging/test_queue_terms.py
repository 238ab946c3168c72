"""What a sender may ask for a queued message, and how a wrong wish is named."""

import pytest

from meshway.engine.ports import Priority
from meshway.kernel.errors import InvalidRequest
from meshway.messaging.queue_terms import PLAIN, QueueTerms, terms_of
from support.queue_rig import message

NOW_MS = 1_800_000_000_000  # 2027-01-15T08:00:00Z
DAY_MS = 86_400_000


def terms(*, ordered=False, **members) -> QueueTerms:
    return terms_of(message(**members), ordered=ordered, now_ms=NOW_MS, field="messages.3")


def test_a_message_that_asks_for_nothing_costs_nothing():
    assert terms() is PLAIN
    assert terms(dedupe_id="a") is PLAIN


@pytest.mark.parametrize(
    ("members", "deliver_at_ms"),
    [
        ({"delay_ms": 0}, None),
        ({"delay_ms": 1}, NOW_MS + 1),
        ({"delay_ms": 365 * DAY_MS}, NOW_MS + 365 * DAY_MS),
        ({"deliver_at": "2027-01-15T08:00:00.001Z"}, NOW_MS + 1),
        ({"deliver_at": "2027-01-15T10:00:01+02:00"}, NOW_MS + 1_000),
        ({"deliver_at": "2028-01-15T08:00:00Z"}, NOW_MS + 365 * DAY_MS),
        ({"deliver_at": "1999-12-31T23:59:59Z"}, None),
        ({"deliver_at": "0001-01-01T00:00:00+23:59"}, None),
    ],
)
def test_a_delay_or_a_time_says_when_a_message_is_first_due(members, deliver_at_ms):
    assert terms(**members).deliver_at_ms == deliver_at_ms


def test_an_expiry_counts_from_now_and_may_follow_a_delay():
    asked = terms(delay_ms=1_000, expires_in_ms=1_001, priority="urgent")
    assert asked == QueueTerms(Priority.URGENT, NOW_MS + 1_000, NOW_MS + 1_001)
    assert asked.wait_ms(NOW_MS) == 1_000


def test_an_ordering_key_is_for_ordered_queues():
    assert terms(ordering_key="k", ordered=True) is PLAIN
    with pytest.raises(InvalidRequest, match='PUT its settings with "ordered": true'):
        terms(ordering_key="k")


@pytest.mark.parametrize(
    ("members", "member"),
    [
        ({"delay_ms": -1}, "delay_ms"),
        ({"delay_ms": 365 * DAY_MS + 1}, "delay_ms"),
        ({"delay_ms": 2**70}, "delay_ms"),
        ({"delay_ms": 5, "deliver_at": "2027-01-15T08:00:00Z"}, "deliver_at"),
        ({"deliver_at": "2028-01-15T08:00:00.001Z"}, "deliver_at"),
        ({"deliver_at": "2027-01-15T08:00:00"}, "deliver_at"),
        ({"deliver_at": "tomorrow"}, "deliver_at"),
        ({"deliver_at": ""}, "deliver_at"),
        ({"deliver_at": "9999-12-31T23:59:59-23:59"}, "deliver_at"),
        ({"expires_in_ms": 0}, "expires_in_ms"),
        ({"expires_in_ms": 2**62}, "expires_in_ms"),
        ({"expires_in_ms": 1_000, "delay_ms": 1_000}, "expires_in_ms"),
        ({"priority": "highest"}, "priority"),
        ({"priority": ""}, "priority"),
        ({"dedupe_id": ""}, "dedupe_id"),
        ({"dedupe_id": "x" * 256}, "dedupe_id"),
        ({"dedupe_id": "a\nb"}, "dedupe_id"),
        ({"ordering_key": "\x00", "ordered": True}, "ordering_key"),
        ({"ordering_key": "", "ordered": True}, "ordering_key"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_named(members, member):
    with pytest.raises(InvalidRequest) as caught:
        terms(**members)
    assert [error.field for error in caught.value.fields] == [f"messages.3.{member}"]
