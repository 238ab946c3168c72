"""What waits for an agent, what it failed at, and another try at that."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from meshway.engine.ports import DeadLetter, QueueDepth, QueuedMessage
from meshway.gateway.accept_task import AcceptTask, TaskRequest
from meshway.gateway.named_letters import named_letters
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import Forbidden
from meshway.kernel.ids import AgentId, TaskId
from meshway.kernel.pages import Page, decode_cursor, encode_cursor
from meshway.kernel.principal import Principal
from meshway.registry.values import Agent
from meshway.tasks.inbox import InboxItem, read_item
from meshway.tasks.send_terms import SendTerms
from meshway.tasks.values import TaskOwner

__all__ = ["InboxEntry", "InspectInbox", "LostTask"]

# Names of the tasks that redriving makes: the same each time, so that a repetition makes no second one.
_REDRIVE_NAMES = uuid.UUID("6f6cf7a0-6f0e-4c38-9d5e-0d9a5c1a7b51")
_REDRIVE_MAX = 500


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """One turn of a task that waits or is worked on; `owner` None: its record is gone."""

    item: InboxItem
    owner: TaskOwner | None


@dataclass(frozen=True, slots=True)
class LostTask:
    """A task in the agent's dead letters. `id` is what redriving takes."""

    id: str
    item: InboxItem
    letter: DeadLetter


class InspectInbox:
    """For admins, the key that registered the agent, and keys that serve it."""

    def __init__(self, places: TaskPlaces, accept: AcceptTask) -> None:
        self._places = places
        self._accept = accept

    async def depth(self, principal: Principal, agent_id: AgentId) -> QueueDepth:
        """How many wait, are worked on, and are dead. Raises: AgentNotFound, Forbidden, EngineUnavailable."""
        self._admit(principal, agent_id)
        return await self._places.tasks.inbox.depth(agent_id)

    async def waiting(
        self, principal: Principal, agent_id: AgentId, *, cursor: str | None, limit: int
    ) -> Page[InboxEntry]:
        """In the order of hand-out; ended tasks that nobody has taken out yet are left out.

        Raises: AgentNotFound, Forbidden, InvalidRequest (cursor), EngineUnavailable, StoreCorrupt.
        """
        self._admit(principal, agent_id)
        after = None if cursor is None else decode_cursor(cursor)
        page = await self._places.tasks.inbox.peek(agent_id, after=after, limit=limit)
        entries = [await self._entry(message) for message in page]
        shown = [entry for entry in entries if entry.owner is None or not entry.owner.state.is_terminal]
        return Page(shown, encode_cursor(page[-1].position) if len(page) == limit else None)

    async def _entry(self, message: QueuedMessage) -> InboxEntry:
        item = read_item(message)
        return InboxEntry(item, await self._places.tasks.owners.owner_of(item.agent_id, item.task_id))

    async def dead_letters(
        self, principal: Principal, agent_id: AgentId, *, cursor: str | None, limit: int
    ) -> Page[LostTask]:
        """Oldest first. Raises: as `waiting`."""
        self._admit(principal, agent_id)
        after = None if cursor is None else decode_cursor(cursor)
        letters = await self._places.tasks.inbox.dead_letters(agent_id, after=after, limit=limit)
        lost = [LostTask(letter.message.message_id, read_item(letter.message), letter) for letter in letters]
        return Page(lost, encode_cursor(letters[-1].position) if len(letters) == limit else None)

    async def redrive(
        self, principal: Principal, agent_id: AgentId, message_ids: Sequence[str] | None
    ) -> Sequence[TaskId]:
        """Each becomes a new task of the same client, with `metadata.redriveOf`; None: all there are (at most 500).

        Exactly one new task each, however often this is repeated. Raises: AgentNotFound, Forbidden, NotFound for an id
        that is no dead letter, InboxFull, AgentStopped, StorageFull, EngineUnavailable; those before it were done.
        """
        self._admit(principal, agent_id)
        by_id = await self._letters(agent_id, message_ids)
        return [await self._redrive(agent_id, by_id[each]) for each in message_ids or by_id]

    async def _letters(self, agent_id: AgentId, message_ids: Sequence[str] | None) -> Mapping[str, DeadLetter]:
        """The oldest 500, or those that are named, wherever they are. Raises: NotFound, EngineUnavailable."""
        inbox = self._places.tasks.inbox
        if message_ids is None:
            letters = await inbox.dead_letters(agent_id, limit=_REDRIVE_MAX)
            return {letter.message.message_id: letter for letter in letters}
        return await named_letters(
            message_ids,
            lambda after: inbox.dead_letters(agent_id, after=after, limit=_REDRIVE_MAX),
            of=f"agent {agent_id!r}",
        )

    async def _redrive(self, agent_id: AgentId, letter: DeadLetter) -> TaskId:
        item = read_item(letter.message)
        places = self._places
        task_id = TaskId(str(uuid.uuid5(_REDRIVE_NAMES, f"{item.task_id} {letter.dead_at_ms}")))
        if await places.tasks.owners.owner_of(agent_id, task_id) is None:
            fields = msgspec.json.decode(item.message, type=dict[str, msgspec.Raw])
            fields.pop("taskId", None)
            request = TaskRequest(
                principal=Principal(item.principal_id),
                agent_id=agent_id,
                terms=SendTerms(
                    message=msgspec.json.encode(fields), message_id="", context_id=item.context_id, blocking=False
                ),
                task_id=task_id,
                traceparent=item.traceparent,
                metadata={"redriveOf": item.task_id},
            )
            await self._accept.execute(request)
        # Back in the inbox it is a turn of a task that has ended: the next lease takes it out.
        await places.tasks.inbox.redrive(agent_id, [letter.message.message_id])
        return task_id

    def _admit(self, principal: Principal, agent_id: AgentId) -> Agent:
        agent = self._places.agent(agent_id)
        if not (self._places.admission.may_manage(principal, agent) or principal.may_serve(agent_id)):
            text = (
                f"Key {principal.id!r} may not see the inbox of {agent_id!r}; that needs 'serve:{agent_id}' or 'admin'."
            )
            raise Forbidden(text, agent=agent_id)
        return agent
