"""What the hub says of tasks, for programs; members that are not known here are ignored, so that a hub may be newer."""

from datetime import datetime

import msgspec

from meshway.client.messages import Task

__all__ = ["StoppedWork", "SubmittedTask", "TaskPage", "TaskReceipt", "TaskReference", "TaskSummary", "TaskTree"]


class TaskReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a task: queued, claimed (by `instance`), running, replied or failed (`reason`)."""

    state: str
    at: datetime
    attempt: int = 0
    turn: int = 1
    instance: str | None = None
    reason: str | None = None


class SubmittedTask(Task, frozen=True, kw_only=True):
    """A task as the hub took it for `agent`; it waits in the agent's inbox until an instance has room."""

    agent: str = ""
    receipts: tuple[TaskReceipt, ...] = ()


class TaskReference(msgspec.Struct, frozen=True, kw_only=True):
    """A task by its agent and id."""

    agent: str
    id: str


class TaskSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub knows of a task without asking anybody; `parent` asked for it, `root` heads the chain."""

    id: str
    agent: str
    state: str
    created_at: datetime
    status_at: datetime
    context_id: str | None = None
    turn: int = 1
    hub_owned: bool = False
    parent: TaskReference | None = None
    root: TaskReference | None = None


class TaskPage(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks, the last that changed first; `total` counts all that match."""

    items: tuple[TaskSummary, ...]
    next_cursor: str | None = None
    total: int = 0


class TaskTree(msgspec.Struct, frozen=True, kw_only=True):
    """A task and what it has caused. `cut`: there is more than is shown."""

    id: str
    agent: str
    state: str
    children: tuple["TaskTree", ...] = ()
    cut: bool = False


class StoppedWork(msgspec.Struct, frozen=True, kw_only=True):
    """A stop of `agent`, or of everything; so many running tasks were `cancelled`."""

    agent: str | None = None
    stopped_at: datetime
    by: str = ""
    reason: str | None = None
    cancelled: int = 0
