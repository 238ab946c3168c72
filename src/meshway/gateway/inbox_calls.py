"""A2A operations on tasks of the hub's own: what a client of an agent that connects out calls in its place.

To the client it is an agent like any other. Answers are A2A 1.0; the edge puts them into the caller's dialect.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence

from meshway.gateway.accept_once import AcceptOnce
from meshway.gateway.accept_task import TaskRequest
from meshway.gateway.cancel_task import CancelTask
from meshway.gateway.ports import AgentCall, CoreReply, TaskStream
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import Draining, OperationUnsupported, wrong_field
from meshway.tasks.follower import Outlet, TaskFollower
from meshway.tasks.picture import TaskPicture
from meshway.tasks.send_terms import SendTerms
from meshway.tasks.track import Track
from meshway.tasks.values import TaskEvent, TaskOwner

__all__ = ["InboxCalls", "event_number", "follow_turn", "follow_until_end"]

# As long as a restart takes.
_DRAINING_RETRY_AFTER_MS = 1_000
# More than any task has; what is longer is no number of ours.
_NUMBER_DIGITS_MAX = 15


class InboxCalls:
    """One method an operation."""

    def __init__(self, places: TaskPlaces, *, accept: AcceptOnce, cancel: CancelTask) -> None:
        self._places = places
        self._accept = accept
        self._cancel = cancel

    async def send(self, call: AgentCall, *, wait_ms: int) -> CoreReply:
        """SendMessage: the task at the end of its turn, or as it is after `wait_ms`; at once where that was asked for.

        Raises: as AcceptTask.
        """
        terms = call.reader.send_terms()
        accepted = await self._accept.execute(_request(call, terms), method=call.operation.value)
        return CoreReply(await self.answer(accepted.track, terms, wait_ms=wait_ms))

    async def answer(self, track: Track, terms: SendTerms, *, wait_ms: int) -> bytes:
        """The result of a SendMessage about this task. Raises: EngineUnavailable."""
        if terms.blocking and not track.written_state.ends_turn:
            await self.wait_for_turn(track, wait_ms=wait_ms)
        picture = await self._places.tasks.tracks.picture(track)
        return b'{"task":%b}' % picture.encode(terms.history_length)

    async def stream(self, call: AgentCall) -> TaskStream:
        """SendStreamingMessage: the task's events from the one that begins this turn to the one that ends it.

        Raises: as AcceptTask.
        """
        terms = call.reader.send_terms()
        accepted = await self._accept.execute(_request(call, terms), method=call.operation.value)
        return TaskStream(follow_turn(self._places, accepted.track, turn=accepted.track.turn, outlet=call.outlet))

    async def get(self, call: AgentCall, owner: TaskOwner) -> CoreReply:
        """GetTask. Raises: InvalidRequest, EngineUnavailable."""
        picture = await self._picture(owner)
        return CoreReply(picture.encode(call.reader.history_length()))

    async def cancel(self, call: AgentCall, owner: TaskOwner) -> CoreReply:
        """CancelTask. Raises: TaskNotCancelable, StorageFull, EngineUnavailable."""
        track = await self._cancel.cancel(owner, reason="cancelled by its client")
        picture = await self._places.tasks.tracks.picture(track)
        return CoreReply(picture.encode())

    async def subscribe(self, call: AgentCall, owner: TaskOwner) -> TaskStream:
        """SubscribeToTask: a snapshot under the number of the last event in it, then what follows, to the end.

        With `Last-Event-ID` what follows that, without a snapshot, also of a task that has ended.
        Raises: OperationUnsupported for one that has ended, InvalidRequest, EngineUnavailable.
        """
        track = await self._places.tasks.track_of(owner)
        if call.last_event_id is not None:
            after = event_number(call.last_event_id)
            return TaskStream(follow_until_end(self._places, track, after=after, outlet=call.outlet))
        if track.written_state.is_terminal:
            raise OperationUnsupported(f"Task {owner.task_id!r} has ended: nothing follows; ask for it with GetTask.")
        return TaskStream(self._snapshot_and_on(track, call.outlet))

    async def wait_for_turn(self, track: Track, *, wait_ms: int) -> None:
        """Until the task's turn ends, at most so long, and not when this hub drains. Raises: EngineUnavailable."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000) as bound:
                with self._places.admission.hearing_of_drain(lambda: _end_now(bound)):
                    await self._turn_of(track)

    async def _turn_of(self, track: Track) -> None:
        """Woken once, at the end: a follower would be at each event, to look at the state and nothing else."""
        ended = asyncio.get_running_loop().create_future()

        def heard(of: Track, _: Sequence[TaskEvent]) -> None:
            if of.written_state.ends_turn and not ended.done():
                ended.set_result(None)

        track.listen(heard)
        try:
            heard(track, ())
            await ended
        finally:
            track.unlisten(heard)

    async def _picture(self, owner: TaskOwner) -> TaskPicture:
        track = await self._places.tasks.track_of(owner)
        return await self._places.tasks.tracks.picture(track)

    async def _snapshot_and_on(self, track: Track, outlet: Outlet | None) -> AsyncGenerator[Sequence[TaskEvent], None]:
        tracks = self._places.tasks.tracks
        number, state = track.written, track.written_state
        with _following(self._places, track, after=number, outlet=outlet) as follower:
            events = [event for event in await tracks.events(track) if event.number <= number]
            body = b'{"task":%b}' % TaskPicture.of(event.body for event in events).encode()
            yield (TaskEvent(number=number, body=body, state=state, at_ms=self._places.clock.now_ms()),)
            while not state.is_terminal:
                _check_drain(self._places, track, follower)
                taken = await follower.take()
                if taken:
                    state = taken[-1].state
                    yield taken


def _end_now(bound: asyncio.Timeout) -> None:
    if not bound.expired():
        bound.reschedule(asyncio.get_running_loop().time())


async def follow_turn(
    places: TaskPlaces, track: Track, *, turn: int, outlet: Outlet | None = None
) -> AsyncGenerator[Sequence[TaskEvent], None]:
    """Events of this turn from its opening on, and then to its end. What `outlet` takes does not come.

    Raises: Draining once the hub drains and all that is written was given out, EngineUnavailable.
    """
    # Of the first turn everything; a later one began with the last event that was given out.
    after = 0 if turn == 1 else await _before_turn(places, track, turn)
    with _following(places, track, after=after, outlet=outlet) as follower:
        while True:
            _check_drain(places, track, follower)
            taken = await follower.take()
            ending = next((i for i, event in enumerate(taken) if event.state.ends_turn and event.turn >= turn), None)
            if ending is not None:
                # The next turn may have begun already; it is somebody else's.
                yield taken[: ending + 1]
                return
            if taken:
                yield taken


async def follow_until_end(
    places: TaskPlaces, track: Track, *, after: int, outlet: Outlet | None = None
) -> AsyncGenerator[Sequence[TaskEvent], None]:
    """Events above `after` until the terminal one; nothing where that was given already. As `follow_turn` besides."""
    if track.written_state.is_terminal and after >= track.written:
        return
    with _following(places, track, after=after, outlet=outlet) as follower:
        while True:
            _check_drain(places, track, follower)
            taken = await follower.take()
            if taken:
                yield taken
            # Somebody may have named a number that the task never reaches.
            if track.written_state.is_terminal and follower.has_all:
                return


@contextlib.contextmanager
def _following(places: TaskPlaces, track: Track, *, after: int, outlet: Outlet | None) -> Iterator[TaskFollower]:
    """A follower that is nudged when the hub begins to drain."""
    tracks = places.tasks.tracks
    with tracks.follow(track, after=after, outlet=outlet) as follower, places.admission.hearing_of_drain(track.nudge):
        yield follower


def _check_drain(places: TaskPlaces, track: Track, follower: TaskFollower) -> None:
    """Instances take their tasks along when a hub drains; clients go on at the next one. Raises: Draining."""
    if places.admission.is_draining and follower.has_all and (track.last == track.written or track.is_broken):
        text = f"The hub is shutting down. Task {track.task_id!r} goes on: subscribe to it."
        raise Draining(text, retry_after_ms=_DRAINING_RETRY_AFTER_MS)


def event_number(last_event_id: str) -> int:
    """`Last-Event-ID` of a task's stream. Raises: InvalidRequest."""
    text = last_event_id.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= _NUMBER_DIGITS_MAX):
        raise wrong_field("Last-Event-ID", "is not the number of an event of a task; use the id: of the last one seen")
    return int(text)


async def _before_turn(places: TaskPlaces, track: Track, turn: int) -> int:
    events = await places.tasks.tracks.events(track)
    return next((event.number - 1 for event in events if event.turn >= turn), track.written)


def _request(call: AgentCall, terms: SendTerms) -> TaskRequest:
    traceparent = next((value.decode("latin-1") for name, value in call.headers if name == b"traceparent"), None)
    return TaskRequest(
        principal=call.principal,
        agent_id=call.agent_id,
        terms=terms,
        chain=call.chain,
        traceparent=traceparent,
        idempotency_key=call.idempotency_key,
        version=call.version,
    )
