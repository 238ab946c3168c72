"""Writes the events of all tasks, many at once: what comes while one write is under way goes into the next.

One writer per hub keeps the order in which events were handed over. Numbers are given out before: each entry says which
one it follows, so a hub that was overtaken learns it instead of writing.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec

from meshway.engine.ports import Appended, Log, LogAppend, LogEntry, LogOutcome, Undecided
from meshway.kernel.errors import EngineUnavailable, MeshwayError
from meshway.kernel.ids import new_id
from meshway.tasks.values import TaskEvent, TaskState

__all__ = ["EventWriter", "Overtaken", "PendingEvent", "event_of_entry", "header_of"]

_log = logging.getLogger(__name__)

# One write of the store; more only makes those wait who came first.
_BATCH_MAX = 1_000
_ROUNDS_MAX = 16
# Of a random id: two hubs that share them, at the same event of the same task, are not to be expected.
_NAME_CHARACTERS = 8
# How long events that nobody waits for gather: a write costs as much as thirty events, and no reader sees so little.
# Where many come (2,000 a second, until they are 800), one write for all of them counts for more than the delay.
_GATHER_S, _GATHER_MANY_S = 0.004, 0.010
_MANY = 8
# The one header of an entry: `<state> <turn> <attempt> <source> <instance>`.
_HEADER = "h"
_LONG = {state.short: state for state in TaskState}


class PendingEvent(msgspec.Struct, kw_only=True, gc=False):
    """An event on its way into the log. `settled` hears None, or why it is not there."""

    event: TaskEvent
    entry: LogAppend
    settled: Callable[["PendingEvent", MeshwayError | None], None]


class EventWriter:
    """`add` and `run` belong to the loop; `run` is a duty of the hub."""

    def __init__(self, log: Log) -> None:
        self._log = log
        # Two hubs may say different things under the same number: the store must not take one for the other.
        self._name = new_id()[:_NAME_CHARACTERS]
        self._prefix = f"{self._name}."
        self._named = 0
        self._waiting: list[PendingEvent] = []
        self._work = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._gather_s = _GATHER_S

    def add(self, pending: Sequence[PendingEvent]) -> None:
        """Write these after everything added before, at once; each is `settled` once, in order."""
        self._waiting.extend(pending)
        self._work.set()

    def add_patiently(self, pending: PendingEvent) -> None:
        """The same within some milliseconds, together with what comes meanwhile."""
        self._waiting.append(pending)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._gather_s, self._gathered)

    def new_id(self) -> str:
        """For an entry: no other has it, also where the same number of a task is given out again."""
        self._named += 1
        return f"{self._name}.{self._named}"

    def is_own(self, entry_id: str) -> bool:
        """Whether this hub has written the entry of that id."""
        return entry_id.startswith(self._prefix)

    def hurry(self) -> None:
        """Write what waits now."""
        self._work.set()

    def _gathered(self) -> None:
        self._timer = None
        self._gather_s = _GATHER_S if len(self._waiting) < _MANY else _GATHER_MANY_S
        self._work.set()

    def drop(self, subject: str, error: MeshwayError) -> None:
        """What waits for this task follows an event that was not written: it is not written either."""
        dropped = [pending for pending in self._waiting if pending.entry.subject == subject]
        if dropped:
            self._waiting = [pending for pending in self._waiting if pending.entry.subject != subject]
        for pending in dropped:
            _settle(pending, error)

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await self._work.wait()
            batch = self._waiting[:_BATCH_MAX]
            del self._waiting[:_BATCH_MAX]
            if not self._waiting:
                self._work.clear()
            if batch:
                await self._write(batch)

    async def flush(self) -> None:
        """Write what waits; for a hub that ends, after `run` was cancelled."""
        while self._waiting:
            batch, self._waiting = self._waiting[:_BATCH_MAX], self._waiting[_BATCH_MAX:]
            await self._write(batch)

    async def _write(self, batch: Sequence[PendingEvent]) -> None:
        try:
            outcomes = await self._append([pending.entry for pending in batch])
        except MeshwayError as error:
            for pending in batch:
                _settle(pending, error)
            return
        for pending, outcome in zip(batch, outcomes, strict=True):
            _settle(pending, None if isinstance(outcome, Appended) else _failure(outcome))

    async def _append(self, entries: Sequence[LogAppend]) -> Sequence[LogOutcome]:
        """Raises: EngineUnavailable, StorageFull. What stays undecided is `Undecided`."""
        outcomes = list(await self._log.append(entries))
        for _ in range(_ROUNDS_MAX):
            open_places = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Undecided)]
            if not open_places:
                break
            again = await self._log.append([entries[place] for place in open_places])
            for place, outcome in zip(open_places, again, strict=True):
                outcomes[place] = outcome
        return outcomes


class Overtaken(EngineUnavailable):
    """Another hub has written to this task meanwhile: read it anew before writing on."""


def _settle(pending: PendingEvent, error: MeshwayError | None) -> None:
    try:
        pending.settled(pending, error)
    except Exception:  # noqa: BLE001  the boundary of a task: those behind it are written too, and must hear of it
        _log.exception("task_event_not_told", extra={"subject": pending.entry.subject})


def _failure(outcome: LogOutcome) -> MeshwayError:
    if isinstance(outcome, Undecided):
        return EngineUnavailable("The store does not say whether the event of the task was kept; try again.")
    return Overtaken("Another hub has gone on with this task; try again.")


def header_of(event: TaskEvent) -> dict[str, str]:
    """What an entry says beside the event's body."""
    return {_HEADER: f"{event.state.short} {event.turn} {event.attempt} {event.source} {event.instance}"}


def event_of_entry(entry: LogEntry) -> TaskEvent:
    """The event an entry of the log holds."""
    short, turn, attempt, source, instance = entry.headers[_HEADER].split(" ", 4)
    return TaskEvent(
        number=entry.sequence,
        body=entry.data,
        state=_LONG[short],
        at_ms=entry.timestamp_ms,
        turn=int(turn),
        attempt=int(attempt),
        source=int(source),
        instance=instance,
    )
