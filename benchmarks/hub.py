"""The hub under measurement: a real process with a key, metrics and routing on, as `meshway up` starts it."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import SERVER_CORE, Server, free_port, started, until

__all__ = ["Hub", "call_status", "hub_started"]

_MESHWAY = str(Path(sys.executable).with_name("meshway"))


@dataclass(frozen=True, slots=True)
class Hub:
    server: Server
    url: str
    key: str
    # From the start of the process to the first 200 of /readyz.
    ready_s: float
    # Resident memory once it is ready and nothing has been asked of it.
    idle_mb: float

    def register(self, agents: Mapping[str, str]) -> None:
        """Agent id -> URL. Raises: RuntimeError with the hub's words."""
        for agent_id, url in agents.items():
            status, body = call_status(self.url, "/v1/agents", {"id": agent_id, "url": url}, key=self.key)
            if status not in {200, 201}:
                raise RuntimeError(f"the hub refused agent {agent_id}: {status} {body[:300]!r}")


@contextmanager
def hub_started(folder: Path) -> Iterator[Hub]:
    """A fresh data directory, a key that may do everything, then the hub. Raises: TimeoutError, CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    data, port = folder / "data", free_port()
    create = [_MESHWAY, "keys", "create", "bench", "--scope", "admin", "--data", str(data), "--json"]
    key = json.loads(subprocess.run(create, capture_output=True, text=True, check=True).stdout)["key"]
    command = [_MESHWAY, "up", "--port", str(port), "--data", str(data)]
    with started(command, core=SERVER_CORE, log=folder / "hub.log") as server:
        url = f"http://127.0.0.1:{port}"
        ready_s = until(lambda: _is_ready(url))
        yield Hub(server, url, key, ready_s, server.resident_mb)


def call_status(url: str, path: str, body: object = None, *, key: str | None = None) -> tuple[int, bytes]:
    """One exchange with a JSON body (GET without one): status and body. Raises: OSError."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    headers = {"Content-Type": "application/json", "A2A-Version": "1.0"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    content = None if body is None else json.dumps(body)
    try:
        connection.request("GET" if content is None else "POST", path, body=content, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _is_ready(url: str) -> bool:
    try:
        return call_status(url, "/readyz")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
