"""What is known of tasks: one of them, its receipts, what it has caused, and which there are."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import Forbidden
from meshway.kernel.ids import AgentId, TaskId
from meshway.kernel.principal import Principal
from meshway.tasks.owners import ListFilter, OwnedPage
from meshway.tasks.receipts import Receipt, receipts_of
from meshway.tasks.values import TaskOwner

__all__ = ["ShowTask", "ShownTask", "TaskTree"]

# What one tree shows; calls in the course of a root are limited before (delegation.calls_max).
_TREE_MAX = 1_000
_TREE_DEPTH_MAX = 32

# The present task of an agent that owns it, A2A 1.0 JSON. Raises: UpstreamError.
GetRelayed = Callable[[TaskOwner], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class ShownTask:
    """`task` is A2A 1.0 JSON."""

    owner: TaskOwner
    task: bytes


@dataclass(frozen=True, slots=True)
class TaskTree:
    """A task and what it has caused. `cut`: there is more than is shown."""

    owner: TaskOwner
    children: Sequence["TaskTree"] = ()
    cut: bool = False


class ShowTask:
    """For the principal's own tasks; an admin's are all."""

    def __init__(self, places: TaskPlaces, *, get_relayed: GetRelayed) -> None:
        self._places = places
        self._get_relayed = get_relayed

    async def execute(self, principal: Principal, task_id: TaskId, *, history_length: int | None = None) -> ShownTask:
        """Of a task of its agent's, what the agent says. Raises: TaskNotFound, UpstreamError, EngineUnavailable."""
        owner = await self._places.found(principal, task_id)
        return await self.shown(owner, history_length=history_length)

    async def shown(self, owner: TaskOwner, *, history_length: int | None = None) -> ShownTask:
        """For who may see it. Raises: UpstreamError, EngineUnavailable."""
        if not owner.hub_owned:
            return ShownTask(owner, await self._get_relayed(owner))
        track = await self._places.tasks.track_of(owner)
        picture = await self._places.tasks.tracks.picture(track)
        return ShownTask(owner, picture.encode(history_length))

    async def receipts(self, principal: Principal, task_id: TaskId) -> Sequence[Receipt]:
        """Oldest first; none for a task that its agent owns. Raises: TaskNotFound, EngineUnavailable."""
        owner = await self._places.found(principal, task_id)
        if not owner.hub_owned:
            return []
        track = await self._places.tasks.track_of(owner)
        return receipts_of(await self._places.tasks.tracks.events(track))

    async def tree(self, principal: Principal, task_id: TaskId) -> TaskTree:
        """Children are whoever's they are: the work was the principal's. Raises: TaskNotFound, EngineUnavailable."""
        owner = await self._places.found(principal, task_id)
        return await self._tree(owner, [_TREE_MAX], 0)

    async def _tree(self, owner: TaskOwner, left: list[int], depth: int) -> TaskTree:
        found = await self._places.children.of_task(owner, limit=left[0] + 1) if left[0] > 0 else ()
        if not found:
            return TaskTree(owner)
        if depth >= _TREE_DEPTH_MAX:
            return TaskTree(owner, cut=True)
        is_cut = len(found) > left[0]
        shown = found[: left[0]]
        left[0] -= len(shown)
        children = []
        for child in shown:
            record = await self._places.tasks.owners.owner_of(child.agent_id, child.task_id)
            if record is not None:
                children.append(await self._tree(record, left, depth + 1))
        return TaskTree(owner, children, is_cut)

    async def find(self, principal: Principal, agent_id: AgentId | None, query: ListFilter) -> OwnedPage:
        """The principal's tasks at one agent or at all, latest status first. Raises: Forbidden, InvalidRequest."""
        if not principal.may_call:
            raise Forbidden(f"Key {principal.id!r} may not see tasks; that needs the scope 'call'.")
        return await self._places.tasks.owners.list_owned(agent_id, principal, query)
