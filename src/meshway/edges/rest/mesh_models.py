"""What a mesh shows of itself under `/v1/mesh`."""

from typing import Annotated, Literal

import msgspec

from meshway.edges.rest.models import Moment

__all__ = ["EngineNodeView", "MeshDutyView", "MeshEngineView", "MeshHubView", "MeshView"]


class MeshHubView(msgspec.Struct, frozen=True, kw_only=True):
    """One process. `lost`: it fell silent; `gone`: it said goodbye; both are shown for a minute."""

    id: str
    url: str
    version: str
    host: str
    pid: int
    started_at: Moment
    state: Literal["up", "draining", "lost", "gone"]
    silent_ms: Annotated[int, msgspec.Meta(description="Since it was heard last.")]
    is_this: Annotated[bool, msgspec.Meta(description="The process that answers.")]
    duties: Annotated[tuple[str, ...], msgspec.Meta(description="What it does for the whole mesh.")]


class MeshDutyView(msgspec.Struct, frozen=True, kw_only=True):
    """Who does what is done once in the mesh."""

    name: str
    hub: str
    since: Moment


class EngineNodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A server of the engine's cluster: the streams it leads, and how many operations it is behind in the others."""

    name: str
    leads: tuple[str, ...]
    lag: int
    current: bool
    offline: bool


class MeshEngineView(msgspec.Struct, frozen=True, kw_only=True):
    """`nodes` is empty for an embedded engine and for a single server."""

    name: str
    durability: str
    writable: bool
    reason: str | None
    nodes: tuple[EngineNodeView, ...]


class MeshView(msgspec.Struct, frozen=True, kw_only=True):
    """As the process that answers sees it."""

    hubs: tuple[MeshHubView, ...]
    duties: tuple[MeshDutyView, ...]
    engine: MeshEngineView
