"""Names of tasks on the engine: ids come from agents and may be anything, names may not."""

import hashlib

from meshway.engine.ports import subject_token
from meshway.kernel.ids import AgentId

__all__ = ["ALL_EVENTS", "INBOX_PREFIX", "agent_of_inbox", "events_subject", "inbox_name", "record_key", "task_token"]

# Longer tokens are replaced by a hash: NATS keys and our own index want names of a bounded length.
_TOKEN_CHARS_MAX = 200
INBOX_PREFIX = "_inbox."
# The events of all tasks, as a pattern.
ALL_EVENTS = "task.>"


def task_token(task_id: str) -> str:
    """The id of a task as one token of a name; never the token of another id."""
    token = subject_token(task_id)
    if len(token) > _TOKEN_CHARS_MAX:
        # `subject_token` never yields two '=' in a row, so no other id has this token.
        return f"=={hashlib.sha256(task_id.encode()).hexdigest()}"
    return token


def record_key(agent_id: str, task_id: str) -> str:
    """Where the record of a task is kept, in KeyValue."""
    return f"tasks.{agent_id}.{task_token(task_id)}"


def events_subject(agent_id: str, task_id: str) -> str:
    """Where the events of a task are kept, in Log."""
    return f"task.{agent_id}.{task_token(task_id)}"


def inbox_name(agent_id: str) -> str:
    """The queue in which the tasks of an agent wait."""
    return INBOX_PREFIX + agent_id


def agent_of_inbox(queue: str) -> AgentId | None:
    """Whose inbox a queue is; None for any other queue."""
    return AgentId(queue[len(INBOX_PREFIX) :]) if queue.startswith(INBOX_PREFIX) else None
