"""The OpenAPI 3.1 document, made of the route table and the wire models, so that it says what is served."""

import inspect
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec

from meshway.edges.rest.operations import Access, Operation
from meshway.edges.rest.problems import PROBLEM_MEDIA_TYPE, STATUS_BY_CODE, ProblemDocument

__all__ = ["PATH_VARIABLES", "TAGS", "build_openapi", "for_swagger_ui"]

JsonObject = dict[str, object]

_REFERENCE = "#/components/schemas/{name}"
_VARIABLE = re.compile(r"\{(\w+)\}")

TAGS: Mapping[str, str] = {
    "agents": "Who can be called: registering, finding, changing and operating agents.",
    "instances": "The replicas behind an agent's name.",
    "tasks": "Work that is kept until it is done: submitting, following, cancelling.",
    "workers": "For instances of agents that connect out and cannot hold a WebSocket: their tasks by long poll.",
    "inbox": "For operators: what waits for an agent, what it failed at, stopping and resuming.",
    "push": "For operators: push notifications that could not be delivered.",
    "channels": "What every kind of channel has: settings, live figures, lists.",
    "events": "Fan-out to whoever listens now; nothing is kept.",
    "streams": "Kept and numbered messages, read from any place, with readers whose position the hub keeps.",
    "queues": "Work for one worker at a time: leases, retries, delays, dead letters.",
    "requests": "Commands and queries: one responder answers.",
    "blobs": "Data too large for a message.",
    "keys": "API keys and what they allow.",
    "operations": "Health, metrics and this document.",
}

# Every variable a path may have, with its schema; the table is total over the routes by construction of the document.
_LABEL_SCHEMA: JsonObject = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
PATH_VARIABLES: Mapping[str, JsonObject] = {
    "agent": {"description": "The agent's id.", "schema": _LABEL_SCHEMA},
    "instance": {"description": "The instance's id.", "schema": _LABEL_SCHEMA},
    "task": {"description": "The task's id.", "schema": {"type": "string", "minLength": 1}},
    "key": {"description": "The key's id, not its secret.", "schema": {"type": "string", "minLength": 1}},
    "channel": {
        "description": "Dot-separated tokens of A-Z a-z 0-9 _ -; names that begin with _ are the hub's own.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9-][A-Za-z0-9_-]*([.][A-Za-z0-9_-]+)*$", "maxLength": 255},
    },
    "pattern": {
        "description": "A channel, or a pattern of channels: `*` stands for one token, a last `>` for the rest.",
        "schema": {"type": "string", "pattern": "^(([A-Za-z0-9_-]+|[*])[.])*([A-Za-z0-9_-]+|[*]|>)$", "maxLength": 255},
    },
    "reader": {
        "description": "The reader's name: one token of A-Z a-z 0-9 _ -.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": 255},
    },
    "sha256": {
        "description": "SHA-256 of the content, in lower-case hexadecimal.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
}

# Any operation that looks at a key can answer these.
_PROBLEMS_OF_KEYS = ("unauthenticated", "forbidden")
_PROBLEMS_OF_BODIES = ("invalid_request", "malformed_body", "content_type_unsupported", "payload_too_large")
_PROBLEMS_OF_WRITES = ("conflict", "storage_full", "engine_unavailable")


def build_openapi(operations: Sequence[Operation], *, version: str) -> JsonObject:
    """The whole document. `version` is the hub's."""
    models = _models(operations)
    references, components = msgspec.json.schema_components(models, ref_template=_REFERENCE)
    schemas = dict(zip(models, references, strict=True))
    for component in components.values():
        component["description"] = inspect.cleandoc(str(component.get("description", "")))
    paths: dict[str, JsonObject] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Meshway",
            "version": version,
            "summary": "The hub's control plane.",
            "description": (
                "Times are RFC 3339 UTC with milliseconds, durations are in milliseconds. Every refusal is a problem "
                "document (RFC 9457) with a stable `code`. Agents themselves are called at `/a2a/{agent}`."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer <key>"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def for_swagger_ui(document: JsonObject) -> JsonObject:
    """The same document as OpenAPI 3.0.3, for the bundled viewer, which reads nothing newer."""
    older = _without_null_types(document)
    if not isinstance(older, dict):
        raise TypeError("an OpenAPI document is an object")
    info = older["info"]
    if isinstance(info, dict):
        older["info"] = {
            name: {"name": "Apache-2.0"} if name == "license" else value
            for name, value in info.items()
            if name != "summary"
        }
    return {**older, "openapi": "3.0.3"}


def _models(operations: Sequence[Operation]) -> list[type[msgspec.Struct]]:
    found: dict[type[msgspec.Struct], None] = {ProblemDocument: None}
    for operation in operations:
        for model in (operation.body, *operation.answers.models.values()):
            if model is not None:
                found[model] = None
    return list(found)


def _operation(
    operation: Operation,
    schemas: Mapping[type[msgspec.Struct], JsonObject],
    components: Mapping[str, JsonObject],
) -> JsonObject:
    rendered: JsonObject = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas),
        # An empty requirement says that none is needed: an open hub takes calls without a key.
        "security": [] if operation.access == Access.OPEN else [{"bearer": []}, {"apiKey": []}, {}],
    }
    if operation.description:
        rendered["description"] = operation.description
    content: JsonObject = {
        media_type: {"schema": {"type": "string", "format": "binary", "description": text}}
        for media_type, text in operation.raw_bodies.items()
    }
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[operation.body]}, **content}
    if content:
        rendered["requestBody"] = {"required": operation.is_body_required, "content": content}
    return rendered


def _parameters(operation: Operation) -> list[JsonObject]:
    parameters: list[JsonObject] = [
        {"name": name, "in": "path", "required": True, **PATH_VARIABLES[operation.variables.get(name, name)]}
        for name in _VARIABLE.findall(operation.path)
    ]
    if operation.query is not None:
        parameters += _query_parameters(operation.query)
    parameters += [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in operation.headers.items()
    ]
    return parameters


def _query_parameters(model: type[msgspec.Struct]) -> list[JsonObject]:
    _, components = msgspec.json.schema_components([model], ref_template=_REFERENCE)
    schema = components[model.__name__]
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list):
        raise TypeError(f"{model.__name__} has no properties")
    parameters = []
    for name, member in properties.items():
        inline = _without_null_choice(_inlined(member, components))
        description = inline.pop("description", "")
        # An empty default says no more than that the parameter may be left out.
        if not inline.get("default"):
            inline.pop("default", None)
        parameters.append(
            {"name": name, "in": "query", "required": name in required, "description": description, "schema": inline}
        )
    return parameters


def _inlined(schema: Mapping[str, object], components: Mapping[str, JsonObject]) -> JsonObject:
    """The schema with references (enumerations) put in place: parameters are read by tools that follow none."""
    if isinstance(reference := schema.get("$ref"), str):
        return {k: v for k, v in components[reference.rpartition("/")[2]].items() if k not in {"title", "description"}}
    inlined = dict(schema)
    if isinstance(choices := inlined.get("anyOf"), list):
        inlined["anyOf"] = [_inlined(choice, components) for choice in choices]
    return inlined


def _without_null_choice(schema: JsonObject) -> JsonObject:
    """A query has no null: a parameter that may be left out is simply left out."""
    choices = schema.get("anyOf")
    if not isinstance(choices, list):
        return schema
    rest = [choice for choice in choices if choice != {"type": "null"}]
    outer = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**rest[0], **outer} if len(rest) == 1 else {**outer, "anyOf": rest}


def _responses(operation: Operation, schemas: Mapping[type[msgspec.Struct], JsonObject]) -> JsonObject:
    responses: JsonObject = {}
    for status, model in operation.answers.models.items():
        answer: JsonObject = {"description": HTTPStatus(status).phrase}
        if model is not None:
            answer["content"] = {operation.answers.media_type: {"schema": schemas[model]}}
        elif status != HTTPStatus.NO_CONTENT:
            kind = "object" if operation.answers.media_type == "application/json" else "string"
            answer["content"] = {operation.answers.media_type: {"schema": {"type": kind}}}
        if operation.answers.headers:
            answer["headers"] = {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in operation.answers.headers.items()
            }
        responses[str(status)] = answer
    by_status: dict[int, list[str]] = {}
    for code in _codes(operation):
        by_status.setdefault(STATUS_BY_CODE[code], []).append(code)
    for status, codes in sorted(by_status.items()):
        responses.setdefault(
            str(status),
            {
                "description": f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}",
                "content": {PROBLEM_MEDIA_TYPE: {"schema": schemas[ProblemDocument]}},
            },
        )
    responses["default"] = {
        "description": "Any other refusal.",
        "content": {PROBLEM_MEDIA_TYPE: {"schema": schemas[ProblemDocument]}},
    }
    return responses


def _codes(operation: Operation) -> list[str]:
    codes = dict.fromkeys(operation.problems)
    if operation.access == Access.KEY:
        codes |= dict.fromkeys(_PROBLEMS_OF_KEYS)
    if operation.body is not None or operation.raw_bodies:
        codes |= dict.fromkeys(_PROBLEMS_OF_BODIES)
    if operation.query is not None:
        codes |= dict.fromkeys(("invalid_request",))
    if operation.method not in {"GET", "HEAD"} and operation.access == Access.KEY:
        codes |= dict.fromkeys(_PROBLEMS_OF_WRITES)
    return list(codes)


def _without_null_types(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_without_null_types(each) for each in value]
    if not isinstance(value, dict):
        return value
    renewed = {name: _without_null_types(each) for name, each in value.items() if name != "propertyNames"}
    choices = renewed.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        rest = [choice for choice in choices if choice != {"type": "null"}]
        outer = {name: each for name, each in renewed.items() if name != "anyOf"}
        single = rest[0] if len(rest) == 1 and isinstance(rest[0], dict) else None
        if single is not None and "$ref" not in single:
            return {**single, **outer, "nullable": True}
        return {**outer, "anyOf": rest, "nullable": True}
    return renewed
