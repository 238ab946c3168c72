"""The judge of mesh tests finds each fault that is planted in a history of a mesh without any."""

from collections.abc import Iterable, Mapping, Sequence

import pytest

from support.crash_journal import Entry
from support.crash_judge import StreamItem
from support.mesh_checker import MeshVerdict, judge_calls, judge_mesh, served_again
from support.queue_checker import QueueRules

QUEUE, LEASE_MS = "work", 2_000
RULES = {QUEUE: QueueRules(lease_ms=LEASE_MS, attempts_max=3, backoff_initial_ms=50, backoff_max_ms=400)}
END = "TASK_STATE_COMPLETED"


class History:
    """What each process wrote down, in order; a millisecond passes with each line, and more where `at_ms` says so."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.now_ms = 1_000_000

    def add(self, process: str, event: str, **facts: object) -> None:
        self.now_ms += 1
        self.entries.append(Entry(self.now_ms * 1_000_000, process, event, facts))

    # Messages

    def post(self, number: int) -> None:
        call = {"queue": QUEUE, "numbers": [number]}
        self.add("producer", "posting", **call, priority="normal", delay_ms=None, key=None)
        self.add("producer", "posted", **call, ids=[f"id-{number}"])

    def lease(self, number: int, attempt: int = 1, *, worker: str = "worker-1") -> str:
        delivery = f"{number}/{attempt}/{worker}"
        facts = [delivery, attempt, self.now_ms + 1 + LEASE_MS, number, f"id-{number}"]
        self.add(worker, "leased", queue=QUEUE, free=1, deliveries=[facts])
        return delivery

    def settle(self, delivery: str, outcome: str = "done", *, is_handled: bool = True) -> None:
        if is_handled:
            self.add("worker", "handled", queue=QUEUE, number=int(delivery.partition("/")[0]))
        call, worker = f"{delivery}-{self.now_ms}", delivery.rpartition("/")[2]
        self.add(worker, "settling", queue=QUEUE, call=call, settlements=[[delivery, "ack", "", None]])
        self.add(worker, "settled", queue=QUEUE, call=call, outcomes=[outcome])

    def work_on(self, number: int) -> None:
        self.post(number)
        self.settle(self.lease(number))

    # Tasks and streams

    def submit(self, name: str = "task-1", *, numbers: Iterable[int] = (1, 2, 3, 4), is_logged: bool = True) -> None:
        self.add("load", "submitted", submission=name, task=f"id-{name}", expected="0 1 ")
        if is_logged:
            self.add("run", "logged", task=f"id-{name}", events=[EVENTS[number] for number in numbers])

    def follow(self, name: str = "stream-1", *, numbers: Sequence[int] = (1, 2, 3, 4)) -> None:
        self.add("load", "streaming", stream=name, agent="push", text="2 0", expected="0 1 ")
        for number in numbers:
            self.add("load", "event", stream=name, hub="h1", task=f"id-{name}", **EVENTS[number])

    def verdict(self, **changes: object) -> MeshVerdict:
        asked = {"downs": [], "letters": {QUEUE: []}, "items": ITEMS, "calls_may_fail": False}
        return judge_mesh(self.entries, RULES, **(asked | changes))


def event(number: int, kind: str, text: str = "", state: str | None = None) -> Mapping[str, object]:
    return {"number": number, "kind": kind, "text": text, "append": number == 3, "state": state, "attempt": None}


EVENTS = {
    1: event(1, "task", state="TASK_STATE_SUBMITTED"),
    2: event(2, "artifact", "0 "),
    3: event(3, "artifact", "1 "),
    4: event(4, "status", state=END),
    # One that comes after the end.
    5: event(5, "status", state=END),
}
ITEMS = [StreamItem(71, "id-71", 1), StreamItem(72, "id-72", 2)]


def whole() -> History:
    """Everything went well."""
    history = History()
    history.work_on(1)
    for item in ITEMS:
        history.add("producer", "appending", numbers=[item.number])
        history.add("producer", "appended", numbers=[item.number], ids=[item.id], sequences=[item.sequence])
        history.add("follower", "tailed", number=item.number, sequence=item.sequence)
    history.submit()
    history.follow()
    history.add("load", "calling", call="call-1", agent="push", text="1 0")
    history.add("load", "called", call="call-1", text="0 ")
    history.add("load", "commanding", command="command-1", expected="0 1 ")
    history.add("load", "commanded", command="command-1", status=0, out="0 1 \n", err="Task id of pull\n")
    history.add("probe", "probed", probe="probe-1", kind="enqueue", hub="h1", error="")
    history.add("run", "probes_found", names=["probe-1"])
    return history


def only_fault(history: History, **changes: object) -> str:
    (fault,) = history.verdict(**changes).faults
    return fault


def test_a_history_without_a_fault_is_found_to_have_none():
    verdict = whole().verdict()
    assert verdict.faults == []
    assert (verdict.counts["accepted"], verdict.counts["tasks"], verdict.counts["streams"]) == (1, 1, 1)


# Messages


def test_an_acknowledged_message_that_nobody_got_is_lost():
    history = whole()
    history.post(2)
    assert "is lost" in only_fault(history)


def test_an_acknowledged_message_that_is_neither_done_nor_dead_is_lost():
    history = whole()
    history.post(2)
    history.lease(2)
    history.now_ms += 2 * LEASE_MS
    history.work_on(3)
    assert "lost" in only_fault(history) or "neither done nor dead" in only_fault(history)


def test_a_message_that_is_called_done_though_nobody_worked_on_it_is_found():
    history = whole()
    history.post(2)
    history.settle(history.lease(2), is_handled=False)
    assert "nobody worked on it" in only_fault(history)


def test_two_live_holders_of_one_message_are_found():
    history = whole()
    history.post(2)
    history.lease(2)
    history.settle(history.lease(2, 2, worker="worker-2"))
    assert "held twice at a time" in only_fault(history)


def test_a_second_done_for_one_message_is_found():
    history = whole()
    history.post(2)
    first = history.lease(2)
    history.now_ms += LEASE_MS
    second = history.lease(2, 2, worker="worker-2")
    history.settle(second)
    history.settle(first)
    assert any("is done by" in fault for fault in history.verdict().faults)


def test_a_second_done_for_one_delivery_is_found():
    history = whole()
    history.post(2)
    delivery = history.lease(2)
    history.settle(delivery)
    history.settle(delivery)
    assert any("is done by" in fault for fault in history.verdict().faults)
    assert any("is done twice" in fault for fault in history.verdict().faults)


def test_a_stale_settlement_that_is_answered_done_is_found():
    history = whole()
    history.post(2)
    first = history.lease(2)
    history.now_ms += LEASE_MS
    second = history.lease(2, 2, worker="worker-2")
    history.settle(first)
    history.settle(second, "stale")
    assert "somebody else has the message" in only_fault(history)


def test_a_settlement_that_was_under_way_when_its_lease_ended_may_be_done_once():
    history = whole()
    history.post(2)
    first = history.lease(2)
    history.add("worker-1", "settling", queue=QUEUE, call="late", settlements=[[first, "ack", "", None]])
    history.now_ms += LEASE_MS
    second = history.lease(2, 2, worker="worker-2")
    history.add("worker-1", "settled", queue=QUEUE, call="late", outcomes=["done"])
    history.settle(second, "stale")
    assert history.verdict().faults == []
    history.settle(second)
    assert history.verdict().faults


@pytest.mark.parametrize("sequences", [(1, 1), (2, 1), (1, 3)])
def test_a_gap_or_a_repetition_in_a_stream_is_found(sequences):
    items = [StreamItem(item.number, item.id, at) for item, at in zip(ITEMS, sequences, strict=True)]
    assert "gaps" in only_fault(whole(), items=items)


def test_an_acknowledged_entry_of_a_stream_that_is_gone_is_found():
    history = whole()
    history.entries = [entry for entry in history.entries if entry.event != "tailed"]
    assert "was acknowledged as" in only_fault(history, items=ITEMS[:1])


def test_a_follower_that_missed_an_entry_is_found():
    history = whole()
    history.entries = [entry for entry in history.entries if entry.event != "tailed" or entry.facts["sequence"] == 1]
    assert "ended at 1 of 2" in only_fault(history)


@pytest.mark.parametrize(("found", "fault"), [([], "are lost"), (["probe-1", "probe-1"], "there twice")])
def test_a_message_of_a_probe_that_is_lost_or_doubled_is_found(found, fault):
    history = whole()
    history.entries.pop()
    history.add("run", "probes_found", names=found)
    assert fault in only_fault(history)


# Tasks and streams


@pytest.mark.parametrize("numbers", [(1, 3, 4), (1, 2, 2, 3, 4), (1, 2, 4), (2, 3, 4), (1, 3, 2, 4), (1, 2, 3)])
def test_a_missing_a_doubled_and_a_displaced_event_are_found_in_streams_and_in_logs(numbers):
    history = whole()
    history.follow("stream-2", numbers=numbers)
    assert all(fault.startswith("stream stream-2") for fault in history.verdict().faults)
    assert history.verdict().faults
    history = whole()
    history.submit("task-2", numbers=numbers)
    assert all(fault.startswith("task id-task-2") for fault in history.verdict().faults)
    assert history.verdict().faults


def test_a_task_that_ended_twice_is_found():
    history = whole()
    history.submit("task-2", numbers=(1, 2, 3, 4, 5))
    assert "terminal events are [4, 5]" in only_fault(history)


def test_an_accepted_task_of_which_nothing_is_left_is_found():
    history = whole()
    history.submit("task-2", is_logged=False)
    assert "was accepted, and is lost" in only_fault(history)


def test_one_key_that_became_two_tasks_is_found():
    history = whole()
    history.add("load", "submitted", submission="task-1", task="another", expected="0 1 ")
    assert "was accepted as id-task-1 and another" in only_fault(history)


def test_a_follower_that_was_never_told_of_the_end_is_found():
    history = whole()
    history.follow("stream-2", numbers=(1, 2))
    history.add("load", "stream_given_up", stream="stream-2", task="t", last="2")
    assert "stream-2 of task t did not end, after 2" in history.verdict().faults


# Calls


def test_a_failed_call_counts_only_where_none_may_fail():
    history = whole()
    history.add("load", "call_failed", call="call-2", hub="h1", error="ConnectionLost")
    assert "call-2 by h1 failed" in only_fault(history)
    assert judge_calls(history.entries, may_fail=True).faults == []
    assert history.verdict().counts["failed"] == 1


@pytest.mark.parametrize(
    ("status", "out", "err"), [(1, "", "Task id of pull\nError\n"), (0, "0 \n", "Task id of pull\n")]
)
def test_a_command_that_did_not_bring_its_task_to_the_end_is_found_also_where_calls_may_fail(status, out, err):
    history = whole()
    history.add("load", "commanding", command="command-2", expected="0 1 ")
    history.add("load", "commanded", command="command-2", status=status, out=out, err=err)
    assert "command-2" in only_fault(history, calls_may_fail=True)


# The time without service


def test_the_time_without_service_is_that_of_the_hub_which_was_last():
    history = History()
    since_ns = history.now_ms * 1_000_000
    for hub, tries in (("h1", ("",)), ("h2", ("away", "")), ("h3", ("away",))):
        for place, error in enumerate(tries):
            history.add("probe", "probing", probe=f"{hub}-{place}", kind="call", hub=hub)
            history.now_ms += 100
            history.add("probe", "probed", probe=f"{hub}-{place}", kind="call", hub=hub, error=error)
    again = served_again(history.entries, since_ns=since_ns, hubs=["h1", "h2"])
    assert (again.first_ms["call"], again.clear_ms["call"]) == (306, 204)
    assert served_again(history.entries, since_ns=since_ns, hubs=["h3"]).first_ms["call"] is None
