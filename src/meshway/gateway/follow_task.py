"""A task's events from a number on, to its end, whoever owns it."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from meshway.gateway.inbox_calls import follow_until_end
from meshway.gateway.ports import TaskStream
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.ids import TaskId
from meshway.kernel.principal import Principal
from meshway.tasks.track import Track
from meshway.tasks.values import TaskEvent, TaskOwner

__all__ = ["AttachRelayed", "FollowTask"]

# Sees to it that the events of a task that its agent owns are recorded from here on. Raises: UpstreamError.
AttachRelayed = Callable[[TaskOwner], Awaitable[Track]]


class FollowTask:
    """No snapshot: numbers from `after` + 1 on, without gaps."""

    def __init__(self, places: TaskPlaces, *, attach_relayed: AttachRelayed) -> None:
        self._places = places
        self._attach_relayed = attach_relayed

    async def execute(self, principal: Principal, task_id: TaskId, *, after: int) -> TaskStream:
        """Ends after the terminal event. Raises: TaskNotFound, UpstreamError, EngineUnavailable."""
        owner = await self._places.found(principal, task_id)
        track = await self._places.tasks.track_of(owner) if owner.hub_owned else await self._attach_relayed(owner)
        return TaskStream(self._events(track, after))

    async def _events(self, track: Track, after: int) -> AsyncGenerator[Sequence[TaskEvent], None]:
        events = follow_until_end(self._places, track, after=after)
        try:
            async for batch in events:
                yield batch
        finally:
            await events.aclose()
