"""Errors as RFC 9457 problem documents: the one table from the error tree's codes to HTTP statuses under `/v1`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import msgspec

from meshway.kernel.errors import MeshwayError

__all__ = [
    "PROBLEM_MEDIA_TYPE",
    "STATUS_BY_CODE",
    "ProblemDocument",
    "ProblemField",
    "RenderedProblem",
    "problem_of",
    "render_problem",
]

PROBLEM_MEDIA_TYPE = "application/problem+json"

# Total over kernel.errors: a test compares it with error_leaves().
STATUS_BY_CODE: Mapping[str, int] = {
    "agent_not_found": 404,
    "agent_stopped": 503,
    "blob_not_found": 404,
    "capacity_reached": 429,
    "channel_full": 429,
    "channel_not_found": 404,
    "conflict": 409,
    "content_type_unsupported": 415,
    "data_dir_locked": 503,
    "deadline_exceeded": 504,
    "delegation_refused": 403,
    "draining": 503,
    "egress_denied": 400,
    "engine_unavailable": 503,
    "forbidden": 403,
    "idempotency_key_reused": 409,
    "inbox_full": 429,
    "invalid_request": 400,
    "key_not_found": 404,
    "malformed_body": 400,
    "method_unknown": 405,
    "no_responder": 503,
    "not_found": 404,
    "operation_unsupported": 400,
    "own_limit_reached": 429,
    "extended_card_missing": 400,
    "payload_too_large": 413,
    "push_unsupported": 400,
    "reader_not_found": 404,
    "schema_too_new": 503,
    "storage_full": 507,
    "store_corrupt": 503,
    "task_not_cancelable": 409,
    "task_not_found": 404,
    "too_many_in_flight": 429,
    "unauthenticated": 401,
    "upstream_broken": 502,
    "upstream_invalid": 502,
    "upstream_unreachable": 502,
    "version_unsupported": 400,
}


class ProblemField(msgspec.Struct, frozen=True):
    """One thing wrong with one field; `field` is a dotted path into the body, a query parameter or a header."""

    field: str
    message: str


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What every refusal under `/v1` looks like (RFC 9457). Programs decide by `code`, people read `detail`."""

    type: str
    title: str
    status: Annotated[int, msgspec.Meta(ge=400, le=599)]
    detail: str
    code: str
    errors: tuple[ProblemField, ...] = ()


def problem_of(error: MeshwayError) -> ProblemDocument:
    """The document for an error of the tree."""
    # A code without a row is a bug that the test of totality finds; the caller still gets an answer.
    status = STATUS_BY_CODE.get(error.code, 500)
    return ProblemDocument(
        type=f"urn:meshway:problem:{error.code}",
        title=error.code.replace("_", " ").capitalize(),
        status=status,
        detail=error.detail,
        code=error.code,
        errors=tuple(ProblemField(each.field, each.message) for each in error.fields),
    )


@dataclass(frozen=True, slots=True)
class RenderedProblem:
    """A document ready to be sent, and the headers that belong to it."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def render_problem(error: MeshwayError) -> RenderedProblem:
    """The document with the error's further members, and `Retry-After` and `WWW-Authenticate` where they belong."""
    document = problem_of(error)
    headers: dict[str, str] = {}
    if error.retry_after_ms is not None:
        # Whole seconds (RFC 9110), rounded up: coming back too early would be refused again.
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_ms / 1000)))
    if document.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="meshway"'
    if error.extensions:
        # Further members stand beside the known ones (RFC 9457, 3.2) and never replace them.
        return RenderedProblem(
            document.status, msgspec.json.encode({**error.extensions, **msgspec.structs.asdict(document)}), headers
        )
    return RenderedProblem(document.status, msgspec.json.encode(document), headers)
