"""Reads the caller's API key from request headers. Knows no keys: whether one is right is `keys.KeyRing`'s matter."""

from collections.abc import Iterable

from meshway.gateway.ports import Credentials
from meshway.kernel.errors import Unauthenticated

__all__ = [
    "CREDENTIAL_HEADERS",
    "credentials_of",
    "read_api_key_header",
    "read_authorization_header",
    "read_credentials",
]

# Never sent on to an agent: they are the caller's, not the hub's, to give.
CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", b"proxy-authorization", b"cookie"})

# Ours have 59 characters; a foreign one from the configuration at most 256. More is an attack or a mistake.
_KEY_BYTES_MAX = 512

_NONE = Credentials(None)
_HOW = "send it as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'"


def read_credentials(headers: Iterable[tuple[bytes, bytes]]) -> Credentials:
    """The one key that the headers show, `Credentials(None)` when they show none. Header names in any case.

    Raises: Unauthenticated when a header is unreadable, given twice, names a scheme other than Bearer, or when both
    headers show different keys: picking one would let two readers of the same request disagree.
    """
    authorization: bytes | None = None
    api_key: bytes | None = None
    for name, value in headers:
        # Comparing lengths first keeps this loop cheap for the other twenty headers.
        if len(name) == 13 and name.lower() == b"authorization":
            if authorization is not None:
                raise Unauthenticated("The Authorization header came twice; send it once.")
            authorization = value
        elif len(name) == 9 and name.lower() == b"x-api-key":
            if api_key is not None:
                raise Unauthenticated("The X-API-Key header came twice; send it once.")
            api_key = value
    return credentials_of(authorization, api_key)


def credentials_of(authorization: bytes | None, api_key: bytes | None) -> Credentials:
    """The same from the two header values, for who loops over the headers already. Raises: Unauthenticated."""
    if authorization is None and api_key is None:
        return _NONE
    if api_key is None and authorization is not None:
        return Credentials(read_authorization_header(authorization))
    shown = read_api_key_header(api_key or b"")
    # Another scheme (Basic for a proxy in between) does not take away from a key that is plainly there.
    if authorization is not None and _is_bearer(authorization) and read_authorization_header(authorization) != shown:
        raise Unauthenticated("Authorization and X-API-Key show different keys; send one of them.")
    return Credentials(shown)


def read_authorization_header(value: bytes) -> str:
    """The key after `Bearer`. Raises: Unauthenticated for another scheme or an empty or unreadable key."""
    if not _is_bearer(value):
        scheme = value.split(None, 1)[0][:32].decode("ascii", "replace") if value.strip() else "(empty)"
        raise Unauthenticated(f"The Authorization scheme {scheme!r} is not understood here; for an API key, {_HOW}.")
    return _key_text(value.strip()[6:])


def read_api_key_header(value: bytes) -> str:
    """The key of `X-API-Key`. Raises: Unauthenticated when it is empty or unreadable."""
    return _key_text(value)


def _is_bearer(value: bytes) -> bool:
    stripped = value.strip()
    return stripped[:6].lower() == b"bearer" and (len(stripped) == 6 or stripped[6:7] in b" \t")


def _key_text(value: bytes) -> str:
    stripped = value.strip()
    if not stripped:
        raise Unauthenticated(f"The API key is empty; {_HOW}.")
    if len(stripped) > _KEY_BYTES_MAX or not stripped.isascii() or b" " in stripped or not _printable(stripped):
        raise Unauthenticated(
            "The API key is not one: it must be at most 512 printable ASCII characters without spaces."
        )
    return stripped.decode("ascii")


def _printable(value: bytes) -> bool:
    return value.decode("ascii").isprintable()
