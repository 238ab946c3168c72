"""What tasks show and take under `/v1`. A task itself is A2A 1.0 and passes as the agent wrote it; see `TaskView`."""

from typing import Annotated

import msgspec

from meshway.edges.rest.models import AgentIdText, Cursor, Moment, TaskTimeoutMs

__all__ = [
    "ReceiptPage",
    "ReceiptView",
    "SubmittedTaskView",
    "TaskEventsQuery",
    "TaskListQuery",
    "TaskPage",
    "TaskQuery",
    "TaskReference",
    "TaskStatusView",
    "TaskSubmissionBody",
    "TaskSummary",
    "TaskTreeView",
    "TaskView",
]

# A2A 1.0, ListTasks: the store's pages are of this size at most.
_LIMIT_DEFAULT, _LIMIT_MAX = 50, 100

MessageDocument = Annotated[
    msgspec.Raw,
    msgspec.Meta(
        extra_json_schema={
            "type": "object",
            "required": ["parts"],
            "description": "An A2A 1.0 message. `messageId` and `role` may be left out; a `taskId` goes on with a task "
            "that waits for input.",
            "examples": [{"parts": [{"text": "Write the invoice of order 17."}]}],
        }
    ),
]
Document = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]
Documents = Annotated[
    msgspec.Raw,
    msgspec.Meta(extra_json_schema={"type": "array", "items": {"type": "object"}, "description": "A2A 1.0"}),
]
StateText = Annotated[
    str, msgspec.Meta(description="An A2A 1.0 state.", examples=["TASK_STATE_WORKING", "TASK_STATE_COMPLETED"])
]
TaskIdText = Annotated[str, msgspec.Meta(examples=["6f0c3a52-8a4e-4f0e-9a43-0d1f5e0b7c11"])]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request: fields that are not named are refused."""


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """An answer."""


# --- in -------------------------------------------------------------------------------------------------------------


class TaskSubmissionBody(_Body, frozen=True, kw_only=True):
    """Work for an `agent`, or for whoever has a `skill`: a `text`, or a whole `message`."""

    agent: AgentIdText | None = None
    skill: Annotated[str, msgspec.Meta(description="Id of a skill.", examples=["invoice"])] | None = None
    text: Annotated[str, msgspec.Meta(examples=["Write the invoice of order 17."])] | None = None
    message: MessageDocument | msgspec.UnsetType = msgspec.UNSET
    context_id: Annotated[str, msgspec.Meta(description="Goes on in a conversation.")] | None = None
    timeout_ms: TaskTimeoutMs | None = None
    idempotency_key: (
        Annotated[str, msgspec.Meta(description="The same again joins the task; as the header `Idempotency-Key`.")]
        | None
    ) = None


class TaskQuery(_Body, frozen=True, kw_only=True):
    """How much of it."""

    history_length: (
        Annotated[int, msgspec.Meta(ge=0, le=1_000_000, description="The last so many messages; 0 for none.")] | None
    ) = None


class TaskListQuery(_Body, frozen=True, kw_only=True):
    """All given filters must hold."""

    agent: AgentIdText | None = None
    state: (
        Annotated[str, msgspec.Meta(description="Of A2A: `working` or `TASK_STATE_WORKING`.", examples=["working"])]
        | None
    ) = None
    context: Annotated[str, msgspec.Meta(description="Id of a conversation.")] | None = None
    status_after: Annotated[Moment, msgspec.Meta(description="Changed at this time or later.")] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=_LIMIT_MAX, description="Items in one page at most.")] = _LIMIT_DEFAULT
    cursor: Cursor | None = None


class TaskEventsQuery(_Body, frozen=True, kw_only=True):
    """Where to begin; `Last-Event-ID` counts more."""

    after: Annotated[int, msgspec.Meta(ge=0, le=10**15, description="Only events above this number.")] = 0


# --- out ------------------------------------------------------------------------------------------------------------


class TaskStatusView(_View, frozen=True, kw_only=True):
    """A2A 1.0."""

    state: StateText
    timestamp: str | msgspec.UnsetType = msgspec.UNSET
    message: Document | msgspec.UnsetType = msgspec.UNSET


class TaskView(_View, frozen=True, kw_only=True, rename="camel"):
    """A task as A2A 1.0 has it, with every member that its agent gave it."""

    id: TaskIdText
    context_id: str | msgspec.UnsetType = msgspec.UNSET
    status: TaskStatusView
    artifacts: Documents | msgspec.UnsetType = msgspec.UNSET
    history: Documents | msgspec.UnsetType = msgspec.UNSET
    metadata: Document | msgspec.UnsetType = msgspec.UNSET


class ReceiptView(_View, frozen=True, kw_only=True):
    """One step: queued, claimed (by `instance`), running (its first word), replied or failed (`reason`)."""

    state: Annotated[str, msgspec.Meta(examples=["queued", "claimed"])]
    at: Moment
    attempt: Annotated[int, msgspec.Meta(ge=0, description="From 1; 0 before the first.")]
    turn: Annotated[int, msgspec.Meta(ge=1, description="Each message of the client begins one.")]
    instance: str | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET


class SubmittedTaskView(TaskView, frozen=True, kw_only=True):
    """The task, the agent that has it, and what has become of it so far."""

    agent: str
    receipts: tuple[ReceiptView, ...]


class ReceiptPage(_View, frozen=True, kw_only=True):
    """All of them, oldest first; none for a task that its agent owns."""

    items: tuple[ReceiptView, ...]
    next_cursor: str | None = None


class TaskReference(_View, frozen=True, kw_only=True):
    """A task by its agent and id."""

    agent: str
    id: TaskIdText


class TaskSummary(_View, frozen=True, kw_only=True):
    """What the hub knows of a task. `hub_owned`: its events are kept here whole; else its agent has it.

    `parent` asked for it, `root` stands at the head of the chain; neither where a client did.
    """

    id: TaskIdText
    agent: str
    context_id: str | None
    state: StateText
    created_at: Moment
    status_at: Moment
    turn: int
    hub_owned: bool
    parent: TaskReference | msgspec.UnsetType = msgspec.UNSET
    root: TaskReference | msgspec.UnsetType = msgspec.UNSET


class TaskPage(_View, frozen=True, kw_only=True):
    """Latest status first; `total` counts all that match."""

    items: tuple[TaskSummary, ...]
    next_cursor: str | None
    total: int


class TaskTreeView(_View, frozen=True, kw_only=True):
    """A task and what it has caused. `cut`: it has more children than are shown."""

    id: TaskIdText
    agent: str
    state: StateText
    children: "tuple[TaskTreeView, ...]" = ()
    cut: bool = False
