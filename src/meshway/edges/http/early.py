"""Answers the server gives before any handler: RFC 9457 problem documents for broken, slow and oversized requests."""

from http import HTTPStatus

import msgspec

from meshway.kernel.errors import MeshwayError

__all__ = ["EARLY_STATUS", "PROBLEM_TYPE", "early_problem"]

PROBLEM_TYPE = b"application/problem+json"
# What the server itself may have to say; handlers have their own, total tables.
EARLY_STATUS = {
    "draining": 503,
    "forbidden": 403,
    "invalid_request": 400,
    "payload_too_large": 413,
    "too_many_in_flight": 503,
    "unauthenticated": 401,
}


def early_problem(status: int, error: MeshwayError | str) -> bytes:
    """The document's bytes; a text instead of an error is one the tree has no leaf for (a bug, a time-out)."""
    code, detail = ("http_error", error) if isinstance(error, str) else (error.code, error.detail)
    kind = "about:blank" if isinstance(error, str) else f"urn:meshway:problem:{code}"
    title = HTTPStatus(status).phrase
    return msgspec.json.encode(
        {"type": kind, "title": title, "status": status, "detail": detail, "code": code, "errors": []}
    )
