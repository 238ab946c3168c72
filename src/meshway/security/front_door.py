"""Everything about access that request headers decide, in one pass over them: Host, Origin, proxies, and the key."""

from collections.abc import Iterable

from meshway.gateway.ports import Authenticator
from meshway.kernel.errors import Forbidden, Unauthenticated
from meshway.kernel.principal import Principal
from meshway.security.credentials import credentials_of
from meshway.security.hosts import HostRules

__all__ = ["FrontDoor"]

_AUTHORIZATION = b"authorization"
_X_API_KEY = b"x-api-key"
_HOST = b"host"
_ORIGIN = b"origin"
_FORWARDED = b"forwarded"
_X_FORWARDED = b"x-forwarded-"
# Looking at lengths first spares the lower-casing of most headers.
_LENGTHS = frozenset({4, 6, 9, 13})
_SINGLE = frozenset({_AUTHORIZATION, _X_API_KEY, _HOST, _ORIGIN})


class FrontDoor:
    """Stands before every request. Synchronous; a few microseconds."""

    def __init__(self, hosts: HostRules, authenticator: Authenticator) -> None:
        self._hosts = hosts
        self._authenticator = authenticator

    def admit(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """Who is calling. Header names in any case, values without surrounding space.

        Raises: Forbidden (Host, Origin, a proxy in front of an open hub, a header of these given twice),
        Unauthenticated, EngineUnavailable while the keys are not read.
        """
        shown, forwarded = _collect(headers)
        self._hosts.check(shown.get(_HOST), shown.get(_ORIGIN), forwarded=forwarded)
        return self._authenticator.authenticate(credentials_of(shown.get(_AUTHORIZATION), shown.get(_X_API_KEY)))

    def check_host(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """For paths that ask for no key (`/healthz`, `/readyz`): Host, Origin and proxies only. Raises: Forbidden."""
        shown, forwarded = _collect(headers)
        self._hosts.check(shown.get(_HOST), shown.get(_ORIGIN), forwarded=forwarded)


def _collect(headers: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], bool]:
    shown: dict[bytes, bytes] = {}
    forwarded = False
    for raw_name, value in headers:
        if len(raw_name) not in _LENGTHS and len(raw_name) < len(_X_FORWARDED):
            continue
        name = raw_name.lower()
        if name in _SINGLE:
            if name in shown:
                raise _given_twice(name)
            shown[name] = value
        elif name == _FORWARDED or name.startswith(_X_FORWARDED):
            forwarded = True
    return shown, forwarded


def _given_twice(name: bytes) -> Forbidden | Unauthenticated:
    detail = f"The {name.decode().title()} header came twice; two readers of the request could disagree on it."
    return Unauthenticated(detail) if name in {_AUTHORIZATION, _X_API_KEY} else Forbidden(detail)
