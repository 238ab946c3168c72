"""Which tasks a task has caused: one key for each, under its parent."""

from collections.abc import Sequence

from meshway.engine.ports import Durability, KeyValue, KvPut
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.tokens import task_token
from meshway.tasks.values import TaskOwner, TaskParent

__all__ = ["TaskChildren"]

_PREFIX = "children"
_PAGE = 500


class TaskChildren:
    """Over KeyValue; what a child is lies in the value, for its token may be a hash."""

    def __init__(self, key_value: KeyValue, *, retention_ms: int) -> None:
        self._key_value = key_value
        self._retention_ms = retention_ms

    async def add(self, parent: TaskParent, agent_id: AgentId, task_id: TaskId) -> None:
        """Lazily synced: a tree that lacks a branch after a power cut harms nobody. Raises: EngineUnavailable."""
        key = f"{_prefix(parent)}.{agent_id}.{task_token(task_id)}"
        value = f"{agent_id} {task_id}".encode()
        await self._key_value.write(
            [KvPut(key=key, value=value, ttl_ms=self._retention_ms, durability=Durability.LAZY)]
        )

    async def of_task(self, owner: TaskOwner, *, limit: int) -> Sequence[TaskParent]:
        """At most `limit` tasks that this one has asked for itself, also while it had no name yet.

        Raises: EngineUnavailable.
        """
        found: list[TaskParent] = []
        for task_id in (owner.task_id, owner.call_id):
            if task_id is not None and len(found) < limit:
                parent = TaskParent(agent_id=owner.agent_id, task_id=task_id)
                found += await self._of(parent, limit=limit - len(found))
        return found

    async def _of(self, parent: TaskParent, *, limit: int) -> Sequence[TaskParent]:
        found: list[TaskParent] = []
        after: str | None = None
        while len(found) < limit:
            page = await self._key_value.page(_prefix(parent), after=after, limit=min(_PAGE, limit - len(found)))
            for entry in page.entries:
                agent_id, _, task_id = entry.value.decode().partition(" ")
                found.append(TaskParent(agent_id=AgentId(agent_id), task_id=TaskId(task_id)))
            after = page.next_after
            if after is None:
                break
        return found


def _prefix(parent: TaskParent) -> str:
    return f"{_PREFIX}.{parent.agent_id}.{task_token(parent.task_id)}"
