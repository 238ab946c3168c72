"""The mesh through the SDK: `client.mesh`. Needs an `admin` key."""

import msgspec

from meshway.client.connection import HubConnection

__all__ = ["EngineNode", "MeshApi", "MeshDuty", "MeshEngine", "MeshHub", "MeshStatus"]


class MeshHub(msgspec.Struct, frozen=True, kw_only=True):
    """One process; `state`: up, draining, lost (fell silent) or gone (said goodbye)."""

    id: str
    url: str = ""
    version: str = ""
    host: str = ""
    pid: int = 0
    started_at: str = ""
    state: str = ""
    silent_ms: int = 0
    is_this: bool = False
    duties: tuple[str, ...] = ()


class MeshDuty(msgspec.Struct, frozen=True, kw_only=True):
    """What one hub does for the whole mesh."""

    name: str
    hub: str = ""
    since: str = ""


class EngineNode(msgspec.Struct, frozen=True, kw_only=True):
    """A server of the engine's cluster."""

    name: str
    leads: tuple[str, ...] = ()
    lag: int = 0
    current: bool = True
    offline: bool = False


class MeshEngine(msgspec.Struct, frozen=True, kw_only=True):
    """`nodes` is empty for an embedded engine and for a single server."""

    name: str = ""
    durability: str = ""
    writable: bool = False
    reason: str | None = None
    nodes: tuple[EngineNode, ...] = ()


class MeshStatus(msgspec.Struct, frozen=True, kw_only=True):
    """As the process that answers sees it."""

    hubs: tuple[MeshHub, ...] = ()
    duties: tuple[MeshDuty, ...] = ()
    engine: MeshEngine = MeshEngine()


class MeshApi:
    """Every method raises the errors of `meshway.client.errors`; HubError `forbidden` without the scope `admin`."""

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    async def status(self) -> MeshStatus:
        """Hubs, duties and engine."""
        return await self._connection.request("GET", "/v1/mesh", MeshStatus)
