"""Answers and stream events of agents (A2A 1.0), read leniently: what is not named here is in `raw`."""

import base64
import enum
import uuid
from collections.abc import Mapping, Sequence

import msgspec

__all__ = [
    "Answer",
    "Artifact",
    "EventKind",
    "Message",
    "Part",
    "StreamEvent",
    "Task",
    "TaskStatus",
    "message_of",
    "part_of",
]

_UNSUCCESSFUL = frozenset({"TASK_STATE_FAILED", "TASK_STATE_REJECTED", "TASK_STATE_CANCELED"})
_WAITING = frozenset({"TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED"})


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One part of a message or artifact: `text`, `raw` (base64), `url` or `data`."""

    text: str | None = None
    raw: str | None = None
    url: str | None = None
    data: object = None
    media_type: str | None = None
    filename: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    message_id: str = ""
    role: str = ""
    parts: tuple[Part, ...] = ()
    context_id: str | None = None
    task_id: str | None = None
    metadata: dict[str, object] | None = None

    @property
    def text(self) -> str:
        """All text parts, joined."""
        return _text(self.parts)


class Artifact(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What an agent made. To give one from a handler: `Artifact.of("# Report", name="report.md")`."""

    artifact_id: str = ""
    name: str | None = None
    description: str | None = None
    parts: tuple[Part, ...] = ()
    metadata: dict[str, object] | None = None

    @classmethod
    def of(
        cls,
        *content: object,
        name: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, object] | None = None,
        artifact_id: str = "",
    ) -> "Artifact":
        """Each of `content` becomes a part: a Part as it is, text, bytes, or data, which is anything JSON can say.

        The same `artifact_id` again replaces what was said before. Raises: TypeError for what JSON cannot say.
        """
        return cls(
            artifact_id=artifact_id,
            name=name,
            description=description,
            parts=tuple(part_of(each) for each in content),
            metadata=None if metadata is None else dict(metadata),
        )

    @property
    def text(self) -> str:
        return _text(self.parts)


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    state: str = "TASK_STATE_UNSPECIFIED"
    message: Message | None = None
    timestamp: str | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    context_id: str | None = None
    status: TaskStatus = TaskStatus()
    artifacts: tuple[Artifact, ...] = ()
    history: tuple[Message, ...] = ()
    metadata: dict[str, object] | None = None

    @property
    def text(self) -> str:
        """The text of its artifacts, one a line; without artifacts, that of its status message."""
        if self.artifacts:
            return "\n".join(artifact.text for artifact in self.artifacts)
        return self.status.message.text if self.status.message else ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent answered: a `message` or a `task`, never both. `raw` is the JSON-RPC result unchanged."""

    message: Message | None
    task: Task | None
    raw: dict[str, object]

    @property
    def text(self) -> str:
        """What a person would read: the message's text, or the text of the task's artifacts or status."""
        return (self.message or self.task or _NOTHING).text

    @property
    def state(self) -> str | None:
        """The task's state such as `TASK_STATE_COMPLETED`; None when the agent answered with a message."""
        return self.task.status.state if self.task else None

    @property
    def task_id(self) -> str | None:
        return self.task.id if self.task else self.message.task_id if self.message else None

    @property
    def context_id(self) -> str | None:
        """Give it to the next `ask` to go on in the same conversation."""
        return (self.task or self.message or _NOTHING).context_id

    @property
    def is_failed(self) -> bool:
        """The task ended without success: failed, rejected or cancelled."""
        return self.state in _UNSUCCESSFUL

    @property
    def is_waiting(self) -> bool:
        """The agent wants more: ask again with this `task_id`."""
        return self.state in _WAITING


class EventKind(enum.StrEnum):
    """Equal to its text, so that `event.kind == "artifact"` reads as it looks."""

    TASK = "task"
    MESSAGE = "message"
    STATUS = "status"
    ARTIFACT = "artifact"


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream. `text` is what this event adds; `raw` the A2A StreamResponse unchanged.

    `append` and `is_last_chunk` speak of artifacts: a chunk with `append` continues the artifact with the same
    `artifact_id`, one without it begins or replaces it. `event_id` is the SSE id where the hub numbers events.
    """

    kind: EventKind
    text: str
    raw: dict[str, object]
    event_id: str | None = None
    task_id: str | None = None
    context_id: str | None = None
    state: str | None = None
    artifact_id: str | None = None
    append: bool = False
    is_last_chunk: bool = False


_NOTHING = Message()


def message_of(
    content: str | Mapping[str, object],
    *,
    context_id: str | None = None,
    task_id: str | None = None,
    idempotency_key: str | None = None,
) -> dict[str, object]:
    """An A2A 1.0 message to send: text becomes one text part; a mapping is used as it is, with what it lacks added."""
    message: dict[str, object] = {"parts": [{"text": content}]} if isinstance(content, str) else dict(content)
    # The hub compares what comes under one key: a new id each time would make it another message.
    made = uuid.uuid4() if idempotency_key is None else uuid.uuid5(uuid.NAMESPACE_OID, idempotency_key)
    message.setdefault("messageId", str(made))
    message.setdefault("role", "ROLE_USER")
    if context_id is not None:
        message["contextId"] = context_id
    if task_id is not None:
        message["taskId"] = task_id
    return message


def part_of(value: object) -> Part:
    """A part that carries a value. Raises: TypeError for what JSON cannot say."""
    if isinstance(value, Part):
        return value
    if isinstance(value, str):
        return Part(text=value)
    if isinstance(value, bytes | bytearray | memoryview):
        return Part(raw=base64.b64encode(value).decode())
    return Part(data=msgspec.to_builtins(value))


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if part.text is not None)
