"""Three NATS servers whose routes to each other can be held up, while their clients reach them as before."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.mesh_wires import MeshWires, mesh_wires
from support.nats_process import NatsProcess
from support.ports import free_port

__all__ = ["PartedCluster", "parted_cluster"]

_NODES = ("n1", "n2", "n3")
# Servers know the wires to each other and no other way: nobody listens at what they would tell of themselves.
_NO_ADDRESS = "127.0.0.1:9"


class PartedCluster:
    def __init__(self, nodes: Mapping[str, NatsProcess], wires: MeshWires) -> None:
        self.nodes = nodes
        self._wires = wires

    def part(self, name: str) -> None:
        """From the others; nobody is told."""
        self._wires.hold_up(lambda source, target: name in (source, target))

    def mend(self) -> None:
        self._wires.mend()


@contextmanager
def parted_cluster(folder: Path) -> Iterator[PartedCluster]:
    """Listening, and perhaps still electing. Clients are told where all of them are."""
    ports = {name: free_port() for name in _NODES}
    with ExitStack() as stack:
        wires = stack.enter_context(mesh_wires())
        nodes = {}
        for name, port in ports.items():
            others = [wires.lay(name, other, ports[other]) for other in _NODES if other != name]
            routes = ", ".join(f'"nats-route://127.0.0.1:{other}"' for other in others)
            options = (
                f'server_name: {name}\ncluster {{ name: mesh, listen: "127.0.0.1:{port}", routes: [{routes}], '
                f'advertise: "{_NO_ADDRESS}" }}'
            )
            nodes[name] = NatsProcess(folder / name, options=options)
            stack.callback(nodes[name].stop)
            nodes[name].start()
        yield PartedCluster(nodes, wires)
