"""Which elections may have left a leader that does not know what the one before it handed out."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from meshway.engine.nats import consumer_elections
from meshway.engine.nats.consumer_elections import Elections, doubted_s

_MADE_AT = datetime(2026, 11, 28, 12, tzinfo=UTC)


def advisory(after_s: float) -> bytes:
    """As a server tells it, by its clock."""
    at = (_MADE_AT + timedelta(seconds=after_s)).isoformat().replace("+00:00", "Z")
    return json.dumps({"type": "io.nats.jetstream.advisory.v1.consumer_leader_elected", "timestamp": at}).encode()


@pytest.fixture
async def elections() -> Elections:
    return Elections("MW_QUEUE")


async def test_the_first_election_of_a_consumer_says_nothing(elections: Elections) -> None:
    assert elections.latest("c") is None
    elections.made("c", _MADE_AT)
    elections.elected("c", advisory(0.2))
    assert elections.latest("c") is None


async def test_a_later_one_does_whoever_heard_of_the_consumer_first(elections: Elections) -> None:
    before_s = consumer_elections._now_s()
    elections.elected("c", advisory(7))
    elections.made("c", _MADE_AT)
    heard_s = elections.latest("c")
    assert heard_s is not None
    assert before_s <= heard_s <= consumer_elections._now_s()
    assert elections.latest("another") is None


@pytest.mark.parametrize(("lease_ms", "seconds"), [(1_000, 10), (30_000, 30), (86_400_000, 600)])
def test_what_may_be_forgotten_is_asked_about_for_as_long_as_somebody_may_hold_it(lease_ms: int, seconds: int) -> None:
    assert doubted_s(lease_ms) == seconds


@pytest.mark.parametrize("text", [b"", b"{}", b'{"timestamp": "soon"}'])
async def test_one_that_cannot_be_read_counts(elections: Elections, text: bytes) -> None:
    elections.made("c", _MADE_AT)
    elections.elected("c", text)
    assert elections.latest("c") is not None


async def test_many_consumers_cost_a_bounded_memory(elections: Elections) -> None:
    for number in range(consumer_elections._REMEMBERED_MAX + 10):
        elections.elected(str(number), b"")
        elections.made(str(number), _MADE_AT)
    assert len(elections._latest) == len(elections._made_at) == consumer_elections._REMEMBERED_MAX
    assert elections.latest("0") is None
    assert elections.latest(str(consumer_elections._REMEMBERED_MAX)) is not None
