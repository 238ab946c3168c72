"""The control plane as one ASGI application: `/v1`, `/metrics`, health, documentation and the start page."""

from collections.abc import Mapping
from functools import cache

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from meshway.edges.rest.docs_page import docs_routes
from meshway.edges.rest.openapi import build_openapi
from meshway.edges.rest.operations import (
    Access,
    Operation,
    OperationHandler,
    RestCall,
    Watchers,
    json_response,
)
from meshway.edges.rest.problems import http_problem, problem_response
from meshway.edges.rest.routes import route_table
from meshway.edges.rest.services import RestServices
from meshway.edges.rest.settings import RestSettings
from meshway.edges.rest.task_polls import TaskPolls
from meshway.kernel.errors import EngineError, MeshwayError, MethodUnknown, NotFound
from meshway.kernel.principal import ANONYMOUS, Principal
from meshway.messaging.names import ChannelKind

__all__ = ["build_rest_app"]

_log = structlog.get_logger()
_KINDS = tuple(kind.value for kind in ChannelKind)
# What stands below /v1; anything else there may have been meant as a kind of channel.
_ROOMS = {
    *_KINDS,
    "agents",
    "asyncapi.json",
    "audit",
    "blobs",
    "keys",
    "mesh",
    "openapi.json",
    "push",
    "resume",
    "stop",
}
_ROOMS |= {"tasks", "ws"}
# As many as there may be calls; each is a few tasks of the loop and a socket.
_FOLLOWERS_MAX = 20_000


def build_rest_app(services: RestServices, settings: RestSettings | None = None) -> Starlette:
    """Everything on the hub's port that is not a data plane of its own (`/a2a`, `/mcp`)."""
    limits = settings or RestSettings()

    @cache
    def document() -> dict[str, object]:
        # Made when first asked for: it takes longer than everything else here together.
        return build_openapi(table, version=services.status.version)

    async def serve_openapi(call: RestCall) -> Response:
        return json_response(document())

    table = route_table(serve_openapi)
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in table:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    edge = _Edge(services, limits)
    routes: list[BaseRoute] = [Route(path, _PathEndpoint(methods, edge)) for path, methods in by_path.items()]
    app = Starlette(
        routes=[*routes, *docs_routes(document)],
        exception_handlers={HTTPException: _refuse_route, MeshwayError: _refuse},
    )
    # A path with a slash too many is not there: a redirect would show a Host that a client chose.
    app.router.redirect_slashes = False
    return app


class _Edge:
    """What all endpoints share."""

    def __init__(self, services: RestServices, settings: RestSettings) -> None:
        self.services = services
        self.settings = settings
        self.watchers = Watchers(
            settings.watchers_max, "change feeds are open, as many as the hub keeps ([rest] watchers_max)"
        )
        self.followers = Watchers(_FOLLOWERS_MAX, "feeds of tasks are open, as many as the hub keeps")
        self.polls = TaskPolls()
        self.requests = services.metrics.counter(
            "meshway_rest_requests_total", "Requests to the control plane.", ("operation", "status")
        )
        services.metrics.gauge_read_from(
            "meshway_rest_watchers", "Open change feeds of the registry.", lambda: float(self.watchers.taken)
        )
        services.metrics.gauge_read_from(
            "meshway_rest_task_followers", "Open feeds of tasks' events.", lambda: float(self.followers.taken)
        )

    def call(self, request: Request, principal: Principal) -> RestCall:
        return RestCall(request, principal, self.services, self.settings, self.watchers, self.followers, self.polls)


class _PathEndpoint:
    """All methods of one path. An object, not a function, so that the router leaves the methods to it."""

    def __init__(self, operations: Mapping[str, Operation], edge: _Edge) -> None:
        # Those without a handler are answered before a request comes here: they only are allowed.
        self._served = {method: (each, each.handler) for method, each in operations.items() if each.handler is not None}
        if "GET" in self._served and not operations["GET"].is_stream:
            self._served["HEAD"] = self._served["GET"]
        self._allow = ", ".join(sorted({*operations, *self._served}))
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        served = self._served.get(request.method)
        if served is None:
            response = _not_allowed(request, self._allow)
            name = "none"
        else:
            operation, handler = served
            response = await self._answer(operation, handler, request)
            name = operation.id
        self._edge.requests.labels(name, str(response.status_code)).inc()
        await response(scope, receive, send)

    async def _answer(self, operation: Operation, handler: OperationHandler, request: Request) -> Response:
        edge = self._edge
        try:
            principal = ANONYMOUS
            if operation.access is Access.KEY:
                # Before the body is read: who may not ask does not get to send.
                principal = edge.services.principal_of(request.headers.raw)
            return await handler(edge.call(request, principal))
        except MeshwayError as error:
            if isinstance(error, EngineError):
                _log.warning("rest_request_not_served", operation=operation.id, code=error.code, detail=error.detail)
            return problem_response(error)
        except ClientDisconnect:
            # Nobody reads this answer; 400 is what the metrics count it as.
            return http_problem(400, "The client left before its request was complete.", code="client_disconnected")
        except Exception:  # noqa: BLE001 (the boundary of a request: one bug must not take the connection down)
            _log.exception("rest_request_failed", operation=operation.id, path=request.url.path)
            return http_problem(500, "The hub failed on this request; its log says why.", code="internal")


def _not_allowed(request: Request, allow: str) -> Response:
    text = f"{request.method[:32]} is not a method of {request.url.path[:256]}; it has {allow}."
    return problem_response(MethodUnknown(text), {"Allow": allow})


async def _refuse_route(request: Request, error: Exception) -> Response:
    """What the router itself refuses: a path it does not know, or a method of the documentation page."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        return _not_allowed(request, (error.headers or {}).get("Allow", "GET"))
    path = request.url.path
    text = f"There is nothing at {path[:256]}. The API is described at /docs and /v1/openapi.json."
    room, _, rest = path.removeprefix("/v1/").partition("/")
    if path.startswith("/v1/") and room not in _ROOMS:
        what = "is a kind of channel" if rest else "is there"
        text = f"No {room[:64]!r} {what}: channels are of the kinds {', '.join(_KINDS)}, each at /v1/<kind>/<channel>."
    return problem_response(NotFound(text))


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, MeshwayError):
        return problem_response(error)
    raise error
