"""Instances of agents that take their tasks by long poll: what the WebSocket has frames for, a call each."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from meshway.edges.link.task_frames import report_outcome, task_delivery
from meshway.edges.rest.long_poll import wait_for_client
from meshway.edges.rest.operations import RestCall, json_response, no_content
from meshway.edges.rest.poll_models import (
    InstanceBody,
    TaskLeaseBody,
    TaskLeaseView,
    TaskReportsBody,
    TaskReportsView,
    TaskSettlementsBody,
    TaskSettlementsView,
)
from meshway.gateway.lease_tasks import HandedTask
from meshway.gateway.report_tasks import TaskReport, TaskSettlementItem
from meshway.gateway.serve_agent import INSTANCE_TTL_MS, ServeRequest
from meshway.kernel.errors import AgentNotFound, wrong_field
from meshway.kernel.ids import AgentId, InstanceId, parse_agent_id
from meshway.protocols.link.frames import HoldState
from meshway.registry.checks import TASK_TIMEOUT_MAX_MS
from meshway.registry.values import Agent, Instance

__all__ = ["lease_tasks", "leave_agent", "report_tasks", "settle_tasks"]

# A poll is one sign of life for as long as it lasts: it is renewed three times before it would count for nothing.
_HEARTBEAT_MS = INSTANCE_TTL_MS // 3


@dataclass(frozen=True, slots=True)
class _Server:
    """The instance that speaks, admitted and seen."""

    agent_id: AgentId
    instance_id: InstanceId

    def cancelled(self, call: RestCall) -> tuple[str, ...]:
        return call.polls.take(self.agent_id, self.instance_id)


async def lease_tasks(call: RestCall) -> Response:
    body = await call.body(TaskLeaseBody)
    server = await _joined(call, body)
    report = call.services.tasks.report
    holds = await report.show_holds(
        server.agent_id, server.instance_id, [hold.delivery_id for hold in body.holds], call.polls.told
    )
    handed = await _wait_for_tasks(call, server, body)
    return json_response(
        TaskLeaseView(
            instance=server.instance_id,
            lease_ms=report.lease_ms,
            grace_ms=report.grace_ms,
            holds=tuple(
                HoldState(delivery_id=hold.delivery_id, held=hold.is_held, source=hold.source) for hold in holds
            ),
            tasks=tuple(task_delivery(each) for each in handed),
            cancelled=server.cancelled(call),
        )
    )


async def report_tasks(call: RestCall) -> Response:
    body = await call.body(TaskReportsBody)
    server = _seen(call, body.instance)
    reports = [TaskReport(item.delivery_id, item.source, bytes(item.event)) for item in body.reports]
    outcomes = await call.services.tasks.report.report(server.agent_id, reports, told=call.polls.told)
    return json_response(
        TaskReportsView(outcomes=tuple(report_outcome(each) for each in outcomes), cancelled=server.cancelled(call))
    )


async def settle_tasks(call: RestCall) -> Response:
    body = await call.body(TaskSettlementsBody)
    server = _seen(call, body.instance)
    for number, each in enumerate(body.settlements):
        if each.delay_ms is not None and not 0 <= each.delay_ms <= TASK_TIMEOUT_MAX_MS:
            raise wrong_field(f"settlements.{number}.delay_ms", f"use 0 to {TASK_TIMEOUT_MAX_MS}")
    items = [TaskSettlementItem(each.delivery_id, each.action, each.delay_ms, each.reason) for each in body.settlements]
    outcomes = await call.services.tasks.report.settle(server.agent_id, items, told=call.polls.told)
    return json_response(TaskSettlementsView(outcomes=tuple(outcomes), cancelled=server.cancelled(call)))


async def leave_agent(call: RestCall) -> Response:
    body = await call.body(InstanceBody)
    server = _seen(call, body.instance)
    await call.services.tasks.report.release_all(server.agent_id, server.instance_id)
    await call.services.tasks.serve.leave(server.agent_id, server.instance_id)
    server.cancelled(call)
    return no_content()


def _seen(call: RestCall, instance: str) -> _Server:
    """Raises: Forbidden, InvalidRequest. What an agent that is gone says of its tasks is stale, and no error."""
    server = _Server(parse_agent_id(call.path("agent"), field="agent"), InstanceId(instance))
    serve = call.services.tasks.serve
    serve.admit(call.principal, server.agent_id)
    serve.heartbeat(server.agent_id, server.instance_id)
    return server


async def _joined(call: RestCall, body: TaskLeaseBody) -> _Server:
    """Registered where it is new here or says something new of itself; otherwise only seen. Raises: as ServeAgent."""
    agent_id, card = AgentId(call.path("agent")), body.card
    try:
        agent = await call.services.agents.show.execute(call.principal, agent_id)
    except AgentNotFound:
        agent = None
    known = None if agent is None or not agent.pull else agent.instance(body.instance)
    # What is left out stays as it is.
    labels = ({} if known is None else known.labels) if isinstance(body.labels, msgspec.UnsetType) else body.labels
    capacity = body.capacity
    if isinstance(capacity, msgspec.UnsetType):
        capacity = None if known is None else known.capacity
    request = ServeRequest(
        agent=agent_id,
        instance=body.instance,
        card=None if isinstance(card, msgspec.UnsetType) else bytes(card),
        labels=labels,
        capacity=capacity,
    )
    if agent is not None and known is not None and not _is_news(agent, known, request):
        return _seen(call, body.instance)
    return _Server(*await call.services.tasks.serve.join(call.principal, request))


def _is_news(agent: Agent, known: Instance, request: ServeRequest) -> bool:
    if (known.labels, known.capacity) != (request.labels, request.capacity):
        return True
    return request.card is not None and request.card != agent.card.original.encode()


async def _wait_for_tasks(call: RestCall, server: _Server, body: TaskLeaseBody) -> Sequence[HandedTask]:
    """None from a hub that shuts down. What was taken for a client that is gone is given back, as if never taken."""
    shutdown = call.services.status.shutdown
    if shutdown.is_set():
        return ()
    work = _lease(call, server, count=body.count, wait_ms=body.wait_ms)
    waited = await wait_for_client(work, receive=call.request.receive, shutdown=shutdown)
    if not waited.is_client_gone:
        return waited.result or ()
    for each in waited.result or ():
        await call.services.tasks.report.release(each.claim, reason="its client left before it got it")
    raise ClientDisconnect


async def _lease(call: RestCall, server: _Server, *, count: int, wait_ms: int) -> Sequence[HandedTask]:
    tasks, loop = call.services.tasks, asyncio.get_running_loop()
    ends_at = loop.time() + wait_ms / 1000
    while True:
        left_ms = max(0, int((ends_at - loop.time()) * 1000))
        handed = await tasks.lease.execute(
            server.agent_id,
            server.instance_id,
            count=count,
            wait_ms=min(left_ms, _HEARTBEAT_MS),
            told=call.polls.told,
        )
        if handed or left_ms <= _HEARTBEAT_MS:
            return handed
        tasks.serve.heartbeat(server.agent_id, server.instance_id)
