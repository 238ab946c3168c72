"""What inboxes of agents, stops and the audit log show and take under `/v1`."""

from typing import Annotated, Literal

import msgspec

from meshway.edges.rest.channel_models import DeadLetterAttempt
from meshway.edges.rest.models import Cursor, Limit, Moment
from meshway.edges.rest.task_models import StateText, TaskIdText
from meshway.kernel.pages import LIMIT_DEFAULT

__all__ = [
    "AuditEntryView",
    "AuditPage",
    "AuditQuery",
    "InboxDepth",
    "InboxItemView",
    "InboxView",
    "LostTaskPage",
    "LostTaskView",
    "RedriveTasksBody",
    "RedriveTasksView",
    "ResumedView",
    "StopBody",
    "StoppedView",
]

MessageDocument = Annotated[
    msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object", "description": "The client's message, A2A 1.0."})
]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request: fields that are not named are refused."""


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """An answer."""


# --- inbox ----------------------------------------------------------------------------------------------------------


class InboxDepth(_View, frozen=True, kw_only=True):
    """Tasks that wait, are worked on, wait for their next attempt, and are dead letters."""

    waiting: int
    held: int
    delayed: int
    dead: int


class InboxItemView(_View, frozen=True, kw_only=True):
    """One turn of a task. `instance` works on it; after `expires_at` no attempt begins, `deadline` ends the work."""

    task_id: TaskIdText
    context_id: str
    turn: int
    state: StateText
    created_at: Moment
    expires_at: Moment
    instance: str | msgspec.UnsetType = msgspec.UNSET
    deadline: Moment | msgspec.UnsetType = msgspec.UNSET


class InboxView(_View, frozen=True, kw_only=True):
    """In the order of hand-out."""

    depth: InboxDepth
    items: tuple[InboxItemView, ...]
    next_cursor: str | None


class LostTaskView(_View, frozen=True, kw_only=True):
    """A task that used up its attempts, or was given up; `attempts` has the last 16. `id` is what redriving takes."""

    id: str
    task_id: TaskIdText
    reason: str
    dead_at: Moment
    attempts: tuple[DeadLetterAttempt, ...]
    message: MessageDocument


class LostTaskPage(_View, frozen=True, kw_only=True):
    """Oldest first."""

    items: tuple[LostTaskView, ...]
    next_cursor: str | None


class RedriveTasksBody(_Body, frozen=True, kw_only=True):
    """Which dead letters are tried again; all (at most 500) without `ids`."""

    ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=500)] | None = None


class RedriveTasksView(_View, frozen=True, kw_only=True):
    """The new tasks, in order."""

    tasks: tuple[TaskIdText, ...]


# --- stops ----------------------------------------------------------------------------------------------------------


class StopBody(_Body, frozen=True, kw_only=True):
    """Why; callers who are refused are told."""

    reason: Annotated[str, msgspec.Meta(max_length=500, examples=["It answers nonsense."])] = ""


class StoppedView(_View, frozen=True, kw_only=True):
    """`agent` null: everything. Who stopped it first, and how many tasks this call cancelled."""

    agent: str | None
    stopped_at: Moment
    by: str
    reason: str
    cancelled: int


class ResumedView(_View, frozen=True, kw_only=True):
    """`was_stopped` false: there was no stop to lift."""

    agent: str | None
    was_stopped: bool


# --- audit ----------------------------------------------------------------------------------------------------------


class AuditQuery(_Body, frozen=True, kw_only=True):
    """Which part of the log."""

    order: Annotated[Literal["newest", "oldest"], msgspec.Meta(description="Which entry comes first.")] = "newest"
    limit: Limit = LIMIT_DEFAULT
    cursor: Cursor | None = None


class AuditEntryView(_View, frozen=True, kw_only=True):
    """What an operator did. `agent` null: to the whole hub."""

    at: Moment
    principal: Annotated[str, msgspec.Meta(description="The key's id.")]
    action: Annotated[str, msgspec.Meta(examples=["agent_stopped"])]
    agent: str | None
    details: dict[str, str | int]


class AuditPage(_View, frozen=True, kw_only=True):
    """Entries in the order asked for."""

    items: tuple[AuditEntryView, ...]
    next_cursor: str | None
