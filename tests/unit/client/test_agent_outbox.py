"""What waits for the hub's confirmation: numbers without gaps, turns for all, nothing lost on a broken connection."""

from meshway.client.task_outbox import TaskOutbox


def an_outbox(*delivery_ids, events_max=100, bytes_max=1_000_000):
    outbox = TaskOutbox(events_max=events_max, bytes_max=bytes_max)
    for each in delivery_ids:
        outbox.open(each)
    return outbox


def batch(outbox, items_max=10, bytes_max=100_000):
    items = outbox.next_batch(items_max=items_max, bytes_max=bytes_max)
    return [(item.delivery_id, item.source, bytes(item.event)) for item in items]


def test_reports_are_numbered_from_one_and_sent_once():
    outbox = an_outbox("a")
    assert [outbox.append("a", b"x"), outbox.append("a", b"y")] == [1, 2]
    assert batch(outbox) == [("a", 1, b"x"), ("a", 2, b"y")]
    assert batch(outbox) == []
    assert outbox.append("a", b"z") == 3
    assert batch(outbox) == [("a", 3, b"z")]


def test_what_was_sent_and_not_confirmed_is_sent_again_after_a_rewind():
    outbox = an_outbox("a")
    for event in (b"1", b"2", b"3"):
        outbox.append("a", event)
    batch(outbox)
    outbox.confirm("a", 1)
    assert [(hold.delivery_id, hold.source) for hold in outbox.holds()] == [("a", 1)]
    outbox.append("a", b"4")
    # The hub had more than it could confirm before the connection broke.
    outbox.confirm("a", 2)
    outbox.rewind("a")
    assert batch(outbox) == [("a", 3, b"3"), ("a", 4, b"4")]
    outbox.confirm("a", 4)
    assert outbox.is_confirmed("a")
    assert outbox.is_empty
    outbox.rewind("a")
    assert batch(outbox) == []


def test_a_confirmation_of_the_past_changes_nothing():
    outbox = an_outbox("a")
    for event in (b"1", b"2"):
        outbox.append("a", event)
    batch(outbox)
    outbox.confirm("a", 2)
    outbox.confirm("a", 1)
    outbox.confirm("nobody", 7)
    assert outbox.append("a", b"3") == 3
    assert batch(outbox) == [("a", 3, b"3")]


def test_deliveries_take_turns_where_a_batch_is_too_small_for_all():
    outbox = an_outbox("a", "b")
    for _ in range(5):
        outbox.append("a", b"a")
    outbox.append("b", b"b")
    assert [each[:2] for each in batch(outbox, items_max=3)] == [("a", 1), ("a", 2), ("a", 3)]
    assert [each[:2] for each in batch(outbox, items_max=3)] == [("b", 1), ("a", 4), ("a", 5)]
    assert not outbox.has_unsent


def test_an_event_larger_than_a_batch_goes_alone():
    outbox = an_outbox("a", "b")
    outbox.append("a", b"small")
    outbox.append("a", b"L" * 5_000)
    outbox.append("b", b"small")
    sent = []
    while part := batch(outbox, bytes_max=1_000):
        sent.append([each[:2] for each in part])
    assert [("a", 2)] in sent
    assert sorted(each for part in sent for each in part) == [("a", 1), ("a", 2), ("b", 1)]


def test_room_is_bounded_in_events_and_bytes_and_comes_back():
    few = an_outbox("a", events_max=2)
    few.append("a", b"1")
    assert few.has_room
    few.append("a", b"2")
    assert not few.has_room
    few.confirm("a", 1)
    assert few.has_room
    small = an_outbox("a", "b", bytes_max=1_000)
    small.append("a", b"x" * 1_000)
    assert not small.has_room
    small.close("a")
    assert small.has_room
    assert small.is_empty


def test_nothing_is_said_of_a_closed_delivery_and_a_cleared_one_keeps_its_place():
    outbox = an_outbox("a", "b")
    outbox.append("a", b"1")
    outbox.append("b", b"1")
    outbox.append("b", b"2")
    batch(outbox, items_max=2)
    outbox.close("a")
    assert outbox.append("a", b"2") == 0
    outbox.confirm("b", 1)
    outbox.clear("b")
    assert batch(outbox) == []
    assert [(hold.delivery_id, hold.source) for hold in outbox.holds()] == [("b", 1)]
    assert outbox.append("b", b"again") == 2
