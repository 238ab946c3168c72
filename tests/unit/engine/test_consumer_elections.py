"""Which elections may have left a leader that does not know what the one before it handed out."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from meshway.engine.nats import consumer_elections
from meshway.engine.nats.consumer_elections import Elections

_MADE_AT = datetime(2026, 11, 28, 12, tzinfo=UTC)


def advisory(after_s: float) -> bytes:
    """As a server tells it, by its clock."""
    at = (_MADE_AT + timedelta(seconds=after_s)).isoformat().replace("+00:00", "Z")
    return json.dumps({"type": "io.nats.jetstream.advisory.v1.consumer_leader_elected", "timestamp": at}).encode()


@pytest.fixture
async def elections() -> Elections:
    return Elections("MW_QUEUE")


async def test_the_first_election_of_a_consumer_says_nothing(elections: Elections) -> None:
    assert not elections.is_recent("c")
    elections.made("c", _MADE_AT)
    elections.elected("c", advisory(0.2))
    assert not elections.is_recent("c")


async def test_a_later_one_does_whoever_heard_of_the_consumer_first(elections: Elections) -> None:
    elections.elected("c", advisory(7))
    elections.made("c", _MADE_AT)
    assert elections.is_recent("c")
    assert not elections.is_recent("another")


async def test_it_is_forgotten_after_a_while(elections: Elections, monkeypatch: pytest.MonkeyPatch) -> None:
    elections.made("c", _MADE_AT)
    elections.elected("c", advisory(7))
    now_s = consumer_elections._now_s()
    monkeypatch.setattr(consumer_elections, "_now_s", lambda: now_s + 9)
    assert elections.is_recent("c")
    monkeypatch.setattr(consumer_elections, "_now_s", lambda: now_s + 11)
    assert not elections.is_recent("c")


@pytest.mark.parametrize("text", [b"", b"{}", b'{"timestamp": "soon"}'])
async def test_one_that_cannot_be_read_counts(elections: Elections, text: bytes) -> None:
    elections.made("c", _MADE_AT)
    elections.elected("c", text)
    assert elections.is_recent("c")


async def test_many_consumers_cost_a_bounded_memory(elections: Elections) -> None:
    for number in range(consumer_elections._REMEMBERED_MAX + 10):
        elections.elected(str(number), b"")
        elections.made(str(number), _MADE_AT)
    assert len(elections._latest) == len(elections._made_at) == consumer_elections._REMEMBERED_MAX
    assert not elections.is_recent("0")
    assert elections.is_recent(str(consumer_elections._REMEMBERED_MAX))
