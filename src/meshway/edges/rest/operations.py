"""The form of the route table: one `Operation` a method and path; application and OpenAPI document are made of it."""

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from meshway.edges.rest.bodies import decode_body, decode_query, read_body
from meshway.edges.rest.services import RestServices
from meshway.edges.rest.settings import RestSettings
from meshway.edges.rest.task_polls import TaskPolls
from meshway.kernel.errors import TooManyInFlight
from meshway.kernel.principal import Principal

__all__ = [
    "Access",
    "Answers",
    "Operation",
    "OperationHandler",
    "RestCall",
    "Watchers",
    "json_response",
    "no_content",
]

Model = TypeVar("Model", bound=msgspec.Struct)
_encode = msgspec.json.Encoder().encode
# A feed ends when a dashboard is closed; a second is soon enough to look again.
_WATCHERS_RETRY_AFTER_MS = 1_000


class Watchers:
    """Places for open feeds; `what` they are, and which limit it is, for who finds none."""

    def __init__(self, places: int, what: str) -> None:
        self._places = places
        self._what = what
        self._taken = 0

    @property
    def taken(self) -> int:
        return self._taken

    def enter(self) -> None:
        """Raises: TooManyInFlight. Each return needs one `leave`."""
        if self._taken >= self._places:
            text = f"{self._taken} {self._what}."
            raise TooManyInFlight(text, retry_after_ms=_WATCHERS_RETRY_AFTER_MS)
        self._taken += 1

    def leave(self) -> None:
        self._taken -= 1


@dataclass(frozen=True, slots=True)
class RestCall:
    """One request on its way through a handler."""

    request: Request
    principal: Principal
    services: RestServices
    settings: RestSettings
    watchers: Watchers
    followers: Watchers
    polls: TaskPolls

    async def body(self, model: type[Model]) -> Model:
        """The body as `model`. Raises: InvalidRequest, MalformedBody, ContentTypeUnsupported, PayloadTooLarge."""
        return decode_body(await read_body(self.request, bytes_max=self.settings.body_bytes_max), model)

    async def body_or_default(self, model: type[Model]) -> Model:
        """As `body`; no body at all is an empty object."""
        headers = self.request.headers
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            return model()
        return await self.body(model)

    def query(self, model: type[Model]) -> Model:
        """The query string as `model`. Raises: InvalidRequest."""
        return decode_query(self.request.query_params.multi_items(), model)

    def path(self, name: str) -> str:
        """One variable of the path, decoded, as it came."""
        return str(self.request.path_params[name])


OperationHandler = Callable[[RestCall], Awaitable[Response]]


class Access(enum.Enum):
    """Who may ask. What they may then do is decided by the use cases."""

    OPEN = "open"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Answers:
    """What an operation answers when all is well, by status; None is an answer without a model, or none at all."""

    models: Mapping[int, type[msgspec.Struct] | None]
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `problems` are the codes beyond those that any operation can answer.

    Without a `handler` it is described here and served below this application (the data calls of channels).
    """

    method: str
    path: str
    id: str
    tag: str
    summary: str
    answers: Answers
    handler: OperationHandler | None = None
    description: str = ""
    body: type[msgspec.Struct] | None = None
    is_body_required: bool = True
    # Media types of bodies that no model describes, with what they are.
    raw_bodies: Mapping[str, str] = field(default_factory=dict)
    # Variables of the path that take more here than elsewhere: name of the variable, name in PATH_VARIABLES.
    variables: Mapping[str, str] = field(default_factory=dict)
    query: type[msgspec.Struct] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    access: Access = Access.KEY
    is_stream: bool = False


def json_response(value: object, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer. Never cached: the registry changes under the reader."""
    return Response(
        _encode(value),
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def no_content() -> Response:
    return Response(status_code=HTTPStatus.NO_CONTENT)
