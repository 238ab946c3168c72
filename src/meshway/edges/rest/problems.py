"""Refusals of the control plane as answers of its web framework."""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.responses import Response

from meshway.edges.http.problems import (
    PROBLEM_MEDIA_TYPE,
    STATUS_BY_CODE,
    ProblemDocument,
    ProblemField,
    problem_of,
    render_problem,
)
from meshway.kernel.errors import MeshwayError

__all__ = [
    "PROBLEM_MEDIA_TYPE",
    "STATUS_BY_CODE",
    "ProblemDocument",
    "ProblemField",
    "http_problem",
    "problem_of",
    "problem_response",
]


def problem_response(error: MeshwayError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer for an error of the tree, with `Retry-After` and `WWW-Authenticate` where they belong."""
    rendered = render_problem(error)
    return _response(rendered.status, rendered.body, {**(headers or {}), **rendered.headers})


def http_problem(status: int, detail: str, *, code: str, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal that HTTP itself knows and the error tree does not: a crash."""
    document = ProblemDocument(
        type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail, code=code
    )
    return _response(status, msgspec.json.encode(document), headers or {})


def _response(status: int, body: bytes, headers: Mapping[str, str]) -> Response:
    return Response(
        body,
        status_code=status,
        headers={"Cache-Control": "no-store", **headers},
        media_type=PROBLEM_MEDIA_TYPE,
    )
