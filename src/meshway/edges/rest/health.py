"""Is the hub alive, and can it take calls? `/healthz` and `/readyz`, for orchestrators and people."""

import asyncio
from http import HTTPStatus
from typing import Annotated

import msgspec
from starlette.responses import Response

from meshway.edges.rest.operations import RestCall, json_response
from meshway.edges.rest.services import EngineStatus
from meshway.engine.ports import EngineHealth
from meshway.kernel.errors import EngineError

__all__ = ["HealthView", "ReadinessView", "serve_health", "serve_readiness"]

# A store that takes longer to say how it is will not take writes either; probes usually wait 1 s or more.
_HEALTH_TIMEOUT_S = 0.9


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """Answered while the event loop turns: restart the hub only when this fails."""

    status: str
    version: str


class ReadinessView(msgspec.Struct, frozen=True, kw_only=True):
    """`ready` decides the HTTP status; `reason` says what is missing and what to do."""

    ready: bool
    reason: str | None
    version: str
    engine: str
    durability: Annotated[str, msgspec.Meta(description="What an acknowledged write survives.")]
    writable: bool
    draining: bool
    agents: Annotated[int, msgspec.Meta(ge=0, description="Registered agents.")]


async def serve_health(call: RestCall) -> Response:
    return json_response(HealthView(status="ok", version=call.services.status.version))


async def serve_readiness(call: RestCall) -> Response:
    status = call.services.status
    health = await _engine_health(status.engine)
    draining = status.shutdown.is_set()
    reason = None
    if draining:
        reason = "the hub is shutting down"
    elif not status.is_started():
        reason = "the hub is still loading its registry"
    elif not health.writable:
        reason = health.reason or "the store refuses writes"
    view = ReadinessView(
        ready=reason is None,
        reason=reason,
        version=status.version,
        engine=status.engine.name,
        durability=status.engine.durability,
        writable=health.writable,
        draining=draining,
        agents=status.agents_count(),
    )
    return json_response(view, HTTPStatus.OK if view.ready else HTTPStatus.SERVICE_UNAVAILABLE)


async def _engine_health(engine: EngineStatus) -> EngineHealth:
    try:
        async with asyncio.timeout(_HEALTH_TIMEOUT_S):
            return await engine.health()
    except TimeoutError:
        return EngineHealth(writable=False, reason=f"the store did not answer within {_HEALTH_TIMEOUT_S} s")
    except EngineError as error:
        return EngineHealth(writable=False, reason=error.detail)
