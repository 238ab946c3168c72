"""The events the hub itself says about a task, as A2A 1.0 JSON."""

from collections.abc import Mapping, Sequence

import msgspec

from meshway.kernel.clock import rfc3339_ms
from meshway.tasks.picture import TaskPicture
from meshway.tasks.values import TaskState

__all__ = ["artifact_chunk", "resubmitted", "status", "status_update", "submitted"]

_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_NOTHING = msgspec.Raw(b"[]")


def submitted(
    task_id: str, context_id: str, message: bytes | None, *, at_ms: int, metadata: Mapping[str, object] | None = None
) -> bytes:
    """Event 1 of a task. `message` is the client's, A2A 1.0 JSON; None where the hub did not keep it."""
    task: dict[str, object] = {"id": task_id, "contextId": context_id, "status": _status(TaskState.SUBMITTED, at_ms)}
    if message is not None:
        task["history"] = [msgspec.Raw(message)]
    if metadata:
        task["metadata"] = metadata
    return _encode({"task": task})


def resubmitted(picture: TaskPicture, message: bytes, *, at_ms: int) -> bytes:
    """The event that begins a further turn: the task so far, SUBMITTED again, with the client's new message."""
    task = _decode_fields(picture.encode())
    history = _decode_items(task.get("history", _NOTHING))
    if picture.status_message is not None:
        history.append(picture.status_message)
    history.append(msgspec.Raw(message))
    return _encode({"task": {**task, "status": _status(TaskState.SUBMITTED, at_ms), "history": history}})


def status(
    task_id: str,
    context_id: str | None,
    state: TaskState,
    *,
    at_ms: int,
    text: str | None = None,
    message_id: str = "",
    message: bytes | None = None,
    metadata: Mapping[str, object] | None = None,
) -> bytes:
    """A statusUpdate. It carries `message` (A2A 1.0 JSON), or one of the agent's with this `text` and `message_id`."""
    document = _status(state, at_ms)
    if message is not None:
        document["message"] = msgspec.Raw(message)
    elif text is not None:
        words: dict[str, object] = {"messageId": message_id, "taskId": task_id}
        if context_id is not None:
            words["contextId"] = context_id
        document["message"] = words | {"role": "ROLE_AGENT", "parts": [{"text": text}]}
    return status_update(task_id, context_id, document, metadata=metadata)


def status_update(
    task_id: str,
    context_id: str | None,
    document: Mapping[str, object] | msgspec.Raw,
    *,
    metadata: Mapping[str, object] | None = None,
) -> bytes:
    """A statusUpdate with this A2A 1.0 TaskStatus."""
    update = _ids(task_id, context_id) | {"status": document}
    if metadata:
        update["metadata"] = metadata
    return _encode({"statusUpdate": update})


def artifact_chunk(
    task_id: str,
    context_id: str | None,
    fields: Mapping[str, object],
    parts: Sequence[object],
    *,
    append: bool,
    last_chunk: bool,
) -> bytes:
    """An artifactUpdate. `fields` are the artifact's own but its parts, `artifactId` among them."""
    update = _ids(task_id, context_id) | {"artifact": {**fields, "parts": parts}, "append": append}
    return _encode({"artifactUpdate": update | {"lastChunk": last_chunk}})


def _ids(task_id: str, context_id: str | None) -> dict[str, object]:
    return {"taskId": task_id} if context_id is None else {"taskId": task_id, "contextId": context_id}


def _status(state: TaskState, at_ms: int) -> dict[str, object]:
    return {"state": state.value, "timestamp": rfc3339_ms(at_ms)}
