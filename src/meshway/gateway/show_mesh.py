"""What an operator asks of a mesh: which hubs there are, who does what is done once, and how the engine's nodes are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshway.coordination.duty_leases import DutyLeases, DutyRecord
from meshway.coordination.hubs import HeardHub, HubId, MeshHubs
from meshway.engine.ports import Engine, EngineHealth, EngineNode
from meshway.gateway.admission import Admission
from meshway.kernel.principal import Principal

__all__ = ["MeshPicture", "ShowMesh"]


@dataclass(frozen=True, slots=True)
class MeshPicture:
    """As the hub that was asked sees it. `nodes`: servers of a cluster; a single one and an embedded engine have none.

    `duties`: by name; empty where the hub is the whole mesh and does them all.
    """

    me: HubId
    hubs: Sequence[HeardHub]
    duties: Mapping[str, DutyRecord]
    engine: str
    durability: str
    health: EngineHealth
    nodes: Sequence[EngineNode]


class ShowMesh:
    """For admins: it names machines."""

    def __init__(self, hubs: MeshHubs, leases: DutyLeases, engine: Engine, admission: Admission) -> None:
        self._hubs = hubs
        self._leases = leases
        self._engine = engine
        self._admission = admission

    async def execute(self, principal: Principal) -> MeshPicture:
        """Raises: Forbidden. What the engine does not answer is left out."""
        self._admission.admit_admin(principal)
        return MeshPicture(
            me=self._hubs.me,
            hubs=self._hubs.all(),
            duties=self._leases.all(),
            engine=self._engine.name,
            durability=self._engine.durability,
            health=await self._engine.health(),
            nodes=await self._engine.nodes(),
        )
