"""Paths of the HTTP+JSON binding, below the agent's own: reading them and building them.

`/v1/...` is 0.3; everything else is 1.0, where each path may be preceded by one segment that names a tenant.
"""

from typing import NamedTuple
from urllib.parse import quote, unquote

from meshway.kernel.operations import AgentOperation
from meshway.protocols.a2a.dialect import REST_0_3, REST_1_0, Dialect, Version

__all__ = ["RestRoute", "build_path", "match_path"]

_Op = AgentOperation
_CONFIGS = "pushNotificationConfigs"


class RestRoute(NamedTuple):
    """What a path names; `operations` by HTTP method. Ids are decoded; None where the path has none."""

    dialect: Dialect
    operations: dict[str, AgentOperation]
    tenant: str | None = None
    task_id: str | None = None
    config_id: str | None = None


_SEND = {"POST": _Op.SEND_MESSAGE}
_STREAM = {"POST": _Op.STREAM_MESSAGE}
_LIST = {"GET": _Op.LIST_TASKS}
_TASK = {"GET": _Op.GET_TASK}
_CARD = {"GET": _Op.GET_EXTENDED_CARD}
_VERBS = {
    "cancel": {"POST": _Op.CANCEL_TASK},
    # The specification's text says POST, its proto says GET: both are in use.
    "subscribe": {"POST": _Op.SUBSCRIBE_TASK, "GET": _Op.SUBSCRIBE_TASK},
}
_CONFIG_LIST = {"POST": _Op.CREATE_PUSH_CONFIG, "GET": _Op.LIST_PUSH_CONFIGS}
_CONFIG = {"GET": _Op.GET_PUSH_CONFIG, "DELETE": _Op.DELETE_PUSH_CONFIG}

_FIXED = {
    "/message:send": RestRoute(REST_1_0, _SEND),
    "/message:stream": RestRoute(REST_1_0, _STREAM),
    "/tasks": RestRoute(REST_1_0, _LIST),
    "/extendedAgentCard": RestRoute(REST_1_0, _CARD),
    "/v1/message:send": RestRoute(REST_0_3, _SEND),
    "/v1/message:stream": RestRoute(REST_0_3, _STREAM),
    "/v1/card": RestRoute(REST_0_3, _CARD),
}


def match_path(path: str) -> RestRoute | None:
    """What the path names, or None. `path` is as sent, percent-encoded, without the query."""
    fixed = _FIXED.get(path)
    if fixed is not None:
        return fixed
    if path.startswith("/v1/tasks/"):
        return _match_task(path[3:], REST_0_3, None)
    if path.startswith("/v1/"):
        return None
    if path.startswith("/tasks/"):
        return _match_task(path, REST_1_0, None)
    return _match_tenant(path)


def _match_tenant(path: str) -> RestRoute | None:
    tenant, slash, rest = path[1:].partition("/")
    if not path.startswith("/") or not tenant or not slash:
        return None
    rest = "/" + rest
    name = unquote(tenant)
    fixed = _FIXED.get(rest)
    if fixed is not None and fixed.dialect is REST_1_0:
        return fixed._replace(tenant=name)
    return _match_task(rest, REST_1_0, name) if rest.startswith("/tasks/") else None


def _match_task(path: str, dialect: Dialect, tenant: str | None) -> RestRoute | None:
    """`/tasks/{id}`, `/tasks/{id}:verb`, `/tasks/{id}/pushNotificationConfigs[/{config}]`."""
    segments = path.split("/")[2:]
    if not all(segments):
        return None
    match segments:
        case [task]:
            name, colon, verb = task.rpartition(":")
            if colon and name and verb in _VERBS:
                return RestRoute(dialect, _VERBS[verb], tenant, unquote(name))
            return RestRoute(dialect, _TASK, tenant, unquote(task))
        case [task, "pushNotificationConfigs"]:
            return RestRoute(dialect, _CONFIG_LIST, tenant, unquote(task))
        case [task, "pushNotificationConfigs", config]:
            return RestRoute(dialect, _CONFIG, tenant, unquote(task), unquote(config))
        case _:
            return None


def build_path(operation: AgentOperation, version: Version, *, tenant: str | None, task_id: str, config_id: str) -> str:
    """The path of an operation, to be appended to the interface's URL (without its trailing slash)."""
    task = f"/tasks/{quote(task_id, safe='')}"
    path = {
        _Op.SEND_MESSAGE: "/message:send",
        _Op.STREAM_MESSAGE: "/message:stream",
        _Op.GET_TASK: task,
        _Op.LIST_TASKS: "/tasks",
        _Op.CANCEL_TASK: f"{task}:cancel",
        _Op.SUBSCRIBE_TASK: f"{task}:subscribe",
        _Op.CREATE_PUSH_CONFIG: f"{task}/{_CONFIGS}",
        _Op.LIST_PUSH_CONFIGS: f"{task}/{_CONFIGS}",
        _Op.GET_PUSH_CONFIG: f"{task}/{_CONFIGS}/{quote(config_id, safe='')}",
        _Op.DELETE_PUSH_CONFIG: f"{task}/{_CONFIGS}/{quote(config_id, safe='')}",
        _Op.GET_EXTENDED_CARD: "/extendedAgentCard",
    }[operation]
    if version is Version.V0_3:
        return "/v1/card" if operation is _Op.GET_EXTENDED_CARD else "/v1" + path
    return f"/{quote(tenant, safe='')}{path}" if tenant else path
