"""A mesh on loopback: three NATS servers, three hubs, and a wire that can be held up between any two of them."""

import asyncio
import base64
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nats
from nats.js.api import StreamInfo

from support.hub_process import HubProcess
from support.mesh_disk import SmallDisk, small_disk
from support.mesh_wires import MeshWires, mesh_wires
from support.nats_process import NatsProcess
from support.ports import free_port

__all__ = ["HUBS", "NODES", "STREAMS", "MeshCluster", "mesh_cluster"]

NODES = ("n1", "n2", "n3")
HUBS = ("h1", "h2", "h3")
STREAMS = ("MW_KV", "MW_LOG", "MW_QUEUE")
# One server keeps what it has on a disk of this size. Enough for the longest run, and soon filled up.
_SMALL_DISK_MB = 768
_READY_WITHIN_S = 45.0
# Shorter than anything is frozen or cut off here.
_TASK_LEASE_MS = 4_000
_SECRET_KEY = base64.b64encode(hashlib.sha256(b"all hubs of a mesh have the same").digest()).decode()
# Servers know the wires to each other and no other way: nobody listens at what they would tell of themselves.
_NO_ADDRESS = "127.0.0.1:9"


class MeshCluster:
    """`nodes` and `hubs` by name. What is killed or stopped is started again by whoever did it."""

    def __init__(
        self,
        nodes: dict[str, NatsProcess],
        hubs: dict[str, HubProcess],
        wires: MeshWires,
        disk: SmallDisk | None,
    ) -> None:
        self.nodes = nodes
        self.hubs = hubs
        self.wires = wires
        # Of the last node, None where this machine lets nobody mount one.
        self.disk = disk

    @property
    def urls(self) -> Sequence[str]:
        return [hub.url for hub in self.hubs.values()]

    def leader_of_busiest_stream(self) -> str:
        """The node that leads the stream with the most messages so far."""
        infos = asyncio.run(self._streams())
        busiest = max(infos, key=lambda info: info.state.last_seq)
        assert busiest.cluster is not None
        assert busiest.cluster.leader is not None
        return busiest.cluster.leader

    def is_whole(self) -> bool:
        """Every stream has a leader, and all its copies are up to date."""
        try:
            infos = asyncio.run(self._streams())
        except (nats.errors.Error, OSError, TimeoutError):
            return False
        return all(
            info.cluster is not None
            and info.cluster.leader is not None
            and len(info.cluster.replicas or []) == len(NODES) - 1
            and all(peer.current and not peer.offline for peer in info.cluster.replicas or [])
            for info in infos
        )

    async def _streams(self) -> list[StreamInfo]:
        async with asyncio.timeout(10):
            client = await nats.connect([node.url for node in self.nodes.values()], connect_timeout=1)
            try:
                return [await client.jetstream(timeout=2).stream_info(name) for name in STREAMS]
            finally:
                await client.close()


@contextmanager
def mesh_cluster(folder: Path) -> Iterator[MeshCluster]:
    """All are ready. The hubs' logs and the servers' are in `folder`."""
    with ExitStack() as stack:
        wires = stack.enter_context(mesh_wires())
        disk = stack.enter_context(small_disk(folder, megabytes=_SMALL_DISK_MB))
        nodes = _nodes(folder, wires, disk)
        for node in nodes.values():
            stack.callback(node.stop)
            node.start()
        hubs = {}
        for name in HUBS:
            servers = ",".join(f"127.0.0.1:{wires.lay(name, node, nodes[node].port)}" for node in NODES)
            env = {"MESHWAY_SECRET_KEY": _SECRET_KEY, "MESHWAY_TASKS_LEASE_MS": str(_TASK_LEASE_MS)}
            hubs[name] = HubProcess(folder / name, flags=["--engine", f"nats://{servers}"], env=env)
        for hub in hubs.values():
            # Its end is the same whether it was started by a block or not.
            stack.push(hub.__exit__)
            hub.spawn()
        for hub in hubs.values():
            hub.wait_ready(within_s=_READY_WITHIN_S)
        yield MeshCluster(nodes, hubs, wires, disk)


def _nodes(folder: Path, wires: MeshWires, disk: SmallDisk | None) -> dict[str, NatsProcess]:
    ports = {name: free_port() for name in NODES}
    nodes = {}
    for name, port in ports.items():
        others = [f"127.0.0.1:{wires.lay(name, other, ports[other])}" for other in NODES if other != name]
        routes = ", ".join(f'"nats-route://{other}"' for other in others)
        options = (
            f'server_name: {name}\ncluster {{ name: mesh, listen: "127.0.0.1:{port}", routes: [{routes}], '
            f'advertise: "{_NO_ADDRESS}", no_advertise: true }}'
        )
        is_small = disk is not None and name == NODES[-1]
        nodes[name] = NatsProcess(
            folder / name,
            options=options,
            store=disk.path / "store" if is_small else None,
            within=disk.within if is_small else (),
        )
    return nodes
