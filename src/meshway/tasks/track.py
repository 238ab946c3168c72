"""One task as a hub follows it: the end of its log, who works on it, and who listens. In memory, and never the truth.

    drafted -> numbered -> written -> shown to followers

Numbers are given out when an event is drafted and events become visible when they are written, in order. An event that
cannot be written takes those behind it along; the track then begins anew from what was written.

Other hubs may write to the task too. What they wrote is absorbed when this hub hears of it, in order; who writes
without having heard is refused by the log, and hears it then.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from meshway.engine.ports import Durability, LogAppend
from meshway.kernel.errors import MeshwayError
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.event_writer import EventWriter, Overtaken, PendingEvent, header_of
from meshway.tasks.tokens import events_subject
from meshway.tasks.values import TaskEvent, TaskState

__all__ = ["Draft", "Track", "TrackHooks", "TrackListener"]

# Kept for followers that are just behind, and for answers to callers who waited: most tasks fit whole.
_RECENT_EVENTS_MAX = 32
_RECENT_BYTES_MAX = 16_384
# Named here for each event: a member of an enum class costs more to reach than a name of the module.
_LAZY = Durability.LAZY


class Draft(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event without its number."""

    body: bytes
    state: TaskState
    turn: int = 1
    attempt: int = 0
    source: int = 0
    instance: str = ""


# Called with events that were just written, in order.
TrackListener = Callable[["Track", Sequence[TaskEvent]], None]


class TrackHooks(NamedTuple):
    """What all tracks of a hub call, before those who listen: with what it wrote itself, with what another hub wrote,
    and when an event could not be written."""

    written: TrackListener
    elsewhere: TrackListener
    broke: Callable[["Track"], None]


class Track:
    """Used from the event loop only. `written` and `last` are numbers of events: kept, and given out."""

    __slots__ = (
        "_broke",
        "_elsewhere",
        "_failure",
        "_heard",
        "_listeners",
        "_pending",
        "_recent_bytes",
        "_unsettled",
        "_writer",
        "agent_id",
        "at_ms",
        "attempt",
        "context_id",
        "instance",
        "is_new",
        "lacks",
        "last",
        "pins",
        "recent",
        "refusals",
        "source",
        "state",
        "subject",
        "task_id",
        "turn",
        "written",
        "written_state",
    )

    def __init__(
        self, agent_id: AgentId, task_id: TaskId, *, context_id: str, writer: EventWriter, hooks: "TrackHooks"
    ) -> None:
        self.agent_id = agent_id
        self.task_id = task_id
        self.context_id = context_id
        self.subject = events_subject(agent_id, task_id)
        self._writer = writer
        self._heard, self._elsewhere, self._broke = hooks
        self._listeners: list[TrackListener] = []
        self._pending: deque[tuple[int, asyncio.Future[None]]] = deque()
        # Events that were numbered and are neither written nor given up.
        self._unsettled = 0
        self._failure: MeshwayError | None = None
        self.written = self.last = 0
        # The log has events up to this number at least that are not known here; 0: none, as far as is known.
        self.lacks = 0
        # How often an own event was not written, and those behind it with it.
        self.refusals = 0
        # Its id was made here: nobody else can have written to it.
        self.is_new = False
        # Of the last event that is written; 0: there is none.
        self.at_ms = 0
        self.state = self.written_state = TaskState.UNSPECIFIED
        self.turn = 1
        self.attempt = self.source = 0
        self.instance = ""
        self.recent: deque[TaskEvent] = deque()
        self._recent_bytes = 0
        # Those who hold on to it: claims, and streams under way.
        self.pins = 0

    def begin_after(self, event: TaskEvent | None) -> None:
        """Stand behind the last event of the log; None: there is none."""
        self._failure = None
        self.is_new = False
        self.recent.clear()
        self._recent_bytes = 0
        self.written = self.last = 0 if event is None else event.number
        if event is not None:
            self.at_ms = event.at_ms
            self.state = self.written_state = event.state
            self.turn, self.attempt, self.source, self.instance = (
                event.turn,
                event.attempt,
                event.source,
                event.instance,
            )

    def absorb(self, event: TaskEvent) -> bool:
        """Show an event that another hub has written; False: it does not follow what is known, or is known.

        Nor does it while own events are on their way: it may be heard of before they are, and must not be shown first.
        """
        if self._failure is not None or self._unsettled or event.number != self.last + 1:
            return False
        self.written = self.last = event.number
        self.at_ms = event.at_ms
        self.state = self.written_state = event.state
        self.turn, self.attempt, self.source, self.instance = event.turn, event.attempt, event.source, event.instance
        self._remember(event)
        events = (event,)
        self._elsewhere(self, events)
        for listener in tuple(self._listeners):
            listener(self, events)
        return True

    def outdate(self) -> None:
        """Something was missed: it is as if an event had been refused."""
        if self._failure is None:
            self._failure = Overtaken("Another hub has gone on with this task; try again.")

    @property
    def is_broken(self) -> bool:
        """An event could not be written, or was missed: read the end of the log before anything else."""
        return self._failure is not None

    @property
    def is_idle(self) -> bool:
        """Nobody listens, nobody holds it and nothing is on its way: it may be forgotten."""
        return not self._listeners and not self._unsettled and not self.pins

    async def quiet(self, *, hurry: bool = True) -> None:
        """Until everything that was appended is written, or has failed; at once, with `hurry`. Raises nothing."""
        while self._unsettled:
            written = asyncio.get_running_loop().create_future()
            self._pending.append((self.last, written))
            if hurry:
                self._writer.hurry()
            await asyncio.wait([written])

    # Writing

    def append(self, drafts: Sequence[Draft], *, at_ms: int) -> "asyncio.Future[None]":
        """Number these and have them written; the future is done when the last of them is. Without any: when all is.

        Raises through the future: StorageFull, EngineUnavailable; then none of those not yet written is kept, nor what
        was appended after them.
        """
        written = asyncio.get_running_loop().create_future()
        if self._failure is not None:
            _fail(written, self._failure)
            return written
        if not drafts and not self._pending:
            written.set_result(None)
            return written
        pending = [self._numbered(draft, at_ms) for draft in drafts]
        self._pending.append((self.last, written))
        if pending:
            self._writer.add(pending)
        return written

    def append_stream(self, draft: Draft, *, at_ms: int) -> None:
        """Number the next event of a stream that nobody waits for, and have it written soon.

        One that cannot be written breaks the track, as in `append`; nobody is told but by `is_broken`.
        """
        if self._failure is None:
            self._writer.add_patiently(self._numbered(draft, at_ms))

    def _numbered(self, draft: Draft, at_ms: int) -> PendingEvent:
        number = self.last + 1
        self._unsettled += 1
        event = TaskEvent(
            number=number,
            body=draft.body,
            state=draft.state,
            at_ms=at_ms,
            turn=draft.turn,
            attempt=draft.attempt,
            source=draft.source,
            instance=draft.instance,
        )
        self.last = number
        self.state = draft.state
        self.turn, self.attempt, self.source, self.instance = draft.turn, draft.attempt, draft.source, draft.instance
        entry = LogAppend(
            subject=self.subject,
            message_id=self._writer.new_id(),
            data=draft.body,
            headers=header_of(event),
            expected_last=number - 1,
            durability=_LAZY,
            is_repeatable=False,
            is_new_subject=self.is_new and number == 1,
        )
        return PendingEvent(event=event, entry=entry, settled=self._settled)

    def _settled(self, pending: PendingEvent, error: MeshwayError | None) -> None:
        event = pending.event
        self._unsettled -= 1
        if error is None and self._failure is None:
            self.written, self.written_state, self.at_ms = event.number, event.state, event.at_ms
            self._remember(event)
            self._heard(self, (event,))
            for listener in tuple(self._listeners):
                listener(self, (event,))
        elif self._failure is None:
            self._failure = error
            self.refusals += 1
            if error is not None:
                self._writer.drop(self.subject, error)
            self._broke(self)
        while self._pending and self._pending[0][0] <= event.number:
            _, written = self._pending.popleft()
            if written.done():
                continue
            if self._failure is None:
                written.set_result(None)
            else:
                _fail(written, self._failure)

    def _remember(self, event: TaskEvent) -> None:
        self.recent.append(event)
        self._recent_bytes += len(event.body)
        while len(self.recent) > _RECENT_EVENTS_MAX or (
            self._recent_bytes > _RECENT_BYTES_MAX and len(self.recent) > 1
        ):
            self._recent_bytes -= len(self.recent.popleft().body)

    def nudge(self) -> None:
        """Have all who follow look whether something besides the events has changed."""
        for listener in tuple(self._listeners):
            listener(self, ())

    # Listening

    def listen(self, listener: TrackListener) -> None:
        """Hear each event once it is written, in the same turn of the loop."""
        self._listeners.append(listener)

    def unlisten(self, listener: TrackListener) -> None:
        """Hear no more. Idempotent."""
        if listener in self._listeners:
            self._listeners.remove(listener)


def _fail(written: "asyncio.Future[None]", error: MeshwayError) -> None:
    written.set_exception(error)
    # Who does not wait for it hears of it at the next event.
    written.exception()
