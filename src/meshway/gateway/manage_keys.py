"""API keys: make one, see them, end one. For admins."""

from collections.abc import Sequence

from meshway.gateway.admission import Admission
from meshway.gateway.ports import ApiKey, ApiKeyCreated, ApiKeys
from meshway.kernel.clock import Clock
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.ids import KeyId
from meshway.kernel.principal import Principal

__all__ = ["ManageKeys"]


class ManageKeys:
    """Admission before the ApiKeys port."""

    def __init__(self, keys: ApiKeys, admission: Admission, *, clock: Clock) -> None:
        self._keys = keys
        self._admission = admission
        self._clock = clock

    async def create(
        self, principal: Principal, name: str, scopes: Sequence[str], *, expires_at_ms: int | None = None
    ) -> ApiKeyCreated:
        """The only time the key is shown. Raises: Forbidden, InvalidRequest naming the field."""
        self._admission.admit_admin(principal)
        if expires_at_ms is not None and expires_at_ms <= self._clock.now_ms():
            text = "give a time in the future"
            raise InvalidRequest(f"expires_at: {text}", fields=[FieldError("expires_at", text)])
        return await self._keys.create(name, scopes, expires_at_ms=expires_at_ms)

    async def list_keys(self, principal: Principal) -> Sequence[ApiKey]:
        """All keys without their secrets, oldest first. Raises: Forbidden."""
        self._admission.admit_admin(principal)
        return await self._keys.list_keys()

    async def revoke(self, principal: Principal, key_id: KeyId) -> ApiKey:
        """Effective at once. Raises: Forbidden, KeyNotFound."""
        self._admission.admit_admin(principal)
        return await self._keys.revoke(key_id)
