"""Tasks that the hub owns: their events and records, written together and in the right order.

The only place that appends to the log of such a task. A task is accepted when its inbox has it; event and record follow
at once, and are made again from the inbox where a crash lost them.
"""

from collections.abc import Sequence

import msgspec

from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable
from meshway.kernel.ids import AgentId, InstanceId, TaskId, new_id
from meshway.tasks import event_bodies
from meshway.tasks.event_writer import Overtaken
from meshway.tasks.inbox import Inbox, InboxItem
from meshway.tasks.lifecycle import may_move
from meshway.tasks.owners import TaskOwners
from meshway.tasks.track import Draft, Track
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.turn_closer import TurnCloser
from meshway.tasks.values import TaskOwner, TaskState

__all__ = ["HubTasks"]

_NOBODY = InstanceId("")
# Writers of one task are few.
_ROUNDS_MAX = 8
# The clocks of hubs agree so far.
_FRESH_MS = 500


class HubTasks:
    """Used from the event loop only."""

    def __init__(
        self, *, tracks: TaskTracks, owners: TaskOwners, inbox: Inbox, closer: TurnCloser, clock: Clock
    ) -> None:
        self.tracks = tracks
        self.owners = owners
        self.inbox = inbox
        self._closer = closer
        self._clock = clock

    async def accept(self, item: InboxItem) -> Track:
        """Take on a new task: on disk when this returns.

        Raises: InboxFull, StorageFull, EngineUnavailable; it may then have been accepted none the less.
        """
        track = self.tracks.new(item.agent_id, item.task_id, context_id=item.context_id, is_own_id=True)
        track.pins += 1
        try:
            await self.inbox.put(item, is_repeatable=False)
            await self._open_turn(track, item)
        finally:
            track.pins -= 1
        return track

    async def accept_named(self, item: InboxItem) -> Track:
        """The same for a task whose id was given: an earlier call for it may have come any part of the way.

        Raises: as `accept`.
        """
        await self.inbox.put(item, is_repeatable=True)
        track, _ = await self.found(item)
        return track

    async def begin_turn(self, track: Track, item: InboxItem) -> bool:
        """Take on a further turn; False: somebody else has begun the same one, or ended the task.

        Raises: as `accept`.
        """
        track.pins += 1
        try:
            if not await self.inbox.put(item, is_repeatable=True):
                return False
            await self._open_turn(track, item)
        finally:
            track.pins -= 1
        return track.turn >= item.turn

    async def found(self, item: InboxItem, *, is_untouched: bool = False) -> tuple[Track, TaskOwner]:
        """Track and record of a turn that lies in an inbox, made good. Raises: StorageFull, EngineUnavailable.

        `is_untouched`: nobody had it before. The record of a first turn is then as its accepting hub made it.
        """
        # Another hub may have accepted it a moment ago and be about to write its first event.
        is_fresh = item.turn == 1 and abs(self._clock.now_ms() - item.created_at_ms) < _FRESH_MS
        track = await self.tracks.open(item.agent_id, item.task_id, context_id=item.context_id, is_expected=is_fresh)
        await self._open_turn(track, item)
        if is_untouched and item.turn == 1:
            owner = await self.owners.owner_of_first(item.agent_id, item.task_id)
        else:
            owner = await self.owners.owner_of(item.agent_id, item.task_id)
        if owner is None:
            owner = _owner_of(item)
            self._closer.keep(owner)
        if owner.state is not track.written_state:
            owner = self._followed(owner, track)
            self._closer.keep(owner)
        return track, owner

    async def _open_turn(self, track: Track, item: InboxItem) -> None:
        """The event that begins the turn, and the record, unless they are there: whoever comes first writes them."""
        for _ in range(_ROUNDS_MAX):
            try:
                await self._open_turn_once(track, item)
            except Overtaken:
                # Another hub had it from the inbox before this one wrote.
                await self.tracks.open(track.agent_id, track.task_id, context_id=track.context_id)
            else:
                return
        raise EngineUnavailable("Other hubs write to this task at this moment; try again.")

    async def _open_turn_once(self, track: Track, item: InboxItem) -> None:
        owner = None
        if item.turn > 1 and _opens(track, item):
            owner = await self.owners.owner_of(item.agent_id, item.task_id)
        if not _opens(track, item):
            # Who was faster at this hub may still be writing it.
            await track.append([], at_ms=item.created_at_ms)
            return
        draft = Draft(body=bytes(item.opening), state=TaskState.SUBMITTED, turn=item.turn)
        written = track.append([draft], at_ms=item.created_at_ms)
        if owner is None:
            self._closer.keep_new(_owner_of(item))
        else:
            begun = {"state": TaskState.SUBMITTED, "status_at_ms": item.created_at_ms, "turn": item.turn}
            # Attempts are counted in each turn anew, and so is what was given back.
            self._closer.keep(msgspec.structs.replace(owner, **begun, deadline_ms=item.deadline_ms, given_back=0))
        await written

    async def append(self, track: Track, drafts: Sequence[Draft], *, instance_id: InstanceId | None = None) -> None:
        """Have these events written, and the record follow. Raises: StorageFull, EngineUnavailable."""
        await track.append(drafts, at_ms=self._clock.now_ms())
        await self.follow(track, instance_id=instance_id)

    async def follow(self, track: Track, *, instance_id: InstanceId | None = None) -> None:
        """Bring the record up to what was written; `instance_id` has the task now. Raises: EngineUnavailable."""
        owner = await self.owners.owner_of(track.agent_id, track.task_id)
        if owner is None:
            return
        followed = self._followed(owner, track)
        if instance_id is not None and followed.instance_id != instance_id:
            followed = msgspec.structs.replace(followed, instance_id=instance_id)
        if followed is not owner:
            self._closer.keep(followed)

    async def say(
        self, track: Track, state: TaskState, *, text: str | None = None, metadata: dict[str, object] | None = None
    ) -> bool:
        """The hub's own word about a task; False: the task may not move so any more, and nothing was said.

        Raises: StorageFull, EngineUnavailable.
        """
        if not track.last and not track.is_broken:
            raise EngineUnavailable("The task was accepted, but its first event is not written yet; try again.")
        body = event_bodies.status(
            track.task_id,
            track.context_id,
            state,
            at_ms=self._clock.now_ms(),
            text=text,
            message_id=new_id(),
            metadata=metadata,
        )
        for _ in range(_ROUNDS_MAX):
            if not track.is_broken and not may_move(track.state, state):
                return False
            try:
                await self.append(track, [self.draft(track, body, state)])
            except Overtaken:
                # Another hub was faster: it counts what it said.
                await self.tracks.open(track.agent_id, track.task_id, context_id=track.context_id)
            else:
                return True
        raise EngineUnavailable("Other hubs write to this task at this moment; try again.")

    def draft(self, track: Track, body: bytes, state: TaskState) -> Draft:
        """The hub's word in the course of the present attempt, which goes on or ends with it."""
        return Draft(
            body=body, state=state, turn=track.turn, attempt=track.attempt, source=track.source, instance=track.instance
        )

    def change(self, owner: TaskOwner, **changes: object) -> TaskOwner:
        """Keep a changed record."""
        changed = msgspec.structs.replace(owner, **changes)
        self._closer.keep(changed)
        return changed

    async def change_now(self, owner: TaskOwner, **changes: object) -> None:
        """Store a changed record before what follows from it: the next hand-out may be another hub's.

        Raises: StorageFull, EngineUnavailable.
        """
        changed = msgspec.structs.replace(owner, **changes)
        self.owners.keep(changed)
        await self.owners.write_kept_of([changed])

    def close_turn(self, engine_id: str) -> None:
        """The turn of this hand-out is over: out of the inbox, once its record is stored."""
        self._closer.close(engine_id)

    async def track_of(self, owner: TaskOwner) -> Track:
        """Raises: EngineUnavailable."""
        return await self.tracks.open(owner.agent_id, owner.task_id, context_id=owner.context_id or "")

    def _followed(self, owner: TaskOwner, track: Track) -> TaskOwner:
        if owner.state is track.written_state:
            return owner
        return msgspec.structs.replace(owner, state=track.written_state, status_at_ms=self._clock.now_ms())


def _opens(track: Track, item: InboxItem) -> bool:
    """Whether the turn has yet to begin, and may: a task that was cancelled meanwhile has no further turn."""
    return not track.last or (track.turn < item.turn and not track.state.is_terminal)


def _owner_of(item: InboxItem) -> TaskOwner:
    return TaskOwner(
        task_id=TaskId(item.task_id),
        context_id=item.context_id,
        agent_id=AgentId(item.agent_id),
        instance_id=_NOBODY,
        principal_id=item.principal_id,
        state=TaskState.SUBMITTED,
        created_at_ms=item.created_at_ms,
        status_at_ms=item.created_at_ms,
        hub_owned=True,
        turn=item.turn,
        deadline_ms=item.deadline_ms,
        parent=item.parent,
        root=item.root,
    )
