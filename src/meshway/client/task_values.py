"""What the hub answers about tasks, inboxes and stops, as the SDK shows it. Unknown fields are ignored."""

from datetime import datetime

import msgspec

from meshway.client.channel_messages import FailedAttempt
from meshway.client.messages import Message, Task
from meshway.client.values import Page

__all__ = [
    "Inbox",
    "InboxDepth",
    "InboxItem",
    "LostTask",
    "StopNotice",
    "SubmittedTask",
    "TaskPage",
    "TaskReceipt",
    "TaskReference",
    "TaskSummary",
]


class TaskReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a task: queued, claimed (by `instance`), running, replied or failed."""

    state: str
    at: datetime
    attempt: int = 0
    turn: int = 1
    instance: str | None = None
    reason: str | None = None


class SubmittedTask(Task, frozen=True, kw_only=True):
    """A task as the hub took it; it waits in the agent's inbox until an instance has room."""

    agent: str = ""
    receipts: tuple[TaskReceipt, ...] = ()


class TaskReference(msgspec.Struct, frozen=True, kw_only=True):
    agent: str
    id: str


class TaskSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the hub knows of a task; the task itself by `get`. `parent` asked for it, None where a client did."""

    id: str
    agent: str = ""
    context_id: str | None = None
    state: str = "TASK_STATE_UNSPECIFIED"
    created_at: str = ""
    status_at: str = ""
    turn: int = 1
    hub_owned: bool = False
    parent: TaskReference | None = None
    root: TaskReference | None = None


class TaskPage(Page[TaskSummary], frozen=True, kw_only=True):
    """`total` counts all that match."""

    total: int = 0


class InboxDepth(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that wait, are worked on, wait for their next attempt, and are dead letters."""

    waiting: int = 0
    held: int = 0
    delayed: int = 0
    dead: int = 0


class InboxItem(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a task. `instance` works on it; after `expires_at` no attempt begins."""

    task_id: str
    context_id: str = ""
    turn: int = 1
    state: str = "TASK_STATE_SUBMITTED"
    created_at: str = ""
    expires_at: str = ""
    instance: str | None = None
    deadline: str | None = None


class Inbox(Page[InboxItem], frozen=True, kw_only=True):
    """What waits for an agent and what it works on, in the order of hand-out."""

    depth: InboxDepth = InboxDepth()


class LostTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that used up its attempts or was given up. `id` redrives it; `attempts`: oldest first."""

    id: str
    task_id: str = ""
    reason: str = ""
    dead_at: str = ""
    attempts: tuple[FailedAttempt, ...] = ()
    message: Message = Message()


class StopNotice(msgspec.Struct, frozen=True, kw_only=True):
    """`agent` None: everything. Who stopped it first and why, and how many tasks were cancelled now."""

    agent: str | None = None
    stopped_at: str = ""
    by: str = ""
    reason: str = ""
    cancelled: int = 0
