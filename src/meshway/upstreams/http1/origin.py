"""Where a request goes: scheme, host and port. Connections are pooled by it."""

import ipaddress
import re
from functools import cached_property
from urllib.parse import quote, urlsplit

import msgspec

from meshway.kernel.errors import FieldError, InvalidRequest

__all__ = ["Origin"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
# Labels of letters, digits, hyphens and underscores (container names have those); at most 253 bytes, RFC 1035.
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f]")
# What RFC 3986 allows in a path or query, with "%" because existing escapes stay as they are.
_TARGET_SAFE = "/:@!$&'()*+,;=-._~%?[]|"


class Origin(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True, dict=True):
    """An `http` or `https` server. `host` is lower case; an IPv6 address stands without brackets."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> "tuple[Origin, str]":
        """The origin of an absolute URL and its request target: path and query, percent-encoded, beginning with "/".

        Names with other than ASCII letters become their IDNA form; a fragment is dropped.
        Raises: InvalidRequest with field `url`: another scheme, no host, user information, a bad port or address.
        """
        if _CONTROL_OR_SPACE.search(url):
            raise _invalid("must not contain spaces or control characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _invalid(f"is not a URL: {error}") from None
        if parts.scheme not in _DEFAULT_PORTS:
            raise _invalid("must begin with http:// or https://")
        if "@" in parts.netloc:
            raise _invalid("must not carry a user name or password; give the agent's credential in its own field")
        if port == 0:
            raise _invalid("has port 0; ports are 1 to 65535")
        host = _canonical_host(parts.hostname or "", in_brackets=parts.netloc.startswith("["))
        target = parts.path or "/"
        if parts.query:
            target = f"{target}?{parts.query}"
        origin = cls(scheme=parts.scheme, host=host, port=port if port is not None else _DEFAULT_PORTS[parts.scheme])
        return origin, quote(target, safe=_TARGET_SAFE)

    @cached_property
    def host_header(self) -> bytes:
        """The value of the Host header: no port when it is the scheme's own, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}").encode("ascii")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header.decode()}"


def _canonical_host(host: str, *, in_brackets: bool) -> str:
    if not host:
        raise _invalid("has no host")
    if in_brackets:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise _invalid(f"has a bad IPv6 address {host!r}") from None
        if address.scope_id is not None:
            raise _invalid("must not name a zone; zones mean something on one machine only")
        return str(address)
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise _invalid(f"has a host name that IDNA does not allow: {host!r}") from None
    if not _HOST_NAME.fullmatch(host):
        raise _invalid(f"has a bad host name {host!r}")
    return host


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(f"The URL {message}.", fields=[FieldError("url", message)])
