"""Where the hub may connect to on behalf of others: checked when a URL is registered, and again when it is dialled.

The second check is the one that counts. A name is judged by the addresses it has at that moment, and only those that
passed are given to the client, so a name that changes in between (DNS rebinding) gains nothing.
"""

import ipaddress
import re
from collections.abc import Sequence

from meshway.kernel.clock import Clock
from meshway.kernel.errors import EgressDenied, FieldError, InvalidRequest, wrong_field
from meshway.security.addresses import AddressKind, IpAddress, IpNetwork, address_kind, parse_address
from meshway.security.resolver import Lookup, Resolver, system_lookup
from meshway.security.settings import EgressSettings

__all__ = ["CheckedEgress", "HostPatterns"]

# Longer URLs break proxies and servers on the way.
_URL_LENGTH_MAX = 2_048
# RFC 3986 without what it forbids in a URL; the host is looked at on its own.
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)")
_PRINTABLE = re.compile(r"[!-~]+")
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]*))?")
# Underscores are no host names by the book, but Docker Compose makes such services.
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# The URL standard (WHATWG, section 3.5) reads a host as IPv4 when its last label is a number: 127.1, 0x7f000001, 017.
_NUMBER_LABEL = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")

# Metadata services by name; their addresses are refused as well, this gives the clearer message.
_METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
_ALLOW_HINT = "add it to egress.allow, or set egress.allow_private = true"


class HostPatterns:
    """A list of hosts (`name`, `*.suffix`) and networks (`10.0.0.0/8`, `10.1.2.3`)."""

    def __init__(self, entries: Sequence[str], *, field: str) -> None:
        """Raises: InvalidRequest naming `field` and the entry that is neither."""
        self._names: set[str] = set()
        self._suffixes: list[str] = []
        self._networks: list[IpNetwork] = []
        for entry in entries:
            self._add(entry.strip().lower(), field)

    def names(self, host: str) -> bool:
        """Is this host name (lower case, no trailing dot) listed?"""
        return host in self._names or any(host.endswith(suffix) for suffix in self._suffixes)

    def holds(self, address: IpAddress) -> bool:
        """Is the address in a listed network?"""
        return any(address in network for network in self._networks)

    def _add(self, entry: str, field: str) -> None:
        try:
            self._networks.append(ipaddress.ip_network(entry.strip("[]")))
            return
        except ValueError as error:
            if "/" in entry or "host bits" in str(error):
                message = f"{entry!r} is no network: {error}"
                raise InvalidRequest(message, fields=[FieldError(field, message)]) from None
        name = entry.removeprefix("*.").rstrip(".")
        if not _is_host_name(name):
            message = f"{entry!r} is no host name, '*.suffix' or network such as 10.0.0.0/8"
            raise InvalidRequest(message, fields=[FieldError(field, message)])
        if entry.startswith("*."):
            self._suffixes.append(f".{name}")
        else:
            self._names.add(name)


class CheckedEgress:
    """Implements the port EgressRules. `loopback`: the hub listens on loopback only, so its agents may be local."""

    def __init__(
        self, settings: EgressSettings, *, loopback: bool, clock: Clock, lookup: Lookup = system_lookup
    ) -> None:
        """Raises: InvalidRequest naming `egress.allow`."""
        self._allow_private = loopback if settings.allow_private is None else settings.allow_private
        self._allow = HostPatterns(settings.allow, field="egress.allow")
        self._resolver = Resolver(
            clock=clock, timeout_ms=settings.dns_timeout_ms, cache_ms=settings.dns_cache_ms, lookup=lookup
        )

    def check_url(self, url: str, *, field: str = "url") -> None:
        """Form, scheme, port, and the address where the host is one. Asks no DNS: names are judged when dialled.

        Raises: InvalidRequest for a URL that no client should be given, EgressDenied for a place the hub must not go.
        """
        host = _host_of(url, field)
        address = parse_address(host)
        refusal = self._refusal_of_name(host) if address is None else self._refusal_of(address, host)
        if refusal is not None:
            raise EgressDenied(f"{field}: {refusal}", fields=[FieldError(field, refusal)])

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Addresses the hub may dial for this host, in the resolver's order; never empty.

        Raises: EgressDenied when none of its addresses is allowed, UpstreamUnreachable when it has none.
        """
        if not 1 <= port <= 65_535:
            raise EgressDenied(f"Port {port} does not exist; use 1 to 65535.")
        name = _plain(host)
        literal = parse_address(name)
        if literal is not None:
            refusal = self._refusal_of(literal, name)
            if refusal is not None:
                raise EgressDenied(refusal)
            return (str(literal),)
        refusal = self._refusal_of_name(name) if _is_host_name(name) else f"{host!r} is no host name"
        if refusal is not None:
            raise EgressDenied(refusal)
        return self._allowed(name, await self._resolver.addresses(name))

    def close(self) -> None:
        """Let the DNS threads end."""
        self._resolver.close()

    def _allowed(self, name: str, found: Sequence[str]) -> Sequence[str]:
        allowed: list[str] = []
        first_refusal: str | None = None
        for text in found:
            address = parse_address(text)
            refusal = f"{name} has the unusable address {text}" if address is None else self._refusal_of(address, name)
            if refusal is None:
                allowed.append(text)
            elif first_refusal is None:
                first_refusal = refusal
        if not allowed:
            raise EgressDenied(first_refusal or f"{name} has no address.")
        return allowed

    def _refusal_of_name(self, name: str) -> str | None:
        if name in _METADATA_NAMES:
            return f"{name} is a cloud's metadata service; the hub never connects to it"
        is_local = name == "localhost" or name.endswith(".localhost")
        if is_local and not self._allow_private and not self._allow.names(name):
            return f"{name} is this machine, and the hub may not connect to private addresses; {_ALLOW_HINT}"
        return None

    def _refusal_of(self, address: IpAddress, host: str) -> str | None:
        """Why the hub may not connect there, None when it may. `host` is what the user wrote."""
        shown = host if host == str(address) else f"{host} ({address})"
        kind = address_kind(address)
        listed = self._allow.names(host) or self._allow.holds(_final(address))
        match kind:
            case AddressKind.PUBLIC:
                return None
            case AddressKind.FORBIDDEN:
                return (
                    f"{shown} is a link-local, metadata, multicast or reserved address; the hub never connects to those"
                )
            case AddressKind.SHARED:
                if listed:
                    return None
                return (
                    f"{shown} is in 100.64.0.0/10 (carrier NAT or an overlay network); add the network to egress.allow"
                )
            case AddressKind.LOOPBACK | AddressKind.PRIVATE:
                if listed or self._allow_private:
                    return None
                return f"{shown} is a {kind.value} address, which the hub may not connect to; {_ALLOW_HINT}"


def _final(address: IpAddress) -> IpAddress:
    """The IPv4 address behind a v4-mapped one, so that a listed network covers both spellings."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _host_of(url: str, field: str) -> str:
    """The host, lower case, without brackets and trailing dot. Raises: InvalidRequest for anything two parsers could
    read differently: it is refused, not repaired.
    """
    if not url or len(url) > _URL_LENGTH_MAX:
        raise wrong_field(field, f"use a URL of 1 to {_URL_LENGTH_MAX} characters")
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise wrong_field(
            field,
            "use only printable ASCII without spaces and backslashes: percent-encode the path, and write an "
            "international host name in its xn-- form",
        )
    parts = _URL.fullmatch(url)
    if parts is None:
        raise wrong_field(field, "use an absolute URL without fragment, such as http://127.0.0.1:9000/agent")
    if parts["scheme"].lower() not in {"http", "https"}:
        raise wrong_field(field, f"the scheme must be http or https, not {parts['scheme']!r}")
    if "@" in parts["authority"]:
        raise wrong_field(field, "a user name or password has no place in the URL; give the agent's credential apart")
    authority = _AUTHORITY.fullmatch(parts["authority"])
    if authority is None:
        raise wrong_field(field, "the host is not one; write host, host:port or [IPv6]:port")
    port = authority["port"]
    if port is not None and not (port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65_535):
        raise wrong_field(field, "the port must be a number from 1 to 65535")
    if authority["v6"] is not None:
        return _checked_v6(authority["v6"], field)
    return _checked_name(authority["name"], field)


def _checked_v6(text: str, field: str) -> str:
    if "%" in text:
        raise wrong_field(field, "a zone (%...) belongs to link-local addresses, to which the hub never connects")
    address = parse_address(text)
    if not isinstance(address, ipaddress.IPv6Address):
        raise wrong_field(field, f"[{text}] is no IPv6 address")
    return str(address)


def _checked_name(text: str, field: str) -> str:
    if isinstance(parse_address(text), ipaddress.IPv4Address):
        return text
    name = _plain(text)
    if not _is_host_name(name):
        raise wrong_field(
            field,
            f"{text!r} is no host name; write an IPv4 address as four decimal numbers and percent-encode nothing in it",
        )
    return name


def _is_host_name(name: str) -> bool:
    labels = name.split(".")
    return (
        0 < len(name) <= 253
        and all(_LABEL.fullmatch(label) for label in labels)
        and not _NUMBER_LABEL.fullmatch(labels[-1])
    )


def _plain(host: str) -> str:
    """Lower case, without brackets and the one trailing dot that means `from the root`."""
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return name.lower().removesuffix(".")
