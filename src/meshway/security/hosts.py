"""Host and Origin checks: what keeps a web page in somebody's browser from speaking to a hub it should not reach.

A page can make its own name point at 127.0.0.1 (DNS rebinding), but the browser then still sends the page's name as
Host and Origin. So the hub answers only under names it knows.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from meshway.kernel.errors import FieldError, Forbidden, InvalidRequest
from meshway.security.addresses import is_loopback_host, parse_address
from meshway.security.settings import HostSettings

__all__ = ["HostRules"]

# Distinct accepted pairs of Host and Origin; a hub has a handful, a scanner any number.
_CACHE_MAX = 1_024
_HEADER_BYTES_MAX = 512

_HOST = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?)(?::(?P<port>[0-9]{1,5}))?"
)
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#@\s]+)")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# No public name server can answer for these, so no stranger's page can carry such a name: single labels aside.
_PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa")


@dataclass(frozen=True, slots=True)
class _HostName:
    """`name` in lower case without brackets and trailing dot; `port` None when the header has none."""

    name: str
    port: int | None


class HostRules:
    """Checks one request's Host and Origin headers. A pair seen before costs one dictionary look-up."""

    def __init__(
        self,
        settings: HostSettings,
        *,
        loopback: bool,
        public_url: str | None,
        demands_key: Callable[[], bool],
    ) -> None:
        """`loopback`: the hub listens on loopback only. Raises: InvalidRequest for a wrong entry, naming its field."""
        self._loopback = loopback
        self._demands_key = demands_key
        self._allow = tuple(_HostEntry.parse(entry, field="hosts.allow") for entry in settings.allow)
        self._origins = frozenset(_origin_entry(entry) for entry in settings.origins)
        if public_url is not None:
            scheme, host = _public(public_url)
            # Proxies differ in whether they pass the port on; the name is what protects.
            self._allow += (_HostEntry(name=host.name, port=None, network=None),)
            self._origins |= {_origin_text(scheme, host)}
        self._accepted: dict[tuple[bytes | None, bytes | None], bool] = {}

    def check(self, host: bytes | None, origin: bytes | None, *, forwarded: bool = False) -> None:
        """Accept or refuse. `forwarded`: the request carries Forwarded or an X-Forwarded-* header.

        Raises: Forbidden. In open mode a forwarded request is refused: it came through a proxy, so whoever sent it is
        not the person at this machine.
        """
        demands_key = self._demands_key()
        if forwarded and not demands_key:
            raise Forbidden(
                "This hub is in open mode and the request came through a proxy (it has a Forwarded or X-Forwarded-* "
                "header). Make a key with `meshway keys create NAME --scope call` before publishing the hub."
            )
        # Which mode a pair was accepted in matters: the first key may end open mode, never the other way round.
        if self._accepted.get((host, origin)) is demands_key:
            return
        name = self._accepted_host(host, demands_key=demands_key)
        if origin is not None:
            self._check_origin(origin, name)
        if len(self._accepted) >= _CACHE_MAX:
            self._accepted.clear()
        self._accepted[host, origin] = demands_key

    def _accepted_host(self, header: bytes | None, *, demands_key: bool) -> _HostName:
        if not header:
            raise Forbidden("The request has no Host header.")
        name = _parse_host(header)
        if name is None:
            raise Forbidden("The Host header is not a host with an optional port.")
        if is_loopback_host(name.name) or any(entry.covers(name) for entry in self._allow):
            return name
        if not self._loopback and not self._allow and (demands_key or _is_private_name(name.name)):
            return name
        raise Forbidden(
            f"This hub does not answer under the name {name.name!r}. If it should, add it to hosts.allow "
            "(MESHWAY_HOSTS_ALLOW) or set public_url."
        )

    def _check_origin(self, header: bytes, host: _HostName) -> None:
        text = header.decode("latin-1").lower()
        parsed = _parse_origin(text) if len(header) <= _HEADER_BYTES_MAX else None
        if parsed is not None:
            scheme, origin = parsed
            if _origin_text(scheme, origin) in self._origins:
                return
            if scheme in _DEFAULT_PORTS and self._is_own(scheme, origin, host):
                return
        if parsed is not None and "*" in self._origins:
            return
        raise Forbidden(
            f"Web pages of the origin {text[:100]!r} may not call this hub. If they should, add the origin to "
            "hosts.origins (MESHWAY_HOSTS_ORIGINS)."
        )

    def _is_own(self, scheme: str, origin: _HostName, host: _HostName) -> bool:
        """A page of this machine when the hub serves this machine only, or a page that the hub itself served."""
        if self._loopback and is_loopback_host(origin.name):
            return True
        default = _DEFAULT_PORTS[scheme]
        return origin.name == host.name and (origin.port or default) == (host.port or default)


@dataclass(frozen=True, slots=True)
class _HostEntry:
    """One entry of `hosts.allow`: a name (`*` any, `.suffix` anything below), or a network; `port` None is any port."""

    name: str
    port: int | None
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None

    @classmethod
    def parse(cls, entry: str, *, field: str) -> "_HostEntry":
        text = entry.strip().lower()
        if text == "*":
            return cls(name="*", port=None, network=None)
        try:
            return cls(name="", port=None, network=ipaddress.ip_network(text))
        except ValueError:
            parsed = _parse_host(text.removeprefix("*.").encode())
        if parsed is None or "/" in text:
            message = f"{entry!r} is no host, host:port, '*.suffix', network such as 10.0.0.0/8, or '*'"
            raise InvalidRequest(f"{field}: {message}", fields=[FieldError(field, message)])
        return cls(name=f".{parsed.name}" if text.startswith("*.") else parsed.name, port=parsed.port, network=None)

    def covers(self, host: _HostName) -> bool:
        if self.network is not None:
            address = parse_address(host.name)
            return address is not None and address in self.network
        if self.port is not None and self.port != host.port:
            return False
        if self.name.startswith("."):
            return host.name.endswith(self.name)
        return self.name in {"*", host.name}


def _parse_host(header: bytes) -> _HostName | None:
    if len(header) > _HEADER_BYTES_MAX:
        return None
    match = _HOST.fullmatch(header.decode("latin-1"))
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= 65_535:
        return None
    name = match["host"].lower()
    if name.startswith("["):
        address = parse_address(name[1:-1])
        return None if address is None else _HostName(str(address), port)
    return _HostName(name.removesuffix("."), port)


def _parse_origin(text: str) -> tuple[str, _HostName] | None:
    """Scheme and host of an Origin header in lower case; None for `null` and whatever else is no origin."""
    match = _ORIGIN.fullmatch(text)
    host = _parse_host(match["authority"].encode("latin-1")) if match else None
    return None if match is None or host is None else (match["scheme"], host)


def _origin_text(scheme: str, host: _HostName) -> str:
    port = host.port or _DEFAULT_PORTS.get(scheme)
    return f"{scheme}://{host.name}:{port}"


def _origin_entry(entry: str) -> str:
    if entry.strip() == "*":
        return "*"
    parsed = _parse_origin(entry.strip().lower().removesuffix("/"))
    if parsed is None:
        message = f"{entry!r} is no origin; write https://app.example or https://app.example:8443, without a path"
        raise InvalidRequest(f"hosts.origins: {message}", fields=[FieldError("hosts.origins", message)])
    return _origin_text(*parsed)


def _public(public_url: str) -> tuple[str, _HostName]:
    parts = urlsplit(public_url)
    host = _parse_host(parts.netloc.encode("latin-1", "replace"))
    if parts.scheme not in _DEFAULT_PORTS or host is None or parts.query or parts.fragment:
        message = f"{public_url!r} is no base URL; write https://hub.example"
        raise InvalidRequest(f"public_url: {message}", fields=[FieldError("public_url", message)])
    return parts.scheme, host


def _is_private_name(name: str) -> bool:
    """Is this a name that no stranger's web page can have? Addresses are not looked up, so cannot be rebound."""
    return parse_address(name) is not None or "." not in name or name.endswith(_PRIVATE_SUFFIXES)
