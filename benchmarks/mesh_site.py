"""A mesh under measurement: hubs that share one NATS node, each on its own port, and what they meet there."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks.hub import Hub, call_status
from benchmarks.peers import nats_started
from benchmarks.processes import Server, free_port, started, until

__all__ = ["Mesh", "Nats", "cluster_started", "embedded_started", "mesh_started", "monitored_nats", "worker_at"]

_MESHWAY = str(Path(sys.executable).with_name("meshway"))
_WORKER_CAPACITY = 256
# A hub counts another one as there after four beats, and does what is done once only then.
_SETTLE_S = 2.5


@dataclass(frozen=True, slots=True)
class Nats:
    """One server; `monitor` is its HTTP port for figures."""

    server: Server
    url: str
    monitor: int

    def figures(self, page: str = "varz") -> dict[str, object]:
        """A page of its monitoring: `varz`, `jsz?consumers=true`, `connz`. Raises: OSError."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/{page}", timeout=10) as answer:
            found: dict[str, object] = json.load(answer)
        return found

    def count(self, name: str, page: str = "varz") -> int:
        """One figure of a page, such as `in_msgs`."""
        return int(str(self.figures(page)[name]))


@dataclass(frozen=True, slots=True)
class Mesh:
    """All its hubs have one key. `name` is what tables call it."""

    name: str
    hubs: Sequence[Hub]

    @property
    def key(self) -> str:
        return self.hubs[0].key

    @property
    def cpu_s(self) -> float:
        return sum(hub.server.cpu_s for hub in self.hubs)

    def wait_for_agent(self, agent_id: str) -> None:
        """Until every hub knows it. Raises: TimeoutError."""
        for hub in self.hubs:
            _wait_for(hub, f"/v1/agents/{agent_id}", self.key)


@contextmanager
def monitored_nats(folder: Path, *, sync: str = "always", options: str = "") -> Iterator[Nats]:
    """On any core. Raises: TimeoutError."""
    monitor = free_port()
    lines = f'http: "127.0.0.1:{monitor}"\n{options}'
    with nats_started(folder, core=None, sync=sync, options=lines) as (server, port):
        nats = Nats(server, f"nats://127.0.0.1:{port}", monitor)
        until(lambda: _is_monitored(nats))
        yield nats


@contextmanager
def cluster_started(folder: Path) -> Iterator[Sequence[Nats]]:
    """Three of them, which have elected a leader and see each other. Raises: TimeoutError."""
    routes = [free_port() for _ in range(3)]
    known = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in routes)
    with ExitStack() as stack:
        nodes = []
        for number, port in enumerate(routes, 1):
            options = (
                f'server_name: n{number}\ncluster {{ name: bench, listen: "127.0.0.1:{port}", routes: [{known}] }}'
            )
            nodes.append(stack.enter_context(monitored_nats(folder / f"n{number}", options=options)))
        until(lambda: any(_leads_all(node) for node in nodes), timeout_s=60)
        yield nodes


@contextmanager
def mesh_started(folder: Path, *, engine: str, hubs: int, prefix: str, key: str | None = None) -> Iterator[Mesh]:
    """`prefix` keeps it apart from other meshes on the same server; `key` is that of hubs that are there already.

    Raises: TimeoutError, RuntimeError.
    """
    environ = {"MESHWAY_NATS_PREFIX": prefix}
    with ExitStack() as stack:
        first = stack.enter_context(_hub(folder, number=1, engine=engine, environ=environ))
        key = key or _made_key(first)
        others = [
            stack.enter_context(_hub(folder, number=number, engine=engine, environ=environ))
            for number in range(2, hubs + 1)
        ]
        named = [Hub(hub.server, hub.url, key, hub.ready_s, hub.idle_mb) for hub in (first, *others)]
        for hub in named:
            _wait_for(hub, "/v1/agents", key)
        time.sleep(_SETTLE_S)
        yield Mesh(f"{hubs} x NATS", named)


@contextmanager
def embedded_started(folder: Path) -> Iterator[Mesh]:
    """One hub on its own store, on any core like the others. Raises: TimeoutError, RuntimeError."""
    with mesh_started(folder, engine="embedded", hubs=1, prefix="none") as mesh:
        yield Mesh("embedded", mesh.hubs)


@contextmanager
def worker_at(mesh: Mesh, folder: Path) -> Iterator[None]:
    """An instance of the agent `worker` at each hub."""
    with ExitStack() as stack:
        for number, hub in enumerate(mesh.hubs):
            command = [sys.executable, "-m", "benchmarks.task_worker", hub.url, mesh.key, str(_WORKER_CAPACITY)]
            stack.enter_context(started(command, core=None, log=folder / f"worker-{number}.log"))
        mesh.wait_for_agent("worker")
        yield


def _made_key(hub: Hub) -> str:
    status, body = call_status(hub.url, "/v1/keys", {"name": "bench", "scopes": ["admin"]})
    if status != 201:
        raise RuntimeError(f"the hub made no key: {status} {body[:300]!r}")
    return str(json.loads(body)["key"])


@contextmanager
def _hub(folder: Path, *, number: int, engine: str, environ: dict[str, str]) -> Iterator[Hub]:
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [_MESHWAY, "up", "--engine", engine, "--port", str(port), "--data", str(folder / "data")]
    log = folder / f"hub-{number}.log"
    with started(command, core=None, log=log, environ=environ) as server:
        url = f"http://127.0.0.1:{port}"
        ready_s = until(lambda: _is_ready(server, url))
        yield Hub(server, url, "", ready_s, server.resident_mb)


def _wait_for(hub: Hub, path: str, key: str) -> None:
    until(lambda: call_status(hub.url, path, key=key)[0] == 200)


def _is_ready(server: Server, url: str) -> bool:
    if server.process.poll() is not None:
        raise RuntimeError(f"the hub ended: {server.log.read_text()[-1_000:]}")
    try:
        return call_status(url, "/readyz")[0] == 200
    except OSError:
        return False


def _leads_all(node: Nats) -> bool:
    meta = cast("dict[str, object]", node.figures("jsz").get("meta_cluster") or {})
    others = cast("list[dict[str, object]]", meta.get("replicas") or [])
    return len(others) == 2 and all(each.get("current") and not each.get("offline") for each in others)


def _is_monitored(nats: Nats) -> bool:
    if nats.server.process.poll() is not None:
        raise subprocess.SubprocessError(f"nats-server ended: {nats.server.log.read_text()[-1_000:]}")
    try:
        return "in_msgs" in nats.figures()
    except OSError:
        return False
