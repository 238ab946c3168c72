"""What the hub knows of a task that an agent owns."""

import enum

import msgspec

from meshway.kernel.ids import AgentId, ContextId, InstanceId, PrincipalId, TaskId

__all__ = ["TaskOwner", "TaskSeen", "TaskState"]


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

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED})


class TaskSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a task as one answer or stream event of its agent showed it."""

    task_id: TaskId
    context_id: ContextId | None
    state: TaskState
    # The status' own timestamp; None where the agent sent none.
    timestamp_ms: int | None = None


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
    v: int = 1
