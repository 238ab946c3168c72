"""What the hub knows of a task: its record, and its numbered events."""

import enum

import msgspec

from meshway.kernel.ids import AgentId, ContextId, InstanceId, PrincipalId, TaskId

__all__ = ["TaskCause", "TaskEvent", "TaskOwner", "TaskParent", "TaskSeen", "TaskState"]


_TERMINAL = ("COMPLETED", "FAILED", "CANCELED", "REJECTED")
_INTERRUPTED = ("INPUT_REQUIRED", "AUTH_REQUIRED")


class TaskState(enum.Enum):
    """A2A 1.0 task states (specification section 4.1.3)."""

    UNSPECIFIED = "TASK_STATE_UNSPECIFIED"
    SUBMITTED = "TASK_STATE_SUBMITTED"
    WORKING = "TASK_STATE_WORKING"
    COMPLETED = "TASK_STATE_COMPLETED"
    FAILED = "TASK_STATE_FAILED"
    CANCELED = "TASK_STATE_CANCELED"
    REJECTED = "TASK_STATE_REJECTED"
    INPUT_REQUIRED = "TASK_STATE_INPUT_REQUIRED"
    AUTH_REQUIRED = "TASK_STATE_AUTH_REQUIRED"

    def __init__(self, text: str) -> None:
        # Attributes, not properties: they are asked for with each event of each stream.
        name = text.removeprefix("TASK_STATE_")
        self.is_terminal = name in _TERMINAL
        # The agent waits for its client.
        self.is_interrupted = name in _INTERRUPTED
        # Nothing more comes until the client says something, if ever.
        self.ends_turn = self.is_terminal or self.is_interrupted
        # As it stands in the log.
        self.short = name.lower()


class TaskSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a task as one answer or stream event of its agent showed it."""

    task_id: TaskId
    context_id: ContextId | None
    state: TaskState
    # The status' own timestamp; None where the agent sent none.
    timestamp_ms: int | None = None


class TaskEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event of a task: `body` is an A2A 1.0 StreamResponse as JSON, numbered from 1 without gaps.

    `state` is the task's after it. `turn` and `attempt` say whose word it is, `source` which of that attempt's reports;
    0 for what the hub itself said.
    """

    number: int
    body: bytes
    state: TaskState
    at_ms: int
    turn: int = 1
    attempt: int = 0
    source: int = 0
    instance: str = ""


class TaskParent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The task in whose course this one was asked for."""

    agent_id: AgentId
    task_id: TaskId


class TaskCause(msgspec.Struct, frozen=True, kw_only=True):
    """The call that begins a task of an agent's, and in whose course it is made."""

    call_id: TaskId
    parent: TaskParent | None = None
    root: TaskParent | None = None


class TaskOwner(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The owner record: which instance holds the task, and who may ask for it. Stored; `v` is the record's format."""

    task_id: TaskId
    context_id: ContextId | None
    agent_id: AgentId
    instance_id: InstanceId
    principal_id: PrincipalId
    state: TaskState
    created_at_ms: int
    # Of the last status seen; ListTasks sorts by it.
    status_at_ms: int
    # The hub owns the task itself: agents that connect out, and durable deliveries. Its events are the whole truth.
    hub_owned: bool = False
    # The last turn that began; each message of the client begins one.
    turn: int = 1
    # Attempts that were given back unharmed; they do not count against the maximum.
    given_back: int = 0
    # Epoch ms after which the work fails; None: no limit of its own.
    deadline_ms: int | None = None
    parent: TaskParent | None = None
    # The task that stands at the head of the chain of delegation; None: this one.
    root: TaskParent | None = None
    # The hub's own name of the call that began a task of the agent's: what it caused knows it by that.
    call_id: TaskId | None = None
    # Where the hub delivers durably to an agent with a URL: the agent's own task and the instance that has it.
    agent_task_id: TaskId | None = None
    agent_instance_id: InstanceId | None = None
    v: int = 1
