"""Inboxes of agents, their dead letters, stops and the audit log: from the wire to a use case and back."""

from http import HTTPStatus

import msgspec
from starlette.responses import Response

from meshway.edges.rest.channel_models import PageQuery
from meshway.edges.rest.channel_views import attempt_views
from meshway.edges.rest.inbox_models import (
    AuditEntryView,
    AuditPage,
    AuditQuery,
    InboxDepth,
    InboxItemView,
    InboxView,
    LostTaskPage,
    LostTaskView,
    RedriveTasksBody,
    RedriveTasksView,
    ResumedView,
    StopBody,
    StoppedView,
)
from meshway.edges.rest.operations import RestCall, json_response
from meshway.gateway.inspect_inbox import InboxEntry, LostTask
from meshway.kernel.clock import rfc3339_ms
from meshway.kernel.errors import Forbidden
from meshway.kernel.ids import AgentId
from meshway.tasks.audit import AuditEntry
from meshway.tasks.values import TaskState

__all__ = [
    "list_lost_tasks",
    "redrive_tasks",
    "resume_agent",
    "resume_all",
    "show_audit",
    "show_inbox",
    "stop_agent",
    "stop_all",
]


async def show_inbox(call: RestCall) -> Response:
    asked, inbox, agent_id = call.query(PageQuery), call.services.tasks.inbox, _agent(call)
    depth = await inbox.depth(call.principal, agent_id)
    page = await inbox.waiting(call.principal, agent_id, cursor=asked.cursor, limit=asked.limit)
    return json_response(
        InboxView(
            depth=InboxDepth(waiting=depth.waiting, held=depth.held, delayed=depth.delayed, dead=depth.dead),
            items=tuple(_item(entry) for entry in page.items),
            next_cursor=page.next_cursor,
        )
    )


async def list_lost_tasks(call: RestCall) -> Response:
    asked = call.query(PageQuery)
    page = await call.services.tasks.inbox.dead_letters(
        call.principal, _agent(call), cursor=asked.cursor, limit=asked.limit
    )
    return json_response(LostTaskPage(items=tuple(_lost(each) for each in page.items), next_cursor=page.next_cursor))


async def redrive_tasks(call: RestCall) -> Response:
    asked = await call.body_or_default(RedriveTasksBody)
    tasks = await call.services.tasks.inbox.redrive(call.principal, _agent(call), asked.ids)
    return json_response(RedriveTasksView(tasks=tuple(tasks)), HTTPStatus.ACCEPTED)


async def stop_agent(call: RestCall) -> Response:
    return await _stop(call, _agent(call))


async def stop_all(call: RestCall) -> Response:
    return await _stop(call, None)


async def resume_agent(call: RestCall) -> Response:
    return await _resume(call, _agent(call))


async def resume_all(call: RestCall) -> Response:
    return await _resume(call, None)


async def show_audit(call: RestCall) -> Response:
    if not call.principal.is_admin:
        raise Forbidden(f"Key {call.principal.id!r} may not read the audit log; that needs the scope 'admin'.")
    asked, audit = call.query(AuditQuery), call.services.audit
    read = audit.newest if asked.order == "newest" else audit.oldest
    page = await read(cursor=asked.cursor, limit=asked.limit)
    return json_response(AuditPage(items=tuple(_entry(each) for each in page.items), next_cursor=page.next_cursor))


async def _stop(call: RestCall, agent_id: AgentId | None) -> Response:
    asked = await call.body_or_default(StopBody)
    stopped = await call.services.tasks.stop.stop(call.principal, agent_id, reason=asked.reason)
    return json_response(
        StoppedView(
            agent=agent_id,
            stopped_at=rfc3339_ms(stopped.stop.at_ms),
            by=stopped.stop.by,
            reason=stopped.stop.reason,
            cancelled=stopped.cancelled,
        )
    )


async def _resume(call: RestCall, agent_id: AgentId | None) -> Response:
    was_stopped = await call.services.tasks.stop.resume(call.principal, agent_id)
    return json_response(ResumedView(agent=agent_id, was_stopped=was_stopped))


def _agent(call: RestCall) -> AgentId:
    # Not checked for form: what cannot be an id is simply not found.
    return AgentId(call.path("agent"))


def _item(entry: InboxEntry) -> InboxItemView:
    item, owner = entry.item, entry.owner
    is_worked_on = owner is not None and owner.state is TaskState.WORKING
    deadline_ms = item.deadline_ms if owner is None else owner.deadline_ms or item.deadline_ms
    return InboxItemView(
        task_id=item.task_id,
        context_id=item.context_id,
        turn=item.turn,
        # A turn is put into the inbox before anything else is written of it.
        state=(TaskState.SUBMITTED if owner is None else owner.state).value,
        created_at=rfc3339_ms(item.created_at_ms),
        expires_at=rfc3339_ms(item.expires_at_ms),
        instance=owner.instance_id if owner is not None and is_worked_on and owner.instance_id else msgspec.UNSET,
        deadline=msgspec.UNSET if deadline_ms is None else rfc3339_ms(deadline_ms),
    )


def _lost(lost: LostTask) -> LostTaskView:
    return LostTaskView(
        id=lost.id,
        task_id=lost.item.task_id,
        reason=lost.letter.reason,
        dead_at=rfc3339_ms(lost.letter.dead_at_ms),
        attempts=attempt_views(lost.letter.attempts),
        message=lost.item.message,
    )


def _entry(entry: AuditEntry) -> AuditEntryView:
    return AuditEntryView(
        at=entry.at, principal=entry.principal, action=entry.action, agent=entry.agent, details=entry.details
    )
