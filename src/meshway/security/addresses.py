"""What kind of place an IP address is. Pure. The tables are the IANA special-purpose registries (RFC 6890) plus the
metadata services of the large clouds, which hand out credentials to whoever reaches them.
"""

import enum
import ipaddress

__all__ = ["AddressKind", "IpAddress", "IpNetwork", "address_kind", "is_loopback_host", "parse_address"]

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressKind(enum.Enum):
    """Ordered from harmless to never: `PRIVATE` needs permission, `SHARED` a network listed by name."""

    PUBLIC = "public"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    # 100.64/10: behind a provider's NAT, but also overlay networks such as Tailscale.
    SHARED = "shared"
    # No service of a user's lives there, and some of what does gives away the machine.
    FORBIDDEN = "forbidden"


_FORBIDDEN_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network; many systems connect to loopback for it
        "169.254.0.0/16",  # link-local, metadata of AWS, Google, Azure, ...
        "168.63.129.16/32",  # Azure's platform address
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata at 192.0.0.192
        "192.88.99.0/24",  # 6to4 relays
        "100.100.100.200/32",  # Alibaba's metadata
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_FORBIDDEN_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::/128",  # unspecified; connects to loopback
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local, abandoned by RFC 3879
        "ff00::/8",  # multicast
        "fd00:ec2::/32",  # AWS: metadata at ::254, DNS and time beside it
        "fd20:ce::254/128",  # Google's metadata
        "fd00:42::42/128",  # Scaleway's metadata
        "100::/64",  # discard
        "2002::/16",  # 6to4, carries any IPv4 address; abandoned by RFC 7526
        "2001::/32",  # Teredo, likewise
    )
)
_PRIVATE_V4 = tuple(
    ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15")
)
_SHARED_V4 = ipaddress.IPv4Network("100.64.0.0/10")
_LOOPBACK_V4 = ipaddress.IPv4Network("127.0.0.0/8")
_PRIVATE_V6 = ipaddress.IPv6Network("fc00::/7")
# IPv6 ranges whose last 32 bits are the IPv4 address that is reached in the end.
_CARRIES_V4 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::ffff:0:0/96",  # v4-mapped (RFC 4291)
        "::ffff:0:0:0/96",  # v4-translated (RFC 2765)
        "64:ff9b::/96",  # NAT64 (RFC 6052)
    )
)
# Local NAT64 (RFC 8215): where in it the IPv4 address stands is each network's own choice, so it cannot be judged.
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
# IPv4-compatible (RFC 4291, abandoned): the first 96 bits are zero.
_COMPATIBLE = ipaddress.IPv6Network("::/96")
# ISATAP interface identifiers (RFC 5214) carry an IPv4 address below any prefix.
_ISATAP_MARKS = (0x00005EFE, 0x02005EFE)


def address_kind(address: IpAddress) -> AddressKind:
    """Judge by where a packet ends up: an IPv6 address that carries an IPv4 address counts as that one."""
    return _kind_v4(address) if isinstance(address, ipaddress.IPv4Address) else _kind_v6(address)


def parse_address(host: str) -> IpAddress | None:
    """The address when `host` is one in its plain form (no zone, brackets, octal or short forms), else None."""
    if "%" in host:
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback_host(host: str) -> bool:
    """Does this listen address or URL host mean this machine alone? True for `localhost` and loopback addresses."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    address = parse_address(name)
    return address is not None and address_kind(address) is AddressKind.LOOPBACK


def _kind_v4(address: ipaddress.IPv4Address) -> AddressKind:
    if any(address in network for network in _FORBIDDEN_V4):
        return AddressKind.FORBIDDEN
    if address in _LOOPBACK_V4:
        return AddressKind.LOOPBACK
    if address in _SHARED_V4:
        return AddressKind.SHARED
    return AddressKind.PRIVATE if any(address in network for network in _PRIVATE_V4) else AddressKind.PUBLIC


def _kind_v6(address: ipaddress.IPv6Address) -> AddressKind:
    if address.scope_id is not None or any(address in network for network in _FORBIDDEN_V6):
        return AddressKind.FORBIDDEN
    if address == ipaddress.IPv6Address("::1"):
        return AddressKind.LOOPBACK
    if any(address in network for network in _CARRIES_V4):
        return _kind_v4(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if address in _COMPATIBLE or address in _LOCAL_NAT64 or (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP_MARKS:
        return AddressKind.FORBIDDEN
    return AddressKind.PRIVATE if address in _PRIVATE_V6 else AddressKind.PUBLIC
