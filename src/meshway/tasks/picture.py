"""A task as its events left it: what GetTask, ListTasks and subscribers see. Pure; folds A2A 1.0 stream events.

It computes what the stock SDK's task manager computes from the same events. Whatever the hub has no use for (parts,
messages, unknown fields) stays the bytes it came in.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Self

import msgspec

from meshway.tasks.values import TaskState

__all__ = ["PicturedArtifact", "TaskPicture"]

Fields = dict[str, msgspec.Raw]

_NULL = msgspec.Raw(b"null")


class _StatusUpdate(msgspec.Struct):
    status: msgspec.Raw
    taskId: str = ""  # noqa: N815 - the wire's own name, here and below
    contextId: str | None = None  # noqa: N815
    metadata: Fields | None = None


class _ArtifactUpdate(msgspec.Struct):
    artifact: Fields
    taskId: str = ""  # noqa: N815
    contextId: str | None = None  # noqa: N815
    append: bool | None = None


class _Event(msgspec.Struct):
    task: Fields | None = None
    statusUpdate: _StatusUpdate | None = None  # noqa: N815
    artifactUpdate: _ArtifactUpdate | None = None  # noqa: N815


class _Status(msgspec.Struct):
    state: str | int = ""
    message: msgspec.Raw = _NULL


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_status = msgspec.json.Decoder(_Status | None).decode
_decode_fields = msgspec.json.Decoder(Fields | None).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw] | None).decode
_decode_objects = msgspec.json.Decoder(list[Fields] | None).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_task = msgspec.json.Decoder(dict[str, object]).decode
_encode = msgspec.json.Encoder().encode

_STATES: Mapping[object, TaskState] = {state.value: state for state in TaskState}
_NO_ID = msgspec.Raw(b'""')
_NO_STATUS = msgspec.Raw(_encode({"state": TaskState.UNSPECIFIED.value}))
# In the metadata of a status by which the hub announces an attempt; no fact about the task.
_ATTEMPT = "attempt"


class PicturedArtifact:
    """One artifact. `fields` are all of it but its parts."""

    __slots__ = ("fields", "parts")

    def __init__(self, fields: Fields) -> None:
        """Takes the object over. Raises: msgspec.DecodeError when its parts are no list."""
        self.parts = _decode_items(fields.pop("parts", _NULL)) or []
        self.fields = fields

    def extend(self, chunk: "PicturedArtifact") -> None:
        """Add a later chunk. What an earlier one said stands; metadata are merged. Raises: msgspec.DecodeError."""
        metadata = _decode_fields(chunk.fields.pop("metadata", _NULL))
        if metadata:
            known = _decode_fields(self.fields.get("metadata", _NULL)) or {}
            self.fields["metadata"] = msgspec.Raw(_encode(known | metadata))
        self.parts += chunk.parts
        self.fields = chunk.fields | self.fields

    def shown(self) -> dict[str, object]:
        """The A2A object."""
        return {**self.fields, "parts": self.parts}


class TaskPicture:
    """The projection of a task: fold its events in order, then look."""

    __slots__ = ("_artifacts", "_fields", "_history", "_metadata", "_status", "_status_message", "state")

    def __init__(self) -> None:
        self.state = TaskState.UNSPECIFIED
        # All of the task but what has a place of its own below.
        self._fields: Fields = {}
        self._status: msgspec.Raw = _NO_STATUS
        self._status_message: msgspec.Raw | None = None
        self._artifacts: dict[str, PicturedArtifact] = {}
        self._history: list[msgspec.Raw] = []
        self._metadata: Fields = {}

    @classmethod
    def of(cls, bodies: Iterable[bytes]) -> Self:
        """The picture after these events, each the JSON of a StreamResponse."""
        picture = cls()
        for body in bodies:
            picture.fold(body)
        return picture

    @classmethod
    def of_task(cls, task: bytes) -> Self:
        """The picture a Task gives, as `fold` of it would. Raises: msgspec.DecodeError when it is none."""
        picture = cls()
        picture._replace(msgspec.json.decode(task, type=Fields))
        return picture

    @property
    def context_id(self) -> str | None:
        """None where no event told it."""
        return _text_or_none(self._fields.get("contextId", _NULL))

    @property
    def status_message(self) -> msgspec.Raw | None:
        """What the agent said with its last status."""
        return self._status_message

    @property
    def status(self) -> msgspec.Raw:
        """The last status, as it came."""
        return self._status

    @property
    def metadata(self) -> Mapping[str, msgspec.Raw]:
        """The task's metadata, merged from its events."""
        return self._metadata

    @property
    def artifacts(self) -> Mapping[str, PicturedArtifact]:
        """By artifact id, in order of first sight."""
        return self._artifacts

    def fold(self, body: bytes) -> None:
        """Take in the next event. One that has not the shape the data model gives it changes nothing.

        A task whose agent slipped once must stay readable, so nothing is raised.
        """
        try:
            event = _decode_event(body)
            if event.artifactUpdate is not None:
                self._take_artifact(event.artifactUpdate)
            elif event.statusUpdate is not None:
                self._take_status(event.statusUpdate)
            elif event.task is not None:
                self._replace(event.task)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return

    def task(self, history_length: int | None = None, *, include_artifacts: bool = True) -> dict[str, object]:
        """The A2A 1.0 Task, decoded. `history_length`: None for all of the history, else so many of the latest."""
        return _decode_task(self.encode(history_length, include_artifacts=include_artifacts))

    def encode(self, history_length: int | None = None, *, include_artifacts: bool = True) -> bytes:
        """The A2A 1.0 Task as JSON; see `task`. Empty lists are left out, as ProtoJSON does."""
        task: dict[str, object] = {"id": _NO_ID, **self._fields, "status": self._status}
        if include_artifacts and self._artifacts:
            task["artifacts"] = [artifact.shown() for artifact in self._artifacts.values()]
        skipped = 0 if history_length is None else max(0, len(self._history) - history_length)
        if skipped < len(self._history):
            task["history"] = self._history[skipped:]
        if self._metadata:
            task["metadata"] = self._metadata
        return _encode(task)

    # Folding: everything that can fail comes before the first change.

    def _replace(self, task: Fields) -> None:
        fields = dict(task)
        status = fields.pop("status", _NO_STATUS)
        head = _decode_status(status) or _Status()
        artifacts = dict(_by_id(_decode_objects(fields.pop("artifacts", _NULL)) or []))
        history = _decode_items(fields.pop("history", _NULL)) or []
        metadata = _decode_fields(fields.pop("metadata", _NULL)) or {}
        self._fields, self._artifacts, self._history, self._metadata = fields, artifacts, history, metadata
        self._set_status(status, head)

    def _take_status(self, update: _StatusUpdate) -> None:
        head = _decode_status(update.status)
        if head is None:
            return
        if self._status_message is not None:
            self._history.append(self._status_message)
        if update.metadata:
            self._metadata |= {name: value for name, value in update.metadata.items() if name != _ATTEMPT}
        self._set_status(update.status, head)
        self._name(update)

    def _take_artifact(self, update: _ArtifactUpdate) -> None:
        artifact_id = _id_of(update.artifact)
        chunk = PicturedArtifact(update.artifact)
        known = self._artifacts.get(artifact_id) if update.append else None
        if known is None:
            # Also a continuation of what never began: the sum is right from here on.
            self._artifacts[artifact_id] = chunk
        else:
            known.extend(chunk)
        self._name(update)

    def _set_status(self, status: msgspec.Raw, head: _Status) -> None:
        self._status = status
        self._status_message = None if head.message == _NULL else head.message
        self.state = _STATES.get(head.state, TaskState.UNSPECIFIED)

    def _name(self, update: _StatusUpdate | _ArtifactUpdate) -> None:
        """Some agents of 0.3 begin with an update and never show the task."""
        if "id" not in self._fields:
            self._fields["id"] = msgspec.Raw(_encode(update.taskId))
            if update.contextId is not None:
                self._fields["contextId"] = msgspec.Raw(_encode(update.contextId))


def _by_id(artifacts: Iterable[Fields]) -> Iterator[tuple[str, PicturedArtifact]]:
    for fields in artifacts:
        yield _id_of(fields), PicturedArtifact(fields)


def _id_of(artifact: Fields) -> str:
    return _decode_text(artifact.get("artifactId", _NO_ID))


def _text_or_none(raw: msgspec.Raw) -> str | None:
    return msgspec.json.decode(raw, type=str | None)
