"""`/v1/keys`: API keys, for admins."""

from http import HTTPStatus

from starlette.responses import Response

from meshway.edges.rest.models import KeyCreation, KeyPage
from meshway.edges.rest.operations import RestCall, json_response
from meshway.edges.rest.views import key_created_view, key_view
from meshway.kernel.clock import parse_rfc3339_ms
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.ids import KeyId

__all__ = ["create_key", "list_keys", "revoke_key"]


async def create_key(call: RestCall) -> Response:
    body = await call.body(KeyCreation)
    expires_at_ms = None if body.expires_at is None else _moment_ms(body.expires_at)
    created = await call.services.keys.create(call.principal, body.name, body.scopes, expires_at_ms=expires_at_ms)
    return json_response(key_created_view(created), HTTPStatus.CREATED, {"Location": f"/v1/keys/{created.key.id}"})


async def list_keys(call: RestCall) -> Response:
    keys = await call.services.keys.list_keys(call.principal)
    return json_response(KeyPage(items=tuple(key_view(key) for key in keys), next_cursor=None))


async def revoke_key(call: RestCall) -> Response:
    return json_response(key_view(await call.services.keys.revoke(call.principal, KeyId(call.path("key")))))


def _moment_ms(text: str) -> int:
    try:
        return parse_rfc3339_ms(text)
    except ValueError:
        message = "write it as RFC 3339 with a time zone, such as 2026-12-31T23:59:59Z"
        raise InvalidRequest(f"expires_at: {message}", fields=[FieldError("expires_at", message)]) from None
