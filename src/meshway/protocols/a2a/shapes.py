"""The objects of the data model, between A2A 1.0 JSON and the two JSON forms of 0.3. Decoded JSON in, decoded JSON out.

Version 0.3 has one JSON form on JSON-RPC (`JSON_0_3`: `kind`, lower-case states) and another on HTTP+JSON (`PROTO_0_3`:
the ProtoJSON of `a2a.v1`: `content`, enum names). Both are translated from and to the 1.0 form, here called
core. "Raise" goes from 0.3 to core, "lower" from core to 0.3. Unknown fields are kept where they stand.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "JSON_0_3",
    "PROTO_0_3",
    "Json",
    "JsonObject",
    "Legacy",
    "ShapeError",
    "fields_of",
    "list_of",
    "lower_artifact",
    "lower_artifact_update",
    "lower_message",
    "lower_status_update",
    "lower_task",
    "object_of",
    "raise_artifact",
    "raise_artifact_update",
    "raise_message",
    "raise_status_update",
    "raise_task",
]

# Decoded JSON: whatever it holds is checked where it is used.
Json = Any
JsonObject = dict[str, Json]


class ShapeError(ValueError):
    """An object that is not what the data model says; `path` names the place in it."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path} {message}")
        self.path = path
        self.message = message


# Field names that ProtoJSON (and the 0.3 SDK) may also spell in snake_case, in objects of the data model.
_NAMES = [
    "messageId",
    "contextId",
    "taskId",
    "referenceTaskIds",
    "artifactId",
    "lastChunk",
    "mediaType",
    "mimeType",
    "fileWithUri",
    "fileWithBytes",
    "acceptedOutputModes",
    "taskPushNotificationConfig",
    "pushNotificationConfig",
    "pushNotification",
    "historyLength",
    "returnImmediately",
    "pushNotificationConfigId",
    "configId",
    "statusUpdate",
    "artifactUpdate",
    "nextPageToken",
    "pageSize",
    "pageToken",
    "totalSize",
    "includeArtifacts",
    "statusTimestampAfter",
]
_CAMEL = {"".join(f"_{c.lower()}" if c.isupper() else c for c in name): name for name in _NAMES}
# Known fields for which null means absent. `data` is not among them: null is a value there.
_NULLABLE = frozenset(_NAMES) | frozenset(
    [
        "kind",
        "role",
        "parts",
        "content",
        "metadata",
        "extensions",
        "text",
        "raw",
        "url",
        "filename",
        "file",
        "name",
        "description",
        "artifacts",
        "history",
        "status",
        "state",
        "message",
        "update",
        "timestamp",
        "final",
        "append",
        "artifact",
        "id",
        "token",
        "authentication",
        "scheme",
        "schemes",
        "credentials",
        "configuration",
        "blocking",
        "tenant",
        "request",
        "task",
        "msg",
        "configs",
    ]
)


def object_of(value: object, path: str) -> JsonObject:
    if not isinstance(value, dict):
        raise ShapeError(path, "must be an object")
    return value


def list_of(value: object, path: str) -> list[Any]:
    """Absent is empty, as in ProtoJSON."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ShapeError(path, "must be an array")
    return value


def fields_of(value: object, path: str) -> JsonObject:
    """A copy with camelCase names and without known fields that are null."""
    fields = object_of(value, path)
    return {
        _CAMEL.get(name, name): field
        for name, field in fields.items()
        if field is not None or _CAMEL.get(name, name) not in _NULLABLE
    }


_STATE_NAMES = (
    "TASK_STATE_UNSPECIFIED",
    "TASK_STATE_SUBMITTED",
    "TASK_STATE_WORKING",
    "TASK_STATE_COMPLETED",
    "TASK_STATE_FAILED",
    "TASK_STATE_CANCELED",
    "TASK_STATE_INPUT_REQUIRED",
    "TASK_STATE_REJECTED",
    "TASK_STATE_AUTH_REQUIRED",
)
_UNSPECIFIED = _STATE_NAMES[0]
_JSON_STATES = ("unknown", "submitted", "working", "completed", "failed", "canceled", "input-required", "rejected")
_STATES_TO_JSON: dict[object, str] = dict(zip(_STATE_NAMES, (*_JSON_STATES, "auth-required"), strict=True))
_STATES_FROM_JSON: dict[object, str] = {short: str(name) for name, short in _STATES_TO_JSON.items()}
# The proto of 0.3 spells one state with two Ls. Its enum numbers are those of 1.0.
_STATES_TO_PROTO: dict[object, str] = {
    **{name: name for name in _STATE_NAMES},
    "TASK_STATE_CANCELED": "TASK_STATE_CANCELLED",
}
_STATES_FROM_PROTO: dict[object, str] = {
    **{name: str(core) for core, name in _STATES_TO_PROTO.items()},
    **dict(enumerate(_STATE_NAMES)),
    "TASK_STATE_CANCELED": "TASK_STATE_CANCELED",
}
_FINAL = frozenset({"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"})
_ROLES_FROM_PROTO: dict[object, str] = {
    "ROLE_USER": "ROLE_USER",
    "ROLE_AGENT": "ROLE_AGENT",
    1: "ROLE_USER",
    2: "ROLE_AGENT",
}


@dataclass(frozen=True, slots=True)
class Legacy:
    """What one JSON form of 0.3 calls things."""

    parts: str
    has_kind: bool
    states_raised: Mapping[object, str]
    states_lowered: Mapping[object, str]
    roles_raised: Mapping[object, str]
    roles_lowered: Mapping[object, str]
    raise_part: Callable[[object, str], JsonObject]
    lower_part: Callable[[object, str], JsonObject]

    def kind(self, name: str) -> JsonObject:
        return {"kind": name} if self.has_kind else {}


# --- Parts --------------------------------------------------------------------------------------------------------


def _raise_json_part(value: object, path: str) -> JsonObject:
    part = fields_of(value, path)
    kind = part.pop("kind", None)
    if "text" in part and kind in (None, "text"):
        return part
    if "file" in part and kind in (None, "file"):
        return _raise_file(part, "bytes", "uri", path)
    if "data" in part and kind in (None, "data"):
        return _unwrap_data(part, part["data"])
    raise ShapeError(path, "must be a text, file or data part")


def _raise_proto_part(value: object, path: str) -> JsonObject:
    part = fields_of(value, path)
    if "text" in part:
        return part
    if "file" in part:
        raised = _raise_file(part, "fileWithBytes", "fileWithUri", path)
        if "raw" in raised:
            raised["raw"] = _peel_base64(raised["raw"])
        return raised
    if "data" in part:
        wrapper = dict(object_of(part["data"], f"{path}.data"))
        data = wrapper.pop("data", {})
        return _unwrap_data(wrapper | part, data)
    raise ShapeError(path, "must hold one of text, file, data")


def _raise_file(part: JsonObject, bytes_name: str, uri_name: str, path: str) -> JsonObject:
    """Unknown fields of the inner object move to the part: core has no place deeper."""
    file = fields_of(part.pop("file"), f"{path}.file")
    if file.get(bytes_name) is not None:
        raised: JsonObject = {"raw": file.pop(bytes_name)}
    elif file.get(uri_name) is not None:
        raised = {"url": file.pop(uri_name)}
    else:
        raise ShapeError(f"{path}.file", f"must hold {bytes_name} or {uri_name}")
    for legacy_name, name in (("name", "filename"), ("mimeType", "mediaType")):
        text = file.pop(legacy_name, None)
        if text:
            raised[name] = text
    return raised | file | part


def _unwrap_data(part: JsonObject, data: object) -> JsonObject:
    """The 0.3 SDK wraps what is no object as `{"value": ...}` and marks it in the metadata."""
    part["data"] = data
    metadata = part.get("metadata")
    if isinstance(metadata, dict) and metadata.get("data_part_compat") and isinstance(data, dict) and "value" in data:
        part["data"] = data["value"]
        rest = {name: value for name, value in metadata.items() if name != "data_part_compat"}
        if rest:
            part["metadata"] = rest
        else:
            del part["metadata"]
    return part


def _lower_json_part(value: object, path: str) -> JsonObject:
    part = fields_of(value, path)
    if "text" in part:
        return {"kind": "text"} | part
    if "data" in part:
        return {"kind": "data"} | _wrap_data(part)
    return {"kind": "file"} | _lower_file(part, "bytes", "uri", path)


def _lower_proto_part(value: object, path: str) -> JsonObject:
    part = fields_of(value, path)
    if "text" in part:
        return part
    if "data" in part:
        part = _wrap_data(part)
        part["data"] = {"data": part["data"]}
        return part
    lowered = _lower_file(part, "fileWithBytes", "fileWithUri", path)
    file = lowered["file"]
    if "fileWithBytes" in file:
        file["fileWithBytes"] = base64.b64encode(str(file["fileWithBytes"]).encode()).decode()
    return lowered


def _lower_file(part: JsonObject, bytes_name: str, uri_name: str, path: str) -> JsonObject:
    if "raw" in part:
        file: JsonObject = {bytes_name: part.pop("raw")}
    elif "url" in part:
        file = {uri_name: part.pop("url")}
    else:
        raise ShapeError(path, "must hold one of text, raw, url, data")
    for legacy_name, name in (("name", "filename"), ("mimeType", "mediaType")):
        text = part.pop(name, None)
        if text:
            file[legacy_name] = text
    return {"file": file} | part


def _wrap_data(part: JsonObject) -> JsonObject:
    if not isinstance(part["data"], dict):
        part["data"] = {"value": part["data"]}
        part["metadata"] = (part.get("metadata") or {}) | {"data_part_compat": True}
    return part


def _peel_base64(text: object) -> object:
    """The stock 0.3 SDK puts base64 text into a `bytes` field, so that ProtoJSON encodes it twice; others encode once.

    Twice is assumed where the first layer holds base64 text.
    """
    if not isinstance(text, str):
        return text
    try:
        inner = base64.b64decode(text, validate=True)
        base64.b64decode(inner, validate=True)
    except (binascii.Error, ValueError):
        return text
    return inner.decode("ascii")


JSON_0_3 = Legacy(
    parts="parts",
    has_kind=True,
    states_raised=_STATES_FROM_JSON,
    states_lowered=_STATES_TO_JSON,
    roles_raised={"user": "ROLE_USER", "agent": "ROLE_AGENT"},
    roles_lowered={"ROLE_USER": "user", "ROLE_AGENT": "agent", 1: "user", 2: "agent"},
    raise_part=_raise_json_part,
    lower_part=_lower_json_part,
)
PROTO_0_3 = Legacy(
    parts="content",
    has_kind=False,
    states_raised=_STATES_FROM_PROTO,
    states_lowered=_STATES_TO_PROTO,
    roles_raised=_ROLES_FROM_PROTO,
    roles_lowered=_ROLES_FROM_PROTO,
    raise_part=_raise_proto_part,
    lower_part=_lower_proto_part,
)


# --- From 0.3 -----------------------------------------------------------------------------------------------------


def _raise_parts(value: object, path: str, legacy: Legacy) -> list[JsonObject]:
    return [legacy.raise_part(part, f"{path}.{index}") for index, part in enumerate(list_of(value, path))]


def raise_message(value: object, path: str, legacy: Legacy) -> JsonObject:
    message = fields_of(value, path)
    message.pop("kind", None)
    if "role" in message:
        message["role"] = legacy.roles_raised.get(_hashable(message["role"]), "ROLE_UNSPECIFIED")
    return _rename(message, legacy.parts, "parts", lambda v: _raise_parts(v, f"{path}.{legacy.parts}", legacy))


def _raise_status(value: object, path: str, legacy: Legacy) -> JsonObject:
    status = fields_of(value, path)
    status["state"] = legacy.states_raised.get(_hashable(status.get("state")), _UNSPECIFIED)
    if not legacy.has_kind and "update" in status:
        # The proto's own name for it, which parsers take beside the JSON name.
        status["message"] = status.pop("update")
    return _rename(status, "message", "message", lambda v: raise_message(v, f"{path}.message", legacy))


def raise_artifact(value: object, path: str, legacy: Legacy) -> JsonObject:
    artifact = fields_of(value, path)
    return _rename(artifact, "parts", "parts", lambda v: _raise_parts(v, f"{path}.parts", legacy))


def raise_task(value: object, path: str, legacy: Legacy) -> JsonObject:
    task = fields_of(value, path)
    task.pop("kind", None)
    if "status" in task:
        task["status"] = _raise_status(task["status"], f"{path}.status", legacy)
    for name, convert in (("artifacts", raise_artifact), ("history", raise_message)):
        if name in task:
            items = enumerate(list_of(task[name], f"{path}.{name}"))
            task[name] = [convert(item, f"{path}.{name}.{index}", legacy) for index, item in items]
    return task


def raise_status_update(value: object, path: str, legacy: Legacy) -> JsonObject:
    update = fields_of(value, path)
    update.pop("kind", None)
    update.pop("final", None)
    if "status" in update:
        update["status"] = _raise_status(update["status"], f"{path}.status", legacy)
    return update


def raise_artifact_update(value: object, path: str, legacy: Legacy) -> JsonObject:
    update = fields_of(value, path)
    update.pop("kind", None)
    if "artifact" in update:
        update["artifact"] = raise_artifact(update["artifact"], f"{path}.artifact", legacy)
    return update


# --- To 0.3: what it demands and ProtoJSON leaves out because it is empty is filled in ------------------------------


def _lower_parts(value: object, path: str, legacy: Legacy) -> list[JsonObject]:
    return [legacy.lower_part(part, f"{path}.{index}") for index, part in enumerate(list_of(value, path))]


def lower_message(value: object, path: str, legacy: Legacy) -> JsonObject:
    message = fields_of(value, path)
    default = legacy.roles_lowered["ROLE_AGENT"]
    message["role"] = legacy.roles_lowered.get(_hashable(message.get("role")), default)
    message.setdefault("messageId", "")
    message.setdefault("parts", [])
    return legacy.kind("message") | _rename(
        message, "parts", legacy.parts, lambda v: _lower_parts(v, f"{path}.parts", legacy)
    )


def _lower_status(value: object, path: str, legacy: Legacy) -> JsonObject:
    status = fields_of(value if value is not None else {}, path)
    core = _core_state(status)
    status["state"] = legacy.states_lowered.get(core, legacy.states_lowered[_UNSPECIFIED])
    return _rename(status, "message", "message", lambda v: lower_message(v, f"{path}.message", legacy))


def _core_state(status: JsonObject) -> str:
    state = _STATES_FROM_PROTO.get(_hashable(status.get("state")), _UNSPECIFIED)
    return state if state in _STATE_NAMES else _UNSPECIFIED


def lower_artifact(value: object, path: str, legacy: Legacy) -> JsonObject:
    artifact: JsonObject = {"artifactId": "", "parts": []} | fields_of(value if value is not None else {}, path)
    artifact["parts"] = _lower_parts(artifact["parts"], f"{path}.parts", legacy)
    return artifact


def lower_task(value: object, path: str, legacy: Legacy) -> JsonObject:
    task: JsonObject = {"id": "", "contextId": "", "status": None} | fields_of(value, path)
    task["status"] = _lower_status(task["status"], f"{path}.status", legacy)
    for name, convert in (("artifacts", lower_artifact), ("history", lower_message)):
        if name in task:
            items = enumerate(list_of(task[name], f"{path}.{name}"))
            task[name] = [convert(item, f"{path}.{name}.{index}", legacy) for index, item in items]
    return legacy.kind("task") | task


def lower_status_update(value: object, path: str, legacy: Legacy) -> JsonObject:
    """`final` is true for terminal states only, as in the stock SDK."""
    update: JsonObject = {"taskId": "", "contextId": "", "status": None} | fields_of(value, path)
    status = fields_of(update["status"], f"{path}.status") if update["status"] is not None else {}
    update["final"] = _core_state(status) in _FINAL
    update["status"] = _lower_status(update["status"], f"{path}.status", legacy)
    return legacy.kind("status-update") | update


def lower_artifact_update(value: object, path: str, legacy: Legacy) -> JsonObject:
    update: JsonObject = {"taskId": "", "contextId": "", "artifact": None} | fields_of(value, path)
    update["artifact"] = lower_artifact(update["artifact"], f"{path}.artifact", legacy)
    return legacy.kind("artifact-update") | update


def _rename(fields: JsonObject, old: str, new: str, convert: Callable[[object], object]) -> JsonObject:
    """Convert one field, where there is one, and give it its other name, keeping the order of the fields."""
    if old not in fields:
        return fields
    return {
        (new if name == old else name): (convert(value) if name == old else value) for name, value in fields.items()
    }


def _hashable(value: object) -> object:
    """Enum values come as names or numbers; whatever else came is looked up in vain."""
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None
