"""The shape of request params: the structs the hub reads them with, and what to tell a caller who got them wrong."""

from typing import Any

import msgspec

from meshway.kernel.errors import FieldError
from meshway.kernel.operations import AgentOperation
from meshway.protocols.a2a.dialect import JSONRPC_0_3, REST_0_3, Dialect

__all__ = ["MessageHead", "SendParams", "TaskParams", "find_faults"]

# ProtoJSON takes enum numbers as well as names.
_ROLES_PROTO = frozenset({"ROLE_USER", "ROLE_AGENT", 1, 2})
_ROLES_0_3 = frozenset({"user", "agent"})


class MessageHead(msgspec.Struct):
    """Who and what of a message; `content` is what the 0.3 proto calls the parts."""

    messageId: str | None = None  # noqa: N815 - the wire's own name, here and below
    role: str | int | None = None
    parts: list[msgspec.Raw] | None = None
    taskId: str | None = None  # noqa: N815
    contextId: str | None = None  # noqa: N815
    content: list[msgspec.Raw] | None = None
    message_id: str | None = None
    task_id: str | None = None
    context_id: str | None = None

    def is_whole(self, dialect: Dialect) -> bool:
        """Whether the fields that A2A demands of a message are there."""
        roles = _ROLES_0_3 if dialect is JSONRPC_0_3 else _ROLES_PROTO
        if not (self.content if dialect is REST_0_3 else self.parts):
            return False
        return self.role in roles and bool(self.messageId or self.message_id)


class _Configuration(msgspec.Struct):
    returnImmediately: bool | None = None  # noqa: N815
    return_immediately: bool | None = None
    blocking: bool | None = None


class SendParams(msgspec.Struct):
    """Params of the two sending operations; `request` is the 0.3 proto's own name for the message."""

    message: MessageHead | None = None
    configuration: _Configuration | None = None
    tenant: str | None = None
    request: MessageHead | None = None


class _ConfigHead(msgspec.Struct):
    id: str | None = None


class TaskParams(msgspec.Struct):
    """Params of all other operations, in every spelling."""

    id: str | None = None
    taskId: str | None = None  # noqa: N815
    tenant: str | None = None
    pushNotificationConfigId: str | None = None  # noqa: N815
    pushNotificationConfig: _ConfigHead | None = None  # noqa: N815
    task_id: str | None = None
    push_notification_config_id: str | None = None
    push_notification_config: _ConfigHead | None = None
    parent: str | None = None
    name: str | None = None
    configId: str | None = None  # noqa: N815
    config_id: str | None = None


def find_faults(params: bytes, operation: AgentOperation, dialect: Dialect) -> list[FieldError]:
    """Everything wrong with params that are valid JSON; never empty. Paths are the caller's own field names."""
    try:
        value: Any = msgspec.json.decode(params) if params else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [FieldError("params", "must be an object in valid JSON")]
    if not isinstance(value, dict):
        return [FieldError("params", "is required and must be an object")]
    if operation in (AgentOperation.SEND_MESSAGE, AgentOperation.STREAM_MESSAGE):
        faults = _send_faults(value, dialect)
    else:
        faults = [
            FieldError(name, "must be a string")
            for name in TaskParams.__struct_fields__
            if name not in ("pushNotificationConfig", "push_notification_config") and not _is_text(value.get(name))
        ]
    return faults or [FieldError("params", "do not have the shape this operation takes")]


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _send_faults(value: dict[str, Any], dialect: Dialect) -> list[FieldError]:
    name = "request" if dialect is REST_0_3 and "request" in value else "message"
    message = value.get(name)
    if not isinstance(message, dict):
        return [FieldError(name, "is required and must be an object")]
    faults: list[FieldError] = []
    message_id = message.get("messageId", message.get("message_id"))
    if not isinstance(message_id, str) or not message_id:
        faults.append(FieldError(f"{name}.messageId", "is required and must be a string"))
    role = message.get("role")
    roles = _ROLES_0_3 if dialect is JSONRPC_0_3 else _ROLES_PROTO
    if not isinstance(role, str | int) or role not in roles:
        named = " or ".join(sorted(r for r in roles if isinstance(r, str)))
        faults.append(FieldError(f"{name}.role", f"is required and must be {named}"))
    parts_name = "content" if dialect is REST_0_3 else "parts"
    parts = message.get(parts_name)
    if not isinstance(parts, list) or not parts:
        faults.append(FieldError(f"{name}.{parts_name}", "is required and must hold at least one part"))
    faults.extend(
        FieldError(f"{name}.{field}", "must be a string")
        for field in ("taskId", "contextId", "task_id", "context_id")
        if not _is_text(message.get(field))
    )
    if not _is_text(value.get("tenant")):
        faults.append(FieldError("tenant", "must be a string"))
    faults.extend(_configuration_faults(value.get("configuration")))
    return faults


def _configuration_faults(value: object) -> list[FieldError]:
    if value is None:
        return []
    if not isinstance(value, dict):
        return [FieldError("configuration", "must be an object")]
    return [
        FieldError(f"configuration.{name}", "must be true or false")
        for name in _Configuration.__struct_fields__
        if not isinstance(value.get(name), bool | None)
    ]
