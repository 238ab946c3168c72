"""Judges a crash test by the journals of its processes and what the hub holds in the end. Raises `Broken`.

The hub and all processes share one clock. A lease is placed at the hub's own moment (the end it names, less the lease
time), for its answer may arrive late; everything else where its process wrote it down. Some engines count a lease from
when they asked for messages, so that its true moment is up to `asked_before_ms` later.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from support.crash_journal import Entry
from support.queue_checker import Broken, DeadSeen, Delivered, Posted, QueueChecker, QueueRules

__all__ = ["Letter", "QueueVerdict", "Span", "StreamItem", "judge_feeds", "judge_queue", "judge_stream"]

_PRIORITIES = {"low": 0, "normal": 1, "high": 2, "urgent": 3}
# begin and end, epoch ms
Span = tuple[int, int]


@dataclass(frozen=True)
class Letter:
    """A dead letter as the hub lists it."""

    number: int
    id: str
    reason: str
    attempts: Sequence[tuple[int, str, str]]


@dataclass(frozen=True)
class StreamItem:
    number: int
    id: str
    sequence: int


@dataclass(frozen=True)
class QueueVerdict:
    """What was judged, so that a test can see that there was something to judge."""

    accepted: int
    done: int
    dead: int
    redelivered: int
    uncertain: int


@dataclass
class _Book:
    """What the journals of one queue say, beside what the checker makes of it."""

    accepted: dict[int, str] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    number_of: dict[str, int] = field(default_factory=dict)
    attempts: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    # Said of a message by workers: (attempt, action) -> reason
    said: dict[int, dict[tuple[int, str], str]] = field(default_factory=lambda: defaultdict(dict))
    attempt_of: dict[str, int] = field(default_factory=dict)
    acked: set[int] = field(default_factory=set)


def judge_queue(
    entries: Iterable[Entry],
    rules: QueueRules,
    queue: str,
    *,
    downs: Sequence[Span],
    letters: Sequence[Letter],
    asked_before_ms: int = 0,
    is_mesh: bool = False,
) -> QueueVerdict:
    """The queue is empty now, but for `letters`. `downs`: from each kill of the hub to its next start."""
    lease_from_ms = rules.lease_ms - asked_before_ms
    mine = sorted(
        (entry for entry in entries if entry.facts.get("queue") == queue),
        key=lambda entry: (_moment(entry, lease_from_ms), entry.at_ns),
    )
    book = _read(mine)
    _check_letters(letters, book, rules)
    checker = QueueChecker(rules, exact=False, is_mesh=is_mesh)
    judge = _QueueJudge(checker, book, lease_from_ms, downs)
    judge.hear(mine)
    unseen = {
        letter.number
        for letter in letters
        if {attempt for attempt, _outcome, _reason in letter.attempts} != book.attempts[letter.number]
    }
    for entry in mine:
        judge.see(entry)
        if entry.event == "posting":
            checker.unsure_of(str(number) for number in entry.facts["numbers"] if number in unseen)
    judge.leave_open()
    now_ms = mine[-1].at_ms + 1
    checker.audit([], [DeadSeen(str(each.number), each.reason, each.attempts) for each in letters], now_ms=now_ms)
    dead = {letter.number for letter in letters}
    if lost := book.accepted.keys() - book.acked - dead:
        raise Broken(f"{queue}: {len(lost)} accepted messages are neither done nor dead, {min(lost)} is one")
    return QueueVerdict(
        accepted=len(book.accepted),
        done=len(book.acked),
        dead=len(dead),
        redelivered=sum(len(attempts) > 1 for attempts in book.attempts.values()),
        uncertain=checker.uncertain_count,
    )


def _moment(entry: Entry, lease_from_ms: int) -> int:
    if entry.event == "leased":
        return min(entry.at_ms, entry.facts["deliveries"][0][2] - lease_from_ms)
    return entry.at_ms


def _read(entries: Sequence[Entry]) -> _Book:
    book = _Book()
    for entry in entries:
        facts = entry.facts
        match entry.event:
            case "posting":
                book.asked.update(facts["numbers"])
            case "posted":
                book.accepted.update(zip(facts["numbers"], facts["ids"], strict=True))
            case "leased":
                for delivery_id, attempt, _until_ms, number, _id in facts["deliveries"]:
                    book.number_of[delivery_id] = number
                    book.attempt_of[delivery_id] = attempt
                    book.attempts[number].add(attempt)
    for entry in entries:
        if entry.event != "settling":
            continue
        for delivery_id, action, reason, _delay_ms in entry.facts["settlements"]:
            number = book.number_of[delivery_id]
            book.said[number][book.attempt_of[delivery_id], action] = reason
            if action == "ack":
                book.acked.add(number)
    return book


def _check_letters(letters: Sequence[Letter], book: _Book, rules: QueueRules) -> None:
    """Each died of what a worker said of it, or of its last lease; and nobody knows of an attempt that was not."""
    for letter in letters:
        number, said = letter.number, book.said[letter.number]
        name = f"dead letter {number}"
        if number not in book.asked:
            raise Broken(f"{name}: nobody posted it")
        if book.accepted.get(number, letter.id) != letter.id:
            raise Broken(f"{name}: has the id {letter.id}, the receipt said {book.accepted[number]}")
        attempts = [attempt for attempt, _outcome, _reason in letter.attempts]
        if attempts != list(range(1, len(attempts) + 1)) or len(attempts) > rules.attempts_max:
            raise Broken(f"{name}: has the attempts {attempts} of {rules.attempts_max}")
        for attempt, outcome, reason in letter.attempts[:-1]:
            if outcome == "retry" and said.get((attempt, "retry")) != reason:
                raise Broken(f"{name}: attempt {attempt} was retried for {reason!r}, no worker said so: {said}")
            if outcome not in ("retry", "expired"):
                raise Broken(f"{name}: attempt {attempt} of {len(attempts)} ended as {outcome}")
        last, most = attempts[-1], rules.attempts_max
        possible = {said.get((last, "dead_letter"))}
        if last == most:
            possible.add(f"attempt {last} of {most} failed: {said.get((last, 'retry'))}")
            possible.add(f"attempt {last} of {most} was not settled: its lease ran out")
        if letter.reason not in possible:
            raise Broken(f"{name}: died of {letter.reason!r} at attempt {last}, possible was {possible}")


class _QueueJudge:
    """Tells the checker what happened, in the order in which it did."""

    def __init__(self, checker: QueueChecker, book: _Book, lease_from_ms: int, downs: Sequence[Span]) -> None:
        self._checker = checker
        self._book = book
        self._lease_from_ms = lease_from_ms
        self._downs = downs
        self._open: dict[str, Entry] = {}
        # Deliveries of which something was said and not answered.
        self._unheard: set[str] = set()

    def hear(self, entries: Iterable[Entry]) -> None:
        """Beforehand: which calls were never answered. What they said may be said again, and be stale then."""
        calls = {entry.facts["call"]: entry for entry in entries if entry.event == "settling"}
        for entry in entries:
            if entry.event == "settled":
                del calls[entry.facts["call"]]
        self._unheard = {item[0] for entry in calls.values() for item in entry.facts["settlements"]}

    def leave_open(self) -> None:
        """In the end: nobody knows what became of what was said and not answered."""
        for entry in self._open.values():
            for delivery_id, action, _reason, _delay_ms in entry.facts["settlements"]:
                self._checker.settled(delivery_id, action, None, begin_ms=entry.at_ms, end_ms=entry.at_ms)

    def see(self, entry: Entry) -> None:
        match entry.event:
            case "posting":
                self._posting(entry)
            case "leased":
                self._leased(entry)
            case "settling":
                self._settling(entry)
            case "settled":
                self._settled(entry)
            case "failed":
                raise Broken(f"{entry.process}: the hub refused a worker: {entry.facts['error']}")

    def _posting(self, entry: Entry) -> None:
        facts = entry.facts
        deliver_at_ms = 0 if facts["delay_ms"] is None else entry.at_ms + facts["delay_ms"]
        posts = [
            Posted(str(number), _PRIORITIES[facts["priority"]], facts["key"], deliver_at_ms)
            for number in facts["numbers"]
        ]
        self._checker.posting(posts)
        for posted in posts:
            # A worker may have it before the receipt is back; whether one comes is known from the journals.
            if int(posted.id) in self._book.accepted:
                self._checker.posted(posted, duplicate=False, now_ms=entry.at_ms)

    def _leased(self, entry: Entry) -> None:
        deliveries = [
            Delivered(delivery_id, attempt, until_ms, str(number))
            for delivery_id, attempt, until_ms, number, _id in entry.facts["deliveries"]
        ]
        for _delivery_id, _attempt, _until_ms, number, message_id in entry.facts["deliveries"]:
            if self._book.accepted.get(number, message_id) != message_id:
                raise Broken(f"{number}: came as {message_id}, the receipt said {self._book.accepted[number]}")
        begin_ms = min(each.lease_until_ms for each in deliveries) - self._checker.rules.lease_ms
        if begin_ms > entry.at_ms:
            raise Broken(f"{deliveries[0].delivery_id}: arrived {begin_ms - entry.at_ms} ms before it was leased")
        moment_ms = _moment(entry, self._lease_from_ms)
        self._checker.leased(deliveries, count=entry.facts["free"], begin_ms=begin_ms, end_ms=moment_ms)

    def _settling(self, entry: Entry) -> None:
        self._open[entry.facts["call"]] = entry
        for delivery_id, action, _reason, _delay_ms in entry.facts["settlements"]:
            self._checker.settling(delivery_id, action)

    def _settled(self, entry: Entry) -> None:
        asked = self._open.pop(entry.facts["call"])
        span = (asked.at_ms, entry.at_ms)
        is_repeated = any(begin <= span[1] and span[0] <= end for begin, end in self._downs)
        for said, outcome in zip(asked.facts["settlements"], entry.facts["outcomes"], strict=True):
            delivery_id, action, reason, delay_ms = said
            # `stale` may be the answer to a repetition of what was done before the answer got lost.
            is_unsure = outcome == "stale" and (is_repeated or delivery_id in self._unheard)
            self._checker.settled(
                delivery_id,
                action,
                None if is_unsure else outcome,
                begin_ms=span[0],
                end_ms=span[1],
                reason=reason,
                delay_ms=delay_ms,
            )


def judge_stream(entries: Iterable[Entry], items: Sequence[StreamItem]) -> int:
    """The whole stream against what was appended. How many were acknowledged."""
    if [item.sequence for item in items] != list(range(1, len(items) + 1)):
        raise Broken(f"the stream has gaps: {[(a, b) for a, b in pairwise(items) if b.sequence != a.sequence + 1][:5]}")
    if doubled := [number for number, count in Counter(item.number for item in items).items() if count > 1]:
        raise Broken(f"appended once, there twice: {doubled[:5]}")
    there = {item.number: item for item in items}
    asked: set[int] = set()
    acknowledged = 0
    for entry in entries:
        if entry.event == "appending":
            numbers = entry.facts["numbers"]
            asked.update(numbers)
            found = [there[number].sequence for number in numbers if number in there]
            if found != sorted(found):
                raise Broken(f"a post lies out of order: {numbers} at {found}")
        elif entry.event == "appended":
            facts = entry.facts
            for number, message_id, sequence in zip(facts["numbers"], facts["ids"], facts["sequences"], strict=True):
                acknowledged += 1
                if there.get(number) != StreamItem(number, message_id, sequence):
                    raise Broken(f"{number} was acknowledged as {message_id} at {sequence}: {there.get(number)}")
    if strange := there.keys() - asked:
        raise Broken(f"nobody appended {min(strange)}")
    return acknowledged


def judge_feeds(entries: Iterable[Entry], items: Sequence[StreamItem]) -> Mapping[str, int]:
    """What followers saw: each feed without gap, a reader's again from where it stood; returns the last of each."""
    there = {item.sequence: item.number for item in items}
    last: dict[tuple[str, str], int] = {}
    for entry in entries:
        if entry.event not in ("tailed", "read"):
            continue
        feed = (entry.process, entry.event)
        number, sequence = entry.facts["number"], entry.facts["sequence"]
        if there.get(sequence) != number:
            raise Broken(f"{feed} saw {number} at {sequence}, the stream has {there.get(sequence)} there")
        if feed in last and sequence != last[feed] + 1:
            raise Broken(f"{feed} saw {sequence} after {last[feed]}")
        last[feed] = sequence
    return {f"{process} {event}": sequence for (process, event), sequence in last.items()}
