"""What is to be done with the entries that wait for one subject: pure, from the subject's end as it is known."""

import enum
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from meshway.engine.nats.log_entries import End, size_of
from meshway.engine.ports import Appended, LogAppend, LogOutcome, WrongLast
from meshway.kernel.errors import MeshwayError

__all__ = ["Item", "Looked", "Need", "Place", "Plan", "Repeats", "Write", "make_plan"]

# Of one atomic batch; the servers take 1,000 messages.
_BATCH_ENTRIES_MAX = 256
_BATCH_BYTES_MAX = 4 * 1024 * 1024


class Looked(NamedTuple):
    """What stands under a number; no id: nothing any more."""

    number: int
    message_id: str | None
    position: int


class Place(Protocol):
    """Who waits for an entry."""

    ends_at: float

    def decide(self, place: int, outcome: LogOutcome) -> None: ...

    def fail(self, place: int, error: MeshwayError) -> None: ...


class Item:
    """One entry that waits; its outcome goes to `call` under `place`."""

    __slots__ = ("call", "entry", "looked", "place", "was_sent")

    def __init__(self, entry: LogAppend, call: Place, place: int) -> None:
        self.entry = entry
        self.call = call
        self.place = place
        # True: it may be stored already, by a try whose answer was lost.
        self.was_sent = False
        self.looked: Looked | None = None


class Write(NamedTuple):
    """To be stored as `number`."""

    item: Item
    number: int
    total: int


class Repeats(NamedTuple):
    """The same message as that write of the plan."""

    write: int


class Need(enum.Enum):
    """Why a plan goes no further."""

    NOTHING = "nothing"
    # A refusal must rest on the true end, not on a remembered one.
    FRESH_END = "fresh end"
    # The entry under the number `look_at` tells whether the next item is a repetition.
    LOOK = "look"


class Plan:
    """Steps for the first items, in order. All of them are true if the writes succeed, none if they do not."""

    __slots__ = ("look_at", "need", "steps", "writes")

    def __init__(self) -> None:
        self.steps: list[tuple[Item, LogOutcome | Write | Repeats]] = []
        self.writes: list[Write] = []
        self.need = Need.NOTHING
        self.look_at = 0


def make_plan(
    items: Iterable[Item], end: End, *, is_fresh: bool, writes_max: int, doubts: Mapping[tuple[str, str], int]
) -> Plan:
    """`doubts`: numbers that entries without `expected_last` got in a try whose answer was lost."""
    plan = Plan()
    ids: dict[str, int] = {}
    message_id, total, size = end.message_id, end.total, 0
    writes_max = min(writes_max, _BATCH_ENTRIES_MAX)
    for item in items:
        entry, writes = item.entry, plan.writes
        last = end.last + len(writes)
        if entry.expected_last is None:
            judged = _judge_unconditional(item, end, ids, doubts)
        elif entry.expected_last == last:
            judged = None
        elif not (is_fresh or writes):
            judged = Need.FRESH_END
        else:
            judged = _judge_refused(item, end, writes) or WrongLast(last=last, last_message_id=message_id)
        if isinstance(judged, Need):
            plan.need = judged
            unsure = entry.expected_last is None
            plan.look_at = doubts[entry.subject, entry.message_id] if unsure else (entry.expected_last or 0) + 1
            return plan
        if judged is not None:
            plan.steps.append((item, judged))
            continue
        size += len(entry.data)
        if len(writes) == writes_max or (writes and size > _BATCH_BYTES_MAX):
            return plan
        total += size_of(entry)
        write = Write(item, last + 1, total)
        message_id = entry.message_id
        if entry.expected_last is None and entry.is_repeatable:
            ids[message_id] = len(writes)
        writes.append(write)
        plan.steps.append((item, write))
    return plan


def _judge_unconditional(
    item: Item, end: End, ids: Mapping[str, int], doubts: Mapping[tuple[str, str], int]
) -> LogOutcome | Repeats | Need | None:
    """None: to be written; the server filters what is known to it."""
    entry = item.entry
    number = doubts.get((entry.subject, entry.message_id))
    if number is not None and number <= end.last:
        if item.looked is None or item.looked.number != number:
            return Need.LOOK
        if item.looked.message_id == entry.message_id:
            return Appended(sequence=number, position=item.looked.position, duplicate=not item.was_sent)
    if entry.is_repeatable and entry.message_id in ids:
        return Repeats(ids[entry.message_id])
    return None


def _judge_refused(item: Item, end: End, writes: list[Write]) -> LogOutcome | Repeats | Need | None:
    """A repetition of the entry that was appended after `expected_last`; None: it is another one, or there is none."""
    entry = item.entry
    assert entry.expected_last is not None
    number = entry.expected_last + 1
    if not 1 <= number <= end.last + len(writes):
        return None
    if number > end.last:
        place = number - end.last - 1
        return Repeats(place) if writes[place].item.entry.message_id == entry.message_id else None
    if number == end.last:
        looked = Looked(number, end.message_id, end.position)
    elif item.looked is None or item.looked.number != number:
        return Need.LOOK
    else:
        looked = item.looked
    if looked.message_id != entry.message_id:
        return None
    return Appended(sequence=number, position=looked.position, duplicate=not item.was_sent)
