"""Params and results of each operation, between the three JSON shapes of A2A. Decoded JSON in, decoded JSON out.

The shapes: core (1.0, on both bindings), 0.3 on JSON-RPC, 0.3 on HTTP+JSON. Core params are those of JSON-RPC 1.0, with
all ids inside; the bindings take them apart.
"""

from collections.abc import Callable

from meshway.kernel.operations import AgentOperation
from meshway.protocols.a2a.card_versions import lower_card, raise_card
from meshway.protocols.a2a.dialect import JSONRPC_0_3, REST_0_3, Dialect
from meshway.protocols.a2a.shapes import (
    JSON_0_3,
    PROTO_0_3,
    Json,
    JsonObject,
    Legacy,
    ShapeError,
    fields_of,
    list_of,
    lower_artifact_update,
    lower_message,
    lower_status_update,
    lower_task,
    object_of,
    raise_artifact_update,
    raise_message,
    raise_status_update,
    raise_task,
)

__all__ = ["legacy_of", "lower_event", "lower_params", "lower_result", "raise_event", "raise_params", "raise_result"]

_Op = AgentOperation
_Convert = Callable[[object, str, Legacy], JsonObject]


def legacy_of(dialect: Dialect) -> Legacy | None:
    """The 0.3 form the dialect uses; None for 1.0."""
    if dialect == JSONRPC_0_3:
        return JSON_0_3
    return PROTO_0_3 if dialect == REST_0_3 else None


# --- Params -------------------------------------------------------------------------------------------------------


def raise_params(operation: AgentOperation, params: JsonObject, legacy: Legacy, task_id: str | None) -> JsonObject:
    """Core params of 0.3 params. `task_id` is what a REST path named. Raises: ShapeError."""
    fields = fields_of(params, "params")
    match operation:
        case _Op.SEND_MESSAGE | _Op.STREAM_MESSAGE:
            return _raise_send(fields, legacy)
        case _Op.GET_TASK:
            # 0 meant "all" in 0.3, and means "none" in 1.0.
            if fields.get("historyLength") == 0:
                del fields["historyLength"]
            return fields
        case _Op.CREATE_PUSH_CONFIG:
            return _raise_push_config(fields, legacy, task_id)
        case _Op.GET_PUSH_CONFIG | _Op.DELETE_PUSH_CONFIG:
            if legacy is JSON_0_3:
                fields["taskId"] = fields.pop("id", "")
                # The stock SDK names a task's only config after the task.
                fields["id"] = fields.pop("pushNotificationConfigId", None) or fields["taskId"]
            return fields
        case _Op.LIST_PUSH_CONFIGS:
            if legacy is JSON_0_3:
                fields["taskId"] = fields.pop("id", "")
            return fields
        case _:
            return fields


def lower_params(operation: AgentOperation, params: JsonObject, legacy: Legacy) -> JsonObject:
    """The 0.3 params of core params. Raises: ShapeError."""
    fields = fields_of(params, "params")
    match operation:
        case _Op.SEND_MESSAGE | _Op.STREAM_MESSAGE:
            return _lower_send(fields, legacy)
        case _Op.CREATE_PUSH_CONFIG:
            return _lower_push_config(fields, legacy, for_request=True)
        case _Op.GET_PUSH_CONFIG | _Op.DELETE_PUSH_CONFIG if legacy is JSON_0_3:
            fields["pushNotificationConfigId"] = fields.pop("id", "")
            fields["id"] = fields.pop("taskId", "")
            return fields
        case _Op.LIST_PUSH_CONFIGS if legacy is JSON_0_3:
            fields["id"] = fields.pop("taskId", "")
            return fields
        case _:
            return fields


def _raise_send(fields: JsonObject, legacy: Legacy) -> JsonObject:
    if legacy is PROTO_0_3 and "request" in fields:
        # The proto's own name for it, which the stock client sends; the JSON name is `message`.
        fields["message"] = fields.pop("request")
    fields = {"message": raise_message(fields.pop("message", None), "params.message", legacy)} | fields
    if "configuration" not in fields:
        return fields
    configuration = fields_of(fields["configuration"], "params.configuration")
    if configuration.get("historyLength") == 0:
        del configuration["historyLength"]
    push_name = "pushNotificationConfig" if legacy is JSON_0_3 else "pushNotification"
    if push_name in configuration:
        push = _raise_bare_config(configuration.pop(push_name), f"params.configuration.{push_name}")
        configuration["taskPushNotificationConfig"] = push
    if legacy is PROTO_0_3:
        # ProtoJSON leaves out what is false, and the stock client sends a configuration always.
        configuration.setdefault("blocking", False)
    if "blocking" in configuration:
        configuration["returnImmediately"] = not configuration.pop("blocking")
    fields["configuration"] = configuration
    return fields


def _lower_send(fields: JsonObject, legacy: Legacy) -> JsonObject:
    fields = {"message": lower_message(fields.pop("message", None), "params.message", legacy)} | fields
    # Always said: the default of 1.0 is to wait, agents of 0.3 disagree about theirs.
    configuration = fields_of(fields.get("configuration") or {}, "params.configuration")
    configuration["blocking"] = not configuration.pop("returnImmediately", False)
    push = configuration.pop("taskPushNotificationConfig", None)
    if push is not None:
        push_name = "pushNotificationConfig" if legacy is JSON_0_3 else "pushNotification"
        configuration[push_name] = _lower_bare_config(push, "params.configuration.taskPushNotificationConfig")
    fields["configuration"] = configuration
    return fields


# --- Push notification configs --------------------------------------------------------------------------------------


def _raise_bare_config(value: object, path: str) -> JsonObject:
    config = fields_of(value, path)
    if "authentication" in config:
        auth = fields_of(config["authentication"], f"{path}.authentication")
        schemes = list_of(auth.pop("schemes", None), f"{path}.authentication.schemes")
        if schemes and "scheme" not in auth:
            auth["scheme"] = schemes[0]
        if len(schemes) > 1:
            # Core has one scheme; the others stay beside it as an unknown field.
            auth["schemes"] = schemes
        config["authentication"] = auth
    return config


def _lower_bare_config(value: object, path: str) -> JsonObject:
    config = fields_of(value, path)
    config.setdefault("url", "")
    if "authentication" in config:
        auth = fields_of(config["authentication"], f"{path}.authentication")
        scheme = auth.pop("scheme", None)
        auth.setdefault("schemes", [scheme] if scheme else [])
        config["authentication"] = auth
    return config


def _raise_push_config(fields: JsonObject, legacy: Legacy, task_id: str | None = None) -> JsonObject:
    """Flat, from `{taskId, pushNotificationConfig}` or, in the proto, `{parent, configId, config: {name, ...}}`."""
    path = "pushNotificationConfig"
    if legacy is PROTO_0_3:
        config_id = fields.pop("configId", None)
        parent = fields.pop("parent", None)
        if "config" in fields:
            fields = fields_of(fields.pop("config"), "config") | fields
        name = fields.pop("name", None) or (f"{parent}/pushNotificationConfigs/{config_id or ''}" if parent else "")
        named_task, named_config = _split_name(name)
        config = _raise_bare_config(fields.pop(path, {}), path)
        fields["taskId"] = task_id or named_task
        config_id = config.get("id") or config_id or named_config
        return fields | config | ({"id": config_id} if config_id else {})
    return fields | _raise_bare_config(fields.pop(path, {}), path)


def _split_name(name: object) -> tuple[str, str]:
    """Task and config of `tasks/{task}/pushNotificationConfigs/{config}`."""
    match str(name).split("/"):
        case ["tasks", task, "pushNotificationConfigs", config]:
            return task, config
        case ["tasks", task]:
            return task, ""
        case _:
            return "", ""


_BARE_FIELDS = ("id", "url", "token", "authentication")


def _lower_push_config(fields: JsonObject, legacy: Legacy, *, for_request: bool) -> JsonObject:
    """The nested form; the stock SDK reads an empty config id where there is none."""
    inner = {name: fields.pop(name) for name in _BARE_FIELDS if name in fields}
    config = _lower_bare_config(inner, "pushNotificationConfig")
    if legacy is JSON_0_3:
        fields.setdefault("taskId", "")
        return fields | {"pushNotificationConfig": config}
    task_id = fields.pop("taskId", "")
    config_id = config.get("id") or ""
    named: JsonObject = {
        "name": f"tasks/{task_id}/pushNotificationConfigs/{config_id}",
        "pushNotificationConfig": config,
    }
    if not for_request:
        return named | fields
    return {"parent": f"tasks/{task_id}", "configId": config_id, "config": named} | fields


# --- Results --------------------------------------------------------------------------------------------------------


def raise_result(operation: AgentOperation, result: Json, legacy: Legacy) -> Json:
    """Core result of a 0.3 result. Raises: ShapeError."""
    match operation:
        case _Op.SEND_MESSAGE | _Op.STREAM_MESSAGE | _Op.SUBSCRIBE_TASK:
            return raise_event(result, legacy)
        case _Op.GET_TASK | _Op.CANCEL_TASK:
            return raise_task(result, "result", legacy)
        case _Op.CREATE_PUSH_CONFIG | _Op.GET_PUSH_CONFIG:
            return _raise_push_config(fields_of(result, "result"), legacy)
        case _Op.LIST_PUSH_CONFIGS:
            fields = {"configs": result} if isinstance(result, list) else fields_of(result, "result")
            configs = list_of(fields.get("configs"), "result.configs")
            fields["configs"] = [_raise_push_config(fields_of(config, "result.configs"), legacy) for config in configs]
            return fields
        case _Op.GET_EXTENDED_CARD:
            return raise_card(object_of(result, "result"))
        case _:
            return result


def lower_result(operation: AgentOperation, result: Json, legacy: Legacy) -> Json:
    """The 0.3 result of a core result. Raises: ShapeError."""
    match operation:
        case _Op.SEND_MESSAGE | _Op.STREAM_MESSAGE | _Op.SUBSCRIBE_TASK:
            return lower_event(result, legacy)
        case _Op.GET_TASK | _Op.CANCEL_TASK:
            return lower_task(result, "result", legacy)
        case _Op.CREATE_PUSH_CONFIG | _Op.GET_PUSH_CONFIG:
            return _lower_push_config(fields_of(result, "result"), legacy, for_request=False)
        case _Op.LIST_PUSH_CONFIGS:
            fields = fields_of(result, "result")
            configs = list_of(fields.get("configs"), "result.configs")
            lowered = [
                _lower_push_config(fields_of(config, "result.configs"), legacy, for_request=False) for config in configs
            ]
            return lowered if legacy is JSON_0_3 else fields | {"configs": lowered}
        case _Op.GET_EXTENDED_CARD:
            return lower_card(object_of(result, "result"))
        case _:
            return result


# Name in core and ProtoJSON, the 0.3 proto's own name, kind in 0.3 JSON, and the two conversions.
_EVENTS: tuple[tuple[str, str, str, _Convert, _Convert], ...] = (
    ("task", "task", "task", raise_task, lower_task),
    ("message", "msg", "message", raise_message, lower_message),
    ("statusUpdate", "statusUpdate", "status-update", raise_status_update, lower_status_update),
    ("artifactUpdate", "artifactUpdate", "artifact-update", raise_artifact_update, lower_artifact_update),
)


def raise_event(value: object, legacy: Legacy) -> JsonObject:
    """A core StreamResponse (or SendMessageResponse) of a 0.3 one. Raises: ShapeError."""
    event = fields_of(value, "result")
    if legacy is JSON_0_3:
        kind = event.get("kind") or _guess_kind(event)
        for core_name, _, kind_name, raise_, _ in _EVENTS:
            if kind == kind_name:
                return {core_name: raise_(event, "result", legacy)}
        raise ShapeError("result.kind", "must be task, message, status-update or artifact-update")
    for core_name, proto_name, _, raise_, _ in _EVENTS:
        name = core_name if core_name in event else proto_name
        if name in event:
            payload = raise_(event.pop(name), f"result.{name}", legacy)
            return {core_name: payload} | event
    raise ShapeError("result", "must hold one of task, message, statusUpdate, artifactUpdate")


def lower_event(value: object, legacy: Legacy) -> JsonObject:
    """A 0.3 stream event (or answer to a message) of a core one. Raises: ShapeError."""
    event = fields_of(value, "result")
    for core_name, _, _, _, lower in _EVENTS:
        if core_name in event:
            payload = lower(event.pop(core_name), f"result.{core_name}", legacy)
            # 0.3 on JSON-RPC has no wrapper: what stood beside the payload moves into it.
            return event | payload if legacy is JSON_0_3 else {core_name: payload} | event
    raise ShapeError("result", "must hold one of task, message, statusUpdate, artifactUpdate")


def _guess_kind(event: JsonObject) -> str:
    """Agents that leave `kind` out are understood by what they send."""
    if "artifact" in event:
        return "artifact-update"
    if "status" in event:
        return "status-update" if "taskId" in event and "id" not in event else "task"
    return "message" if "parts" in event else ""
