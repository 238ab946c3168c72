"""`/v1/tasks` and what is below a task: from the wire to a use case and back."""

import re
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from meshway.edges.rest.operations import RestCall, json_response
from meshway.edges.rest.task_models import ReceiptPage, TaskListQuery, TaskPage, TaskQuery, TaskSubmissionBody
from meshway.edges.rest.task_views import receipt_view, submitted_task, task_summary, task_tree
from meshway.gateway.submit_task import TaskSubmission
from meshway.kernel.clock import parse_rfc3339_ms
from meshway.kernel.errors import InvalidRequest, wrong_field
from meshway.kernel.ids import AgentId, ContextId, TaskId
from meshway.tasks.owners import ListFilter
from meshway.tasks.values import TaskState

__all__ = ["cancel_task", "list_receipts", "list_tasks", "serve_push_jwks", "show_task", "show_tree", "submit_task"]

_STATE_PREFIX = "TASK_STATE_"
# W3C trace context, version 00; anything else is left out rather than handed on.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# What the store calls a parameter, where this API has its own name for it.
_CURSOR_FIELD = "pageToken"


async def submit_task(call: RestCall) -> Response:
    body = await call.body(TaskSubmissionBody)
    headers = call.request.headers
    traceparent = headers.get("traceparent", "")
    submission = TaskSubmission(
        agent=body.agent,
        skill=body.skill,
        text=body.text,
        message=None if isinstance(body.message, msgspec.UnsetType) else bytes(body.message),
        context_id=body.context_id,
        timeout_ms=body.timeout_ms,
        idempotency_key=_one_key(headers.get("idempotency-key"), body.idempotency_key),
        chain=headers.get("meshway-chain"),
        traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else None,
    )
    submitted = await call.services.tasks.submit.execute(call.principal, submission)
    status = HTTPStatus.ACCEPTED if submitted.is_new else HTTPStatus.OK
    location = {"Location": f"/v1/tasks/{submitted.shown.owner.task_id}"}
    return json_response(msgspec.Raw(submitted_task(submitted)), status, location)


async def list_tasks(call: RestCall) -> Response:
    asked = call.query(TaskListQuery)
    query = ListFilter(
        context_id=None if asked.context is None else ContextId(asked.context),
        state=None if asked.state is None else _state(asked.state),
        status_after_ms=None if asked.status_after is None else _moment_ms(asked.status_after),
        page_size=asked.limit,
        page_token=asked.cursor,
    )
    agent_id = None if asked.agent is None else AgentId(asked.agent)
    try:
        page = await call.services.tasks.show.find(call.principal, agent_id, query)
    except InvalidRequest as error:
        if [each.field for each in error.fields] == [_CURSOR_FIELD]:
            raise wrong_field("cursor", "use the next_cursor of the page before, unchanged") from None
        raise
    items = tuple(task_summary(owner) for owner in page.tasks)
    return json_response(TaskPage(items=items, next_cursor=page.next_page_token or None, total=page.total_size))


async def show_task(call: RestCall) -> Response:
    asked = call.query(TaskQuery)
    show = call.services.tasks.show
    shown = await show.execute(call.principal, _task(call), history_length=asked.history_length)
    return json_response(msgspec.Raw(shown.task))


async def list_receipts(call: RestCall) -> Response:
    receipts = await call.services.tasks.show.receipts(call.principal, _task(call))
    return json_response(ReceiptPage(items=tuple(receipt_view(receipt) for receipt in receipts)))


async def show_tree(call: RestCall) -> Response:
    return json_response(task_tree(await call.services.tasks.show.tree(call.principal, _task(call))))


async def cancel_task(call: RestCall) -> Response:
    shown = await call.services.tasks.cancel_any(call.principal, _task(call))
    return json_response(msgspec.Raw(shown.task))


async def serve_push_jwks(call: RestCall) -> Response:
    """The keys that push notifications are signed with; who receives some fetches them without a key of ours."""
    return json_response(msgspec.Raw(call.services.push_jwks()))


def _task(call: RestCall) -> TaskId:
    # Not checked for form: ids are the agents' own, and what is none is simply not found.
    return TaskId(call.path("task"))


def _one_key(header: str | None, member: str | None) -> str | None:
    if header is not None and member is not None and header != member:
        raise wrong_field("idempotency_key", "is not the one in the header Idempotency-Key; send one of them")
    return member if header is None else header


def _state(text: str) -> TaskState:
    word = text.upper().replace("-", "_")
    try:
        return TaskState(word if word.startswith(_STATE_PREFIX) else f"{_STATE_PREFIX}{word}")
    except ValueError:
        known = ", ".join(state.value.removeprefix(_STATE_PREFIX).lower() for state in TaskState)
        raise wrong_field("state", f"is none of {known}") from None


def _moment_ms(text: str) -> int:
    try:
        return parse_rfc3339_ms(text)
    except (ValueError, OverflowError):
        raise wrong_field("status_after", "write it as 2026-11-22T07:00:00.000Z") from None
