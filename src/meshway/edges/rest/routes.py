"""The route table of the control plane. Order matters: `/v1/agents/watch` stands before `/v1/agents/{agent}`."""

from collections.abc import Sequence

from meshway.edges.rest import agents, health, keys, pages, watch
from meshway.edges.rest.channel_routes import channel_operations
from meshway.edges.rest.inbox_routes import inbox_operations
from meshway.edges.rest.mesh import mesh_operations
from meshway.edges.rest.models import (
    AgentListQuery,
    AgentPage,
    AgentPatchBody,
    AgentRegistration,
    AgentView,
    HeartbeatBody,
    InstanceAddition,
    InstancePage,
    InstancePatchBody,
    InstanceView,
    KeyCreated,
    KeyCreation,
    KeyPage,
    KeyView,
)
from meshway.edges.rest.operations import Access, Answers, Operation, OperationHandler
from meshway.edges.rest.push_routes import push_operations
from meshway.edges.rest.task_routes import task_operations

__all__ = ["route_table"]

_LOCATION = {"Location": "Where it is now."}
# What reading an agent's card at its URL can end with.
_CARD_PROBLEMS = ("egress_denied", "upstream_unreachable", "upstream_invalid", "upstream_broken", "deadline_exceeded")
_ONE_AGENT = ("agent_not_found",)


def route_table(serve_openapi: OperationHandler) -> Sequence[Operation]:
    """Every operation, in the order in which paths are tried."""
    tasks = (*task_operations(), *inbox_operations(), *push_operations())
    return (
        *_AGENTS,
        *_INSTANCES,
        *tasks,
        *channel_operations(),
        *_KEYS,
        *mesh_operations(),
        *_documents(serve_openapi),
        *_OPERATIONS,
    )


_AGENTS = (
    Operation(
        method="POST",
        path="/v1/agents",
        id="registerAgent",
        tag="agents",
        summary="Register an agent, or replace it",
        description=(
            "201 for a new agent, 200 when one of that id was replaced; `registered_at` stays. Needs a key with "
            "`serve:<pattern>` for the id, or `admin`; replacing needs `admin` or the key that registered it."
        ),
        handler=agents.register_agent,
        body=AgentRegistration,
        answers=Answers({200: AgentView, 201: AgentView}, headers=_LOCATION),
        problems=(*_CARD_PROBLEMS, "capacity_reached"),
    ),
    Operation(
        method="GET",
        path="/v1/agents",
        id="listAgents",
        tag="agents",
        summary="Find agents",
        description="Ordered by id, or best answer first where `q` is given. Paging repeats nothing.",
        handler=agents.list_agents,
        query=AgentListQuery,
        answers=Answers({200: AgentPage}),
    ),
    Operation(
        method="GET",
        path="/v1/agents/watch",
        id="watchAgents",
        tag="agents",
        summary="Watch the registry change",
        description=(
            "Server-sent events: `changed` with the agent's present value, `removed` with its id, and `reset` when "
            "what you know is void and every present agent follows. `Last-Event-ID` resumes after an event."
        ),
        handler=watch.watch_agents,
        headers={"Last-Event-ID": "Go on after this event."},
        answers=Answers({200: None}, media_type="text/event-stream"),
        problems=("too_many_in_flight",),
        is_stream=True,
    ),
    Operation(
        method="GET",
        path="/v1/agents/{agent}",
        id="showAgent",
        tag="agents",
        summary="Show an agent",
        handler=agents.show_agent,
        answers=Answers({200: AgentView}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="PATCH",
        path="/v1/agents/{agent}",
        id="updateAgent",
        tag="agents",
        summary="Change an agent",
        description="`labels`, `capacity` and `weight` go to every instance; `url` and `card` are for agents with one.",
        handler=agents.update_agent,
        body=AgentPatchBody,
        answers=Answers({200: AgentView}),
        problems=(*_ONE_AGENT, *_CARD_PROBLEMS),
    ),
    Operation(
        method="DELETE",
        path="/v1/agents/{agent}",
        id="removeAgent",
        tag="agents",
        summary="Forget an agent and its instances",
        handler=agents.remove_agent,
        answers=Answers({204: None}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="POST",
        path="/v1/agents/{agent}/heartbeat",
        id="heartbeat",
        tag="agents",
        summary="Say that an instance is alive",
        description="The first heartbeat gives the instance a lease; from then on silence makes it `offline`.",
        handler=agents.heartbeat,
        body=HeartbeatBody,
        is_body_required=False,
        answers=Answers({200: InstanceView}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="POST",
        path="/v1/agents/{agent}/drain",
        id="drainAgent",
        tag="agents",
        summary="Send an agent no new calls",
        description="What is under way ends, follow-ups of its tasks still arrive. Survives restarts of the hub.",
        handler=agents.drain_agent,
        answers=Answers({200: AgentView}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="DELETE",
        path="/v1/agents/{agent}/drain",
        id="resumeAgent",
        tag="agents",
        summary="End a drain",
        handler=agents.resume_agent,
        answers=Answers({200: AgentView}),
        problems=_ONE_AGENT,
    ),
)

_INSTANCES = (
    Operation(
        method="GET",
        path="/v1/agents/{agent}/instances",
        id="listInstances",
        tag="instances",
        summary="List an agent's instances",
        handler=agents.list_instances,
        answers=Answers({200: InstancePage}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="POST",
        path="/v1/agents/{agent}/instances",
        id="addInstance",
        tag="instances",
        summary="Add an instance, or replace it",
        handler=agents.add_instance,
        body=InstanceAddition,
        answers=Answers({201: InstanceView}, headers=_LOCATION),
        problems=(*_ONE_AGENT, *_CARD_PROBLEMS, "capacity_reached"),
    ),
    Operation(
        method="GET",
        path="/v1/agents/{agent}/instances/{instance}",
        id="showInstance",
        tag="instances",
        summary="Show an instance",
        handler=agents.show_instance,
        answers=Answers({200: InstanceView}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="PATCH",
        path="/v1/agents/{agent}/instances/{instance}",
        id="updateInstance",
        tag="instances",
        summary="Change an instance",
        handler=agents.update_instance,
        body=InstancePatchBody,
        answers=Answers({200: InstanceView}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="DELETE",
        path="/v1/agents/{agent}/instances/{instance}",
        id="removeInstance",
        tag="instances",
        summary="Forget an instance",
        description="The last instance cannot be removed (`conflict`): remove or drain the agent instead.",
        handler=agents.remove_instance,
        answers=Answers({204: None}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="POST",
        path="/v1/agents/{agent}/instances/{instance}/drain",
        id="drainInstance",
        tag="instances",
        summary="Send an instance no new calls",
        handler=agents.drain_instance,
        answers=Answers({200: AgentView}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="DELETE",
        path="/v1/agents/{agent}/instances/{instance}/drain",
        id="resumeInstance",
        tag="instances",
        summary="End an instance's drain",
        handler=agents.resume_instance,
        answers=Answers({200: AgentView}),
        problems=_ONE_AGENT,
    ),
)

_KEYS = (
    Operation(
        method="POST",
        path="/v1/keys",
        id="createKey",
        tag="keys",
        summary="Create a key",
        description="Needs `admin`. The answer is the only time the key is shown. From the first key on, the hub asks "
        "everybody for one.",
        handler=keys.create_key,
        body=KeyCreation,
        answers=Answers({201: KeyCreated}, headers=_LOCATION),
        problems=("capacity_reached",),
    ),
    Operation(
        method="GET",
        path="/v1/keys",
        id="listKeys",
        tag="keys",
        summary="List all keys, without their secrets",
        handler=keys.list_keys,
        answers=Answers({200: KeyPage}),
    ),
    Operation(
        method="DELETE",
        path="/v1/keys/{key}",
        id="revokeKey",
        tag="keys",
        summary="Revoke a key",
        description="Effective at once. The key stays in the list, with the time it was revoked.",
        handler=keys.revoke_key,
        answers=Answers({200: KeyView}),
        problems=("key_not_found",),
    ),
)


def _documents(serve_openapi: OperationHandler) -> tuple[Operation, ...]:
    return (
        Operation(
            method="GET",
            path="/v1/openapi.json",
            id="openapi",
            tag="operations",
            summary="This document",
            handler=serve_openapi,
            answers=Answers({200: None}),
            access=Access.OPEN,
        ),
        Operation(
            method="GET",
            path="/v1/asyncapi.json",
            id="asyncapi",
            tag="operations",
            summary="The AsyncAPI document of the WebSocket at /v1/ws",
            handler=pages.serve_asyncapi,
            answers=Answers({200: None}),
            access=Access.OPEN,
        ),
    )


_OPERATIONS = (
    Operation(
        method="GET",
        path="/healthz",
        id="health",
        tag="operations",
        summary="Is the process alive?",
        handler=health.serve_health,
        answers=Answers({200: health.HealthView}),
        access=Access.OPEN,
    ),
    Operation(
        method="GET",
        path="/readyz",
        id="readiness",
        tag="operations",
        summary="Are calls served?",
        handler=health.serve_readiness,
        answers=Answers({200: health.ReadinessView, 503: health.ReadinessView}),
        access=Access.OPEN,
    ),
    Operation(
        method="GET",
        path="/metrics",
        id="metrics",
        tag="operations",
        summary="Metrics for Prometheus",
        description="Needs any valid key where keys are asked for.",
        handler=pages.serve_metrics,
        answers=Answers({200: None}, media_type="text/plain"),
    ),
    Operation(
        method="GET",
        path="/",
        id="startPage",
        tag="operations",
        summary="A start page for people",
        handler=pages.serve_start_page,
        answers=Answers({200: None}, media_type="text/html"),
        access=Access.OPEN,
    ),
)
