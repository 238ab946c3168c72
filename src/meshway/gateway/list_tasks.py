"""Which tasks of an agent are mine? Answered from what the hub has kept, without asking the agent."""

from collections.abc import Sequence

from meshway.gateway.admission import Admission
from meshway.kernel.errors import AgentNotFound, Forbidden
from meshway.kernel.ids import AgentId
from meshway.kernel.principal import Principal
from meshway.registry.directory import Directory
from meshway.tasks.owners import ListFilter, OwnedPage, TaskOwners
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.values import TaskOwner

__all__ = ["ListTasks"]


class ListTasks:
    """A2A ListTasks, for agents of either version."""

    def __init__(
        self, directory: Directory, owners: TaskOwners, admission: Admission, tracks: TaskTracks | None = None
    ) -> None:
        """Without `tracks` no events are kept, and records are all there is to show."""
        self._directory = directory
        self._owners = owners
        self._admission = admission
        self._tracks = tracks

    async def execute(self, principal: Principal, agent_id: AgentId, query: ListFilter) -> OwnedPage:
        """The caller's own tasks; an admin sees everybody's. Latest status first.

        Raises: Forbidden, AgentNotFound, InvalidRequest naming `pageSize` or `pageToken`, EngineUnavailable.
        """
        if not principal.may_call:
            raise Forbidden(f"Key {principal.id!r} may not see tasks; that needs the scope 'call'.", agent=agent_id)
        if self._directory.get(agent_id) is None:
            raise AgentNotFound(f"There is no agent {agent_id!r} at this hub.", agent=agent_id)
        self._admission.admit_read(principal)
        return await self._owners.list_owned(agent_id, principal, query)

    async def documents(
        self, page: OwnedPage, *, history_length: int | None, include_artifacts: bool
    ) -> Sequence[bytes | None]:
        """The tasks of a page as their events make them, A2A 1.0; None where no event is kept.

        Raises: EngineUnavailable.
        """
        return [
            await self._document(owner, history_length, include_artifacts=include_artifacts) for owner in page.tasks
        ]

    async def _document(self, owner: TaskOwner, history_length: int | None, *, include_artifacts: bool) -> bytes | None:
        if self._tracks is None:
            return None
        track = await self._tracks.open(owner.agent_id, owner.task_id, context_id=owner.context_id or "")
        if track.written == 0:
            return None
        picture = await self._tracks.picture(track)
        return picture.encode(history_length, include_artifacts=include_artifacts)
