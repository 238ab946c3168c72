"""`/v1/mesh`: from the wire to a use case and back."""

from collections.abc import Sequence

from starlette.responses import Response

from meshway.edges.rest.mesh_models import EngineNodeView, MeshDutyView, MeshEngineView, MeshHubView, MeshView
from meshway.edges.rest.operations import Answers, Operation, RestCall, json_response
from meshway.gateway.show_mesh import MeshPicture
from meshway.kernel.clock import rfc3339_ms

__all__ = ["mesh_operations", "show_mesh"]


def mesh_operations() -> Sequence[Operation]:
    """All of them, in the order in which paths are tried."""
    return (
        Operation(
            method="GET",
            path="/v1/mesh",
            id="showMesh",
            tag="operations",
            summary="Which hubs there are, who does what is done once, and how the engine's nodes are",
            description="As the process that answers sees it. Needs `admin`.",
            handler=show_mesh,
            answers=Answers({200: MeshView}),
        ),
    )


async def show_mesh(call: RestCall) -> Response:
    return json_response(_view(await call.services.mesh.execute(call.principal)))


def _view(seen: MeshPicture) -> MeshView:
    hubs = tuple(
        MeshHubView(
            id=hub.record.id,
            url=hub.record.url,
            version=hub.record.version,
            host=hub.record.host,
            pid=hub.record.pid,
            started_at=rfc3339_ms(hub.record.started_at_ms),
            state=hub.state,
            silent_ms=hub.silent_ms,
            is_this=hub.record.id == seen.me,
            duties=tuple(name for name, duty in seen.duties.items() if duty.hub == hub.record.id),
        )
        for hub in seen.hubs
    )
    duties = tuple(
        MeshDutyView(name=name, hub=duty.hub, since=rfc3339_ms(duty.since_ms)) for name, duty in seen.duties.items()
    )
    nodes = tuple(
        EngineNodeView(
            name=node.name, leads=tuple(node.leads), lag=node.lag, current=node.is_current, offline=node.is_offline
        )
        for node in seen.nodes
    )
    health = seen.health
    engine = MeshEngineView(
        name=seen.engine, durability=seen.durability, writable=health.writable, reason=health.reason, nodes=nodes
    )
    return MeshView(hubs=hubs, duties=duties, engine=engine)
