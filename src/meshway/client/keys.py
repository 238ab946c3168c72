"""API keys through the SDK: `client.keys`. Needs an `admin` key, or a hub that is open on loopback."""

from collections.abc import Sequence
from urllib.parse import quote

from meshway.client.connection import HubConnection
from meshway.client.values import ApiKeyInfo, NewApiKey, Page

__all__ = ["KeysApi"]


class KeysApi:
    """Every method raises the errors of `meshway.client.errors`."""

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    async def create(self, name: str, scopes: Sequence[str], *, expires_at: str | None = None) -> NewApiKey:
        """Make a key; its text is shown only now. `scopes`: call, admin, serve:<pattern>; `expires_at` RFC 3339."""
        body: dict[str, object] = {"name": name, "scopes": list(scopes)}
        if expires_at is not None:
            body["expires_at"] = expires_at
        return await self._connection.request("POST", "/v1/keys", NewApiKey, body=body)

    async def list(self) -> Page[ApiKeyInfo]:
        """All keys without their secrets, revoked ones too, oldest first."""
        return await self._connection.request("GET", "/v1/keys", Page[ApiKeyInfo])

    async def revoke(self, key_id: str) -> ApiKeyInfo:
        """Effective at once. Raises: HubError `key_not_found`."""
        return await self._connection.request("DELETE", f"/v1/keys/{quote(key_id, safe='')}", ApiKeyInfo)
