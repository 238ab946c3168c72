"""ListTasks, which the hub answers itself from its owner records."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from meshway.kernel.clock import parse_rfc3339_ms, rfc3339_ms
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.protocols import jsonrpc
from meshway.protocols.a2a.dialect import Binding
from meshway.protocols.a2a.requests import A2ARequest
from meshway.tasks.values import TaskOwner, TaskState

__all__ = ["PAGE_SIZE_DEFAULT", "PAGE_SIZE_MAX", "ListQuery", "encode_task_list", "read_list_query"]

# Both from the specification (1.0, section 3.1.4).
PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 100

# What an enum number of ProtoJSON means.
_STATE_NUMBERS = (
    TaskState.UNSPECIFIED,
    TaskState.SUBMITTED,
    TaskState.WORKING,
    TaskState.COMPLETED,
    TaskState.FAILED,
    TaskState.CANCELED,
    TaskState.INPUT_REQUIRED,
    TaskState.REJECTED,
    TaskState.AUTH_REQUIRED,
)
_SNAKE = {
    "context_id": "contextId",
    "page_size": "pageSize",
    "page_token": "pageToken",
    "history_length": "historyLength",
    "status_timestamp_after": "statusTimestampAfter",
    "include_artifacts": "includeArtifacts",
}


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which tasks, and how many at once. None where the client did not say."""

    context_id: str | None = None
    status: TaskState | None = None
    page_size: int = PAGE_SIZE_DEFAULT
    page_token: str | None = None
    history_length: int | None = None
    status_timestamp_after_ms: int | None = None
    include_artifacts: bool = False


def read_list_query(request: A2ARequest) -> ListQuery:
    """Params of a ListTasks request of either binding. Raises: InvalidRequest with every wrong field."""
    faults: list[FieldError] = []
    fields = _fields(request)
    query = ListQuery(
        context_id=_text(fields, "contextId", faults),
        status=_state(fields, faults),
        page_size=_integer(fields, "pageSize", 1, PAGE_SIZE_MAX, faults) or PAGE_SIZE_DEFAULT,
        page_token=_text(fields, "pageToken", faults),
        history_length=_integer(fields, "historyLength", 0, 2**31 - 1, faults),
        status_timestamp_after_ms=_moment(fields, faults),
        include_artifacts=_boolean(fields, "includeArtifacts", faults),
    )
    if faults:
        raise InvalidRequest(f"invalid params: {faults[0].field} {faults[0].message}", fields=faults)
    return query


def encode_task_list(
    request: A2ARequest,
    tasks: Sequence[TaskOwner],
    *,
    next_page_token: str | None,
    page_size: int,
    total_size: int,
    documents: Sequence[bytes | None] = (),
) -> bytes:
    """The whole answer in the client's dialect; `total_size` counts all matches, `page_size` is the size in force.

    `documents`: the tasks themselves, A2A 1.0, in the same order; where there is none, its record says what is known.
    """
    whole = documents or [None] * len(tasks)
    result = msgspec.json.encode(
        {
            "tasks": [
                _task(task) if document is None else msgspec.Raw(document)
                for task, document in zip(tasks, whole, strict=True)
            ],
            "nextPageToken": next_page_token or "",
            "pageSize": page_size,
            "totalSize": total_size,
        }
    )
    if request.dialect.binding is Binding.HTTP_JSON:
        return result
    return jsonrpc.result_body(request.request_id, result)


def _task(task: TaskOwner) -> dict[str, Any]:
    status = {"state": task.state.value, "timestamp": rfc3339_ms(task.status_at_ms)}
    if task.context_id is None:
        return {"id": task.task_id, "status": status}
    return {"id": task.task_id, "contextId": task.context_id, "status": status}


def _fields(request: A2ARequest) -> dict[str, Any]:
    """Params by their camelCase names; of a repeated query parameter the last one counts."""
    fields: Any = dict(request.query)
    if request.dialect.binding is Binding.JSONRPC and request.params:
        try:
            fields = msgspec.json.decode(request.params)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            fault = FieldError("params", "must be an object")
            raise InvalidRequest("invalid params: params must be an object", fields=[fault])
    return {_SNAKE.get(name, name): value for name, value in fields.items() if value is not None and value != ""}


def _text(fields: dict[str, Any], name: str, faults: list[FieldError]) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    faults.append(FieldError(name, "must be a string"))
    return None


def _integer(fields: dict[str, Any], name: str, low: int, high: int, faults: list[FieldError]) -> int | None:
    """A number, or one in a string: queries have nothing else, and ProtoJSON allows it."""
    value = fields.get(name)
    if value is None:
        return None
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif (
        isinstance(value, str)
        and len(value) <= 12
        and value.removeprefix("-").isascii()
        and value.lstrip("-").isdigit()
    ):
        try:
            number = int(value)
        except ValueError:
            number = None
    if number is None or not low <= number <= high:
        faults.append(FieldError(name, f"must be an integer from {low} to {high}"))
        return None
    return number


def _boolean(fields: dict[str, Any], name: str, faults: list[FieldError]) -> bool:
    value = fields.get(name, False)
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    faults.append(FieldError(name, "must be true or false"))
    return False


def _state(fields: dict[str, Any], faults: list[FieldError]) -> TaskState | None:
    """UNSPECIFIED is the default of the proto and filters nothing."""
    value = fields.get("status")
    if value is None:
        return None
    state: TaskState | None = None
    if isinstance(value, str):
        state = next((known for known in TaskState if known.value == value), None)
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(_STATE_NUMBERS):
        state = _STATE_NUMBERS[value]
    if state is None:
        named = ", ".join(known.value for known in TaskState)
        faults.append(FieldError("status", f"must be one of {named}"))
    return None if state is TaskState.UNSPECIFIED else state


def _moment(fields: dict[str, Any], faults: list[FieldError]) -> int | None:
    value = fields.get("statusTimestampAfter")
    if value is None:
        return None
    try:
        return parse_rfc3339_ms(value)
    except (ValueError, TypeError, OverflowError):
        faults.append(FieldError("statusTimestampAfter", "must be a time like 2026-11-22T07:00:00.000Z"))
        return None
