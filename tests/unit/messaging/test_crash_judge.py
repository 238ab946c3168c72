"""The judge of crash tests notices each broken promise: an innocent run passes, with one planted fault it does not."""

import pytest

from support.crash_journal import Entry, Journal, read_journals
from support.crash_judge import Letter, StreamItem, judge_feeds, judge_queue, judge_stream
from support.queue_checker import Broken, QueueRules

RULES = QueueRules(lease_ms=1_000, attempts_max=2, backoff_initial_ms=100, backoff_max_ms=100)
ORDERED = QueueRules(lease_ms=1_000, attempts_max=2, backoff_initial_ms=100, backoff_max_ms=100, ordered=True)
USED_UP = "attempt 2 of 2 was not settled: its lease ran out"


def at(ms: int, event: str, **facts: object) -> Entry:
    return Entry(ms * 1_000_000, "p", event, {"queue": "q", **facts})


def posting(ms: int, number: int, *, key: str | None = None, delay_ms: int | None = None) -> Entry:
    return at(ms, "posting", numbers=[number], priority="normal", delay_ms=delay_ms, key=key)


def posted(ms: int, number: int) -> Entry:
    return at(ms, "posted", numbers=[number], ids=[f"id{number}"])


def leased(ms: int, number: int, attempt: int = 1, *, message_id: str | None = None) -> Entry:
    delivery = [f"d{number}.{attempt}", attempt, ms + 1_000, number, message_id or f"id{number}"]
    return at(ms + 1, "leased", free=5, deliveries=[delivery])


def said(
    ms: int, number: int, action: str = "ack", attempt: int = 1, reason: str = "", *, outcome: str = "done"
) -> list[Entry]:
    call = f"c{ms}"
    item = [f"d{number}.{attempt}", action, reason, None]
    return [at(ms, "settling", call=call, settlements=[item]), at(ms + 2, "settled", call=call, outcomes=[outcome])]


INNOCENT = [posting(100, 1), posted(104, 1), leased(110, 1), *said(120, 1)]
FAILED_TWICE = [
    *(posting(100, 1), posted(104, 1), leased(110, 1), *said(120, 1, "retry", reason="oh")),
    *(leased(300, 1, 2), *said(320, 1, "retry", 2, "no")),
]
HISTORY = [(1, "retry", "oh"), (2, "dead_letter", "attempt 2 of 2 failed: no")]
BURIED = Letter(1, "id1", "attempt 2 of 2 failed: no", HISTORY)
TWO_OF_A_KEY = [posting(100, 1, key="k"), posted(101, 1), posting(102, 2, key="k"), posted(103, 2)]


def judge(*entries: Entry, rules=RULES, letters=(), downs=()):
    return judge_queue(entries, rules, "q", downs=downs, letters=letters)


def test_an_innocent_run_passes():
    assert judge(*INNOCENT).done == 1
    assert judge(*FAILED_TWICE, letters=[BURIED]).dead == 1
    assert judge(posting(100, 1), leased(102, 1), posted(104, 1), *said(120, 1)).done == 1


def test_a_hand_out_whose_answer_was_lost_is_no_fault():
    unseen = Letter(1, "id1", USED_UP, [(1, "expired", ""), (2, "expired", "the lease ran out")])
    assert judge(posting(100, 1), posted(101, 1), leased(110, 1), letters=[unseen]).uncertain == 1


def test_a_settlement_that_nobody_answered_may_have_been_done_or_not():
    (asked, _answered) = said(120, 1, "dead_letter", reason="never")
    run = [posting(100, 1), posted(101, 1), leased(110, 1), asked]
    assert judge(*run, letters=[Letter(1, "id1", "never", [(1, "dead_letter", "never")])]).dead == 1
    assert judge(*run, leased(2_000, 1, 2), *said(2_010, 1, attempt=2)).done == 1
    with pytest.raises(Broken, match="neither done nor dead"):
        judge(*run)


def test_a_repetition_that_is_stale_is_no_fault_when_the_hub_died_on_the_way():
    run = [posting(100, 1), posted(101, 1), leased(110, 1), *said(120, 1, outcome="stale")]
    assert judge(*run, downs=[(121, 500)]).done == 1
    with pytest.raises(Broken, match="live delivery is stale"):
        judge(*run)


@pytest.mark.parametrize(
    ("fault", "entries"),
    [
        ("neither done nor dead|is lost", [posting(100, 1), posted(101, 1), posting(5_000, 2)]),
        ("handed out though it is done", [*INNOCENT, leased(200, 1, 2), *said(210, 1, attempt=2)]),
        ("held twice", [*INNOCENT[:3], leased(800, 1, 2), *said(810, 1, attempt=2)]),
        ("came .* ms too early", [posting(100, 1, delay_ms=500), posted(101, 1), leased(400, 1), *said(410, 1)]),
        ("attempt 3 of 2", [*INNOCENT[:3], leased(2_000, 1, 2), leased(4_000, 1, 3), *said(4_010, 1, attempt=3)]),
        ("the receipt said id1", [*INNOCENT[:2], leased(110, 1, message_id="other"), *said(120, 1)]),
        ("nobody posted it", [leased(110, 7), *said(120, 7)]),
        ("refused a worker", [*INNOCENT, at(130, "failed", error="no")]),
    ],
)
def test_a_planted_fault_of_a_queue_is_found(fault: str, entries: list[Entry]):
    with pytest.raises(Broken, match=fault):
        judge(*entries)


def test_a_broken_order_is_found():
    in_order = [leased(110, 1), *said(120, 1), leased(130, 2), *said(140, 2)]
    assert judge(*TWO_OF_A_KEY, *in_order, rules=ORDERED).done == 2
    with pytest.raises(Broken, match="came before 1, which has the same key"):
        judge(*TWO_OF_A_KEY, leased(110, 2), *said(120, 2), leased(130, 1), *said(140, 1), rules=ORDERED)


@pytest.mark.parametrize(
    ("fault", "letter"),
    [
        ("no worker said so", Letter(1, "id1", BURIED.reason, [(1, "retry", "else"), HISTORY[1]])),
        ("died of", Letter(1, "id1", USED_UP, HISTORY)),
        ("died of", Letter(1, "id1", "attempt 2 of 2 failed: else", HISTORY)),
        ("has the attempts", Letter(1, "id1", BURIED.reason, HISTORY[1:])),
        ("the receipt said id1", Letter(1, "id9", BURIED.reason, HISTORY)),
        ("nobody posted it", Letter(9, "id9", BURIED.reason, HISTORY)),
    ],
)
def test_a_dead_letter_that_lies_is_found(fault: str, letter: Letter):
    with pytest.raises(Broken, match=fault):
        judge(*FAILED_TWICE, letters=[letter])


APPENDS = [at(1, "appending", numbers=[1, 2]), at(2, "appended", numbers=[1, 2], ids=["a", "b"], sequences=[1, 2])]
KEPT = [StreamItem(1, "a", 1), StreamItem(2, "b", 2)]


@pytest.mark.parametrize(
    ("fault", "items"),
    [
        ("acknowledged as b at 2: None", KEPT[:1]),
        ("has gaps", [KEPT[0], StreamItem(2, "b", 3)]),
        ("there twice", [*KEPT, StreamItem(1, "a", 3)]),
        ("acknowledged as a at 1", [StreamItem(1, "z", 1), KEPT[1]]),
        ("out of order", [StreamItem(2, "b", 1), StreamItem(1, "a", 2)]),
        ("nobody appended 9", [*KEPT, StreamItem(9, "c", 3)]),
    ],
)
def test_a_planted_fault_of_a_stream_is_found(fault: str, items: list[StreamItem]):
    assert judge_stream(APPENDS, KEPT) == 2
    with pytest.raises(Broken, match=fault):
        judge_stream(APPENDS, items)


def test_a_follower_that_misses_or_repeats_is_found():
    saw = [at(3, "tailed", number=1, sequence=1), at(4, "tailed", number=2, sequence=2)]
    assert judge_feeds(saw, KEPT) == {"p tailed": 2}
    with pytest.raises(Broken, match="saw 1 after 2"):
        judge_feeds([*saw, saw[0]], KEPT)
    with pytest.raises(Broken, match="saw 3 after 1"):
        judge_feeds([saw[0], at(5, "tailed", number=3, sequence=3)], [*KEPT, StreamItem(3, "c", 3)])


def test_a_line_that_its_process_could_not_finish_counts_for_nothing(tmp_path):
    journal = Journal(tmp_path / "one.journal")
    journal.write("began", kind="worker")
    with (tmp_path / "one.journal").open("ab") as file:
        file.write(b'[1, "torn')
    assert [(entry.process, entry.event, entry.facts) for entry in read_journals(tmp_path)] == [
        ("one", "began", {"kind": "worker"})
    ]
