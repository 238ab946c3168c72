"""`/v1/agents` and what is below an agent: from the wire to a use case and back."""

from http import HTTPStatus

import msgspec
from starlette.responses import Response

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
)
from meshway.edges.rest.operations import RestCall, json_response, no_content
from meshway.edges.rest.views import agent_view, instance_view
from meshway.gateway.heartbeat_agent import Heartbeat
from meshway.gateway.instance_reader import InstanceSpec
from meshway.gateway.patches import InstancePatch, SettingsPatch
from meshway.gateway.register_agent import Registration
from meshway.gateway.update_agent import AgentPatch
from meshway.kernel.errors import AgentNotFound
from meshway.kernel.ids import AgentId, InstanceId
from meshway.registry.search import AgentQuery
from meshway.registry.values import Agent, AgentSettings, Instance

__all__ = [
    "add_instance",
    "drain_agent",
    "drain_instance",
    "heartbeat",
    "list_agents",
    "list_instances",
    "register_agent",
    "remove_agent",
    "remove_instance",
    "resume_agent",
    "resume_instance",
    "show_agent",
    "show_instance",
    "update_agent",
    "update_instance",
]


async def register_agent(call: RestCall) -> Response:
    body = await call.body(AgentRegistration)
    registration = Registration(
        id=body.id,
        url=None if isinstance(body.url, msgspec.UnsetType) else body.url,
        card=None if isinstance(body.card, msgspec.UnsetType) else bytes(body.card),
        labels=body.labels,
        capacity=body.capacity,
        weight=body.weight,
        settings=AgentSettings(**msgspec.structs.asdict(body.settings)),
        credential=body.credential,
        instances=[_spec(each) for each in body.instances],
    )
    registered = await call.services.agents.register.execute(call.principal, registration)
    status = HTTPStatus.CREATED if registered.created else HTTPStatus.OK
    return json_response(_view(call, registered.agent), status, {"Location": f"/v1/agents/{registered.agent.id}"})


async def list_agents(call: RestCall) -> Response:
    asked = call.query(AgentListQuery)
    query = AgentQuery(
        tag=asked.tag,
        skill=asked.skill,
        labels=asked.label,
        state=asked.state,
        q=asked.q,
        limit=asked.limit,
        cursor=asked.cursor,
    )
    page = await call.services.agents.find.execute(call.principal, query)
    items = tuple(_view(call, agent) for agent in page.items)
    return json_response(AgentPage(items=items, next_cursor=page.next_cursor))


async def show_agent(call: RestCall) -> Response:
    return json_response(_view(call, await _shown(call)))


async def update_agent(call: RestCall) -> Response:
    body = await call.body(AgentPatchBody)
    settings: SettingsPatch | msgspec.UnsetType | None = msgspec.UNSET
    if body.settings is None:
        settings = None
    elif not isinstance(body.settings, msgspec.UnsetType):
        settings = SettingsPatch(**msgspec.structs.asdict(body.settings))
    patch = AgentPatch(
        url=body.url,
        card=body.card if isinstance(body.card, msgspec.UnsetType) else bytes(body.card),
        instance=InstancePatch(labels=body.labels, capacity=body.capacity, weight=body.weight),
        settings=settings,
        credential=body.credential,
    )
    return json_response(_view(call, await call.services.agents.update.execute(call.principal, _agent(call), patch)))


async def remove_agent(call: RestCall) -> Response:
    await call.services.agents.remove.execute(call.principal, _agent(call))
    return no_content()


async def drain_agent(call: RestCall) -> Response:
    return json_response(_view(call, await call.services.agents.drain.execute(call.principal, _agent(call))))


async def resume_agent(call: RestCall) -> Response:
    return json_response(_view(call, await call.services.agents.resume.execute(call.principal, _agent(call))))


async def heartbeat(call: RestCall) -> Response:
    body = await call.body_or_default(HeartbeatBody)
    sign = Heartbeat(instance=body.instance, in_flight=body.in_flight, ttl_ms=body.ttl_ms)
    taken = await call.services.agents.heartbeat.execute(call.principal, _agent(call), sign)
    return _instance_answer(call, taken.instance)


async def list_instances(call: RestCall) -> Response:
    agent = await _shown(call)
    in_flight = call.services.agents.in_flight
    items = tuple(instance_view(agent.id, instance, in_flight) for instance in agent.instances)
    return json_response(InstancePage(items=items, next_cursor=None))


async def add_instance(call: RestCall) -> Response:
    body = await call.body(InstanceAddition)
    instance = await call.services.agents.instances.add(call.principal, _agent(call), _spec(body))
    location = f"/v1/agents/{_agent(call)}/instances/{instance.id}"
    return _instance_answer(call, instance, HTTPStatus.CREATED, {"Location": location})


async def show_instance(call: RestCall) -> Response:
    agent = await _shown(call)
    found = agent.instance(_instance(call))
    if found is None:
        raise AgentNotFound(f"Agent {agent.id!r} has no instance {_instance(call)!r}.", agent=agent.id)
    return _instance_answer(call, found)


async def update_instance(call: RestCall) -> Response:
    body = await call.body(InstancePatchBody)
    patch = InstancePatch(labels=body.labels, capacity=body.capacity, weight=body.weight)
    instances = call.services.agents.instances
    return _instance_answer(call, await instances.update(call.principal, _agent(call), _instance(call), patch))


async def remove_instance(call: RestCall) -> Response:
    await call.services.agents.instances.remove(call.principal, _agent(call), _instance(call))
    return no_content()


async def drain_instance(call: RestCall) -> Response:
    drained = await call.services.agents.drain.execute(call.principal, _agent(call), _instance(call))
    return json_response(_view(call, drained))


async def resume_instance(call: RestCall) -> Response:
    resumed = await call.services.agents.resume.execute(call.principal, _agent(call), _instance(call))
    return json_response(_view(call, resumed))


def _agent(call: RestCall) -> AgentId:
    # Not checked for form: what cannot be an id is simply not found.
    return AgentId(call.path("agent"))


def _instance(call: RestCall) -> InstanceId:
    return InstanceId(call.path("instance"))


async def _shown(call: RestCall) -> Agent:
    return await call.services.agents.show.execute(call.principal, _agent(call))


def _view(call: RestCall, agent: Agent) -> AgentView:
    return agent_view(agent, call.services.agents.in_flight)


def _instance_answer(
    call: RestCall, instance: Instance, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    return json_response(instance_view(_agent(call), instance, call.services.agents.in_flight), status, headers)


def _spec(body: InstanceAddition) -> InstanceSpec:
    return InstanceSpec(id=body.id, url=body.url, labels=body.labels, capacity=body.capacity, weight=body.weight)
