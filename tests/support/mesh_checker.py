"""Judges what a mesh did under a fault by the journals of all its clients and workers. Pure.

What it holds against it: acknowledged messages that are lost, events that are missing or came again, accepted tasks
that did not end once, deliveries that two held or that were done twice, calls that failed where none may.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from support.crash_journal import Entry
from support.crash_judge import Letter, Span, StreamItem, judge_feeds, judge_queue, judge_stream
from support.queue_checker import Broken, QueueRules
from support.task_judge import SeenEvent, faults_of

__all__ = ["MeshVerdict", "ServedAgain", "judge_calls", "judge_mesh", "judge_messages", "judge_tasks", "served_again"]

_FINAL = frozenset({"ack", "dead_letter"})
# The engine hands nothing out that it asked for longer ago than this part of a lease.
_AGE_PARTS = 4


@dataclass(frozen=True)
class ServedAgain:
    """Milliseconds from the fault to the first success of what was begun after it, the worst over hubs; by kind.

    `clear_ms`: until the end of the last call that failed. None: never within the round.
    """

    first_ms: Mapping[str, int | None]
    clear_ms: Mapping[str, int]


@dataclass
class MeshVerdict:
    """`faults` is all that is wrong. `counts` say what there was to judge."""

    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, *others: "MeshVerdict") -> "MeshVerdict":
        for other in others:
            self.faults += other.faults
            self.counts += other.counts
        return self


def judge_mesh(
    entries: Sequence[Entry],
    rules: Mapping[str, QueueRules],
    *,
    downs: Sequence[Span],
    letters: Mapping[str, Sequence[Letter]],
    items: Sequence[StreamItem],
    calls_may_fail: bool,
) -> MeshVerdict:
    """All of it. `rules` and `letters` by queue; `items` is the whole stream that was appended to."""
    verdict = judge_messages(entries, rules, downs=downs, letters=letters, items=items)
    return verdict.add(judge_tasks(entries), judge_calls(entries, may_fail=calls_may_fail))


# --- tasks and streams -----------------------------------------------------------------------------------------------


def judge_tasks(entries: Iterable[Entry]) -> MeshVerdict:
    """Accepted tasks by what the hub has of them in the end; followers by what they saw, in the order they saw it."""
    verdict = MeshVerdict()
    accepted: dict[str, tuple[str, str]] = {}
    expected: dict[str, str] = {}
    seen: dict[str, list[SeenEvent]] = defaultdict(list)
    logs: dict[str, list[SeenEvent]] = {}
    unknown: set[str] = set()
    for entry in entries:
        facts = entry.facts
        match entry.event:
            case "submitted":
                before = accepted.setdefault(facts["submission"], (facts["task"], facts["expected"]))
                if before[0] != facts["task"]:
                    verdict.faults.append(f"{facts['submission']} was accepted as {before[0]} and {facts['task']}")
            case "streaming":
                expected[facts["stream"]] = facts["expected"]
            case "event":
                seen[facts["stream"]].append(_event(facts))
            case "stream_given_up":
                verdict.faults.append(f"{facts['stream']} of task {facts['task']} did not end, after {facts['last']}")
            case "stream_unknown":
                unknown.add(facts["stream"])
            case "logged":
                logs[facts["task"]] = [_event(each) for each in facts["events"]]
    for name, (task, text) in accepted.items():
        if task not in logs:
            verdict.faults.append(f"task {task} of {name} was accepted, and is lost")
            continue
        verdict.faults += [f"task {task} of {name}: {fault}" for fault in faults_of(logs[task], expected_text=text)]
    for name, text in expected.items():
        if name in unknown and not seen[name]:
            continue
        verdict.faults += [f"stream {name}: {fault}" for fault in faults_of(seen[name], expected_text=text)]
    verdict.counts.update(tasks=len(accepted), streams=len(expected), unknown=len(unknown))
    verdict.counts["events"] = sum(len(each) for each in seen.values())
    return verdict


def _event(facts: Mapping) -> SeenEvent:
    return SeenEvent(
        facts["number"],
        facts["kind"],
        facts["text"],
        append=facts["append"],
        state=facts["state"],
        attempt=facts["attempt"],
    )


# --- calls -----------------------------------------------------------------------------------------------------------


def judge_calls(entries: Iterable[Entry], *, may_fail: bool) -> MeshVerdict:
    """Those of the SDK, and `tasks submit --follow`, which once it has a task must bring it to its end."""
    verdict = MeshVerdict()
    texts: dict[str, str] = {}
    for entry in entries:
        facts = entry.facts
        match entry.event:
            case "calling":
                verdict.counts["calls"] += 1
            case "commanding":
                texts[facts["command"]] = facts["expected"]
            case "called" if facts["text"] != "0 ":
                verdict.faults.append(f"call {facts['call']} was answered {facts['text']!r}")
            case "call_failed":
                verdict.counts["failed"] += 1
                if not may_fail:
                    verdict.faults.append(f"call {facts['call']} by {facts['hub']} failed: {facts['error']}")
            case "commanded":
                verdict.counts["commands"] += 1
                verdict.faults += _command_faults(facts, texts[facts["command"]], may_fail=may_fail)
    return verdict


def _command_faults(facts: Mapping, expected: str, *, may_fail: bool) -> list[str]:
    name, status, out, err = (facts[each] for each in ("command", "status", "out", "err"))
    is_accepted = err.startswith("Task ")
    if status and (is_accepted or not may_fail):
        return [f"command {name} ended with {status}: {err[-300:]!r}"]
    # Each attempt begins anew, on a line of its own.
    if not status and out.rstrip("\n").rpartition("\n")[2].strip() != expected.strip():
        return [f"command {name} printed {out!r}, not {expected!r}"]
    return []


# --- messages --------------------------------------------------------------------------------------------------------


def judge_messages(
    entries: Sequence[Entry],
    rules: Mapping[str, QueueRules],
    *,
    downs: Sequence[Span],
    letters: Mapping[str, Sequence[Letter]],
    items: Sequence[StreamItem],
) -> MeshVerdict:
    """Queues, one stream and its followers, and the messages of whoever asked every hub all the time."""
    verdict = MeshVerdict()
    for queue, rule in rules.items():
        verdict.faults += [*_settled_twice(entries, queue), *_unhandled(entries, queue)]
        try:
            found = judge_queue(
                entries,
                rule,
                queue,
                downs=downs,
                letters=letters[queue],
                asked_before_ms=rule.lease_ms // _AGE_PARTS,
                is_mesh=True,
            )
        except Broken as broken:
            verdict.faults.append(f"queue {queue}: {broken}")
        else:
            verdict.counts.update(accepted=found.accepted, redelivered=found.redelivered, uncertain=found.uncertain)
    try:
        verdict.counts["appended"] = judge_stream(entries, items)
        for feed, last in judge_feeds(entries, items).items():
            if last != len(items):
                verdict.faults.append(f"{feed} ended at {last} of {len(items)}")
    except Broken as broken:
        verdict.faults.append(f"stream: {broken}")
    return verdict.add(_judge_probes(entries))


def _settled_twice(entries: Sequence[Entry], queue: str) -> list[str]:
    """However uncertain the rest is: of all final settlements of one message at most one may be done."""
    number_of: dict[str, int] = {}
    calls: dict[str, Sequence] = {}
    done: dict[int, list[str]] = defaultdict(list)
    for entry in entries:
        facts = entry.facts
        if facts.get("queue") != queue:
            continue
        match entry.event:
            case "leased":
                number_of |= {delivery: number for delivery, _attempt, _until_ms, number, _id in facts["deliveries"]}
            case "settling":
                calls[facts["call"]] = facts["settlements"]
            case "settled":
                for (delivery, action, *_), outcome in zip(calls[facts["call"]], facts["outcomes"], strict=True):
                    if outcome == "done" and action in _FINAL:
                        done[number_of[delivery]].append(delivery)
    return [f"queue {queue}: {number} is done by {names}" for number, names in done.items() if len(names) > 1]


def _unhandled(entries: Sequence[Entry], queue: str) -> list[str]:
    """What a worker calls done it has worked on."""
    mine = [entry for entry in entries if entry.facts.get("queue") == queue]
    handled = {entry.facts["number"] for entry in mine if entry.event == "handled"}
    number_of = {each[0]: each[3] for entry in mine if entry.event == "leased" for each in entry.facts["deliveries"]}
    said = [each for entry in mine if entry.event == "settling" for each in entry.facts["settlements"]]
    acked = {number_of[delivery] for delivery, action, *_ in said if action == "ack"}
    return [f"queue {queue}: {number} is called done, nobody worked on it" for number in sorted(acked - handled)]


def _judge_probes(entries: Sequence[Entry]) -> MeshVerdict:
    verdict = MeshVerdict()
    there = Counter(name for entry in entries if entry.event == "probes_found" for name in entry.facts["names"])
    kept = [e.facts["probe"] for e in entries if e.event == "probed" and _is_kept(e.facts)]
    if lost := [name for name in kept if name not in there]:
        verdict.faults.append(f"{len(lost)} acknowledged messages of probes are lost, {lost[0]} is one")
    if doubled := [name for name, count in there.items() if count > 1]:
        verdict.faults.append(f"{len(doubled)} messages of probes are there twice, {doubled[0]} is one")
    verdict.counts["probes"] = len(kept)
    return verdict


def _is_kept(facts: Mapping) -> bool:
    return facts["kind"] == "enqueue" and not facts["error"]


# --- the time without service ----------------------------------------------------------------------------------------


def served_again(entries: Iterable[Entry], *, since_ns: int, hubs: Sequence[str]) -> ServedAgain:
    """At each of `hubs` (URLs), of what was begun after `since_ns`."""
    began: dict[str, int] = {}
    first: dict[tuple[str, str], int] = {}
    clear: Counter[str] = Counter()
    for entry in sorted(entries):
        facts = entry.facts
        if entry.event == "probing" and entry.at_ns >= since_ns and facts["hub"] in hubs:
            began[facts["probe"]] = entry.at_ns
        elif entry.event == "probed" and facts["probe"] in began:
            took_ms = (entry.at_ns - since_ns) // 1_000_000
            if facts["error"]:
                clear[facts["kind"]] = max(clear[facts["kind"]], took_ms)
            else:
                first.setdefault((facts["kind"], facts["hub"]), took_ms)
    kinds = ("call", "enqueue", "submit")
    worst = {kind: [first.get((kind, hub)) for hub in hubs] for kind in kinds}
    return ServedAgain(
        {kind: None if None in times else max(times, default=0) for kind, times in worst.items()},
        {kind: clear[kind] for kind in kinds},
    )
