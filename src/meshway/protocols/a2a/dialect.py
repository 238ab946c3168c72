"""The four ways of speaking A2A that the hub knows: two versions, two bindings."""

import enum
import re
from typing import NamedTuple

from meshway.kernel.errors import VersionUnsupported
from meshway.registry.values import AgentInterface

__all__ = [
    "JSONRPC_0_3",
    "JSONRPC_1_0",
    "REST_0_3",
    "REST_1_0",
    "Binding",
    "Dialect",
    "Version",
    "dialect_of",
    "major_minor",
    "negotiate_version",
]


class Version(enum.Enum):
    V1_0 = "1.0"
    V0_3 = "0.3"


class Binding(enum.Enum):
    JSONRPC = "JSONRPC"
    HTTP_JSON = "HTTP+JSON"


class Dialect(NamedTuple):
    version: Version
    binding: Binding


_V1_0 = Version.V1_0

JSONRPC_1_0 = Dialect(Version.V1_0, Binding.JSONRPC)
JSONRPC_0_3 = Dialect(Version.V0_3, Binding.JSONRPC)
REST_1_0 = Dialect(Version.V1_0, Binding.HTTP_JSON)
REST_0_3 = Dialect(Version.V0_3, Binding.HTTP_JSON)

_BY_INTERFACE = {
    ("1.0", "JSONRPC"): JSONRPC_1_0,
    ("0.3", "JSONRPC"): JSONRPC_0_3,
    ("1.0", "HTTP+JSON"): REST_1_0,
    ("0.3", "HTTP+JSON"): REST_0_3,
}
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.\d{1,6})?(?:[-+][0-9A-Za-z.+-]{1,40})?", re.ASCII)


def major_minor(text: str) -> str | None:
    """`1.0` of `1.0.1`; patch numbers are not negotiated. None when it is no version number."""
    match = _VERSION.fullmatch(text.strip())
    return f"{int(match[1])}.{int(match[2])}" if match else None


def negotiate_version(header: str | None) -> Version:
    """What `A2A-Version` asks for; absent or empty means 0.3 (specification 1.0, section 3.6.2).

    Any 1.x is answered as 1.0, as the stock SDK does: minor versions only add. Raises: VersionUnsupported.
    """
    if header == "1.0":
        return _V1_0
    if header is None or not header.strip():
        return Version.V0_3
    version = major_minor(header)
    if version is not None and version.startswith("1."):
        return Version.V1_0
    if version == "0.3":
        return Version.V0_3
    raise VersionUnsupported(f"A2A version {header[:40]!r} is not supported; this hub speaks 1.0 and 0.3")


def dialect_of(interface: AgentInterface) -> Dialect | None:
    """How to speak to an interface of an agent; None for what the hub does not speak (gRPC, other versions)."""
    known = _BY_INTERFACE.get((interface.version, interface.binding))
    if known is not None:
        return known
    version = major_minor(interface.version)
    if version is not None and version.startswith("1."):
        version = "1.0"
    return _BY_INTERFACE.get((version or "", interface.binding.upper()))
