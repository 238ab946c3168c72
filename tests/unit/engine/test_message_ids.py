"""Which appends count as repeated."""

from meshway.engine.embedded.queue_ids import MessageIds, message_key

WINDOW_MS = 1_000
KEY = message_key(1, "m")


def _ids(ids_max: int = 1_000) -> MessageIds:
    ids = MessageIds(window_ms=WINDOW_MS, ids_max=ids_max, now_ms=0)
    ids.begin(0)
    return ids


def test_an_id_is_remembered_for_its_window_and_not_longer():
    ids = _ids()
    assert ids.add(KEY, 0)
    for now_ms in (0, 500, 999):
        ids.begin(now_ms)
        assert not ids.add(KEY, now_ms)
    ids.begin(1_000)
    assert ids.add(KEY, 1_000)


def test_an_id_stays_remembered_when_its_generation_turns_old():
    ids = _ids(ids_max=4)
    assert ids.add(KEY, 0)
    assert ids.add(message_key(1, "other"), 0)
    ids.begin(1)
    assert not ids.add(KEY, 1)


def test_only_so_many_ids_are_remembered_as_were_asked_for():
    ids = _ids(ids_max=4)
    for number in range(20):
        ids.begin(number)
        assert ids.add(message_key(1, f"m{number}"), number)
    assert ids.add(message_key(1, "m0"), 20)
    assert not ids.add(message_key(1, "m19"), 20)


def test_what_was_rolled_back_was_never_remembered():
    ids = _ids()
    ids.add(message_key(1, "kept"), 0)
    ids.begin(1)
    ids.add(KEY, 1)
    ids.rolled_back()
    ids.begin(2)
    assert ids.add(KEY, 2)
    assert not ids.add(message_key(1, "kept"), 2)


def test_an_id_whose_message_was_refused_is_free_again():
    ids = _ids()
    ids.add(message_key(1, "before"), 0)
    ids.add(KEY, 0)
    ids.discard_last()
    assert ids.add(KEY, 0)
    assert not ids.add(message_key(1, "before"), 0)


def test_queues_do_not_share_their_ids_and_any_text_is_one():
    assert message_key(1, "m") != message_key(2, "m")
    assert len(message_key(1, "\ud800" * 300)) == 16
