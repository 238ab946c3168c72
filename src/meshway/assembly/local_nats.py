"""A nats-server of this hub's own, for its worker processes: started, kept alive and ended with them.

It listens on loopback, lets in who has the token that is made at each start, and syncs every write before it answers,
so what the hub has acknowledged is on the disk. Its data lies beside the hub's.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from functools import partial
from pathlib import Path

import msgspec
import structlog

from meshway.assembly.child_processes import dies_with_parent
from meshway.engine.embedded.data_dir import hold_data_dir
from meshway.engine.nats.settings import NatsSettings
from meshway.kernel.errors import EngineUnavailable, FieldError, InvalidRequest

__all__ = ["LocalNats", "find_nats_server"]

_log = structlog.get_logger()

_READY_WITHIN_S = 20.0
_STOP_WITHIN_S = 20.0
_POLL_S = 0.02
_PORTS = range(20_000, 32_000)
# The hub's own limit on a body is 8 MiB; the server's default of 1 MiB would send every larger one through the blobs.
_PAYLOAD_MAX = "8MB"
_OF_OTHER_SERVERS = (
    "credentials_file",
    "nkey_seed_file",
    "user",
    "password",
    "tls_ca_file",
    "tls_certificate_file",
    "tls_key_file",
    "domain",
)
_CONFIGURATION = """\
server_name: meshway
listen: "127.0.0.1:{port}"
authorization {{ token: "{token}" }}
max_payload: {payload}
jetstream {{ store_dir: "{store}", sync_interval: always }}
"""


def find_nats_server(named: str | None) -> Path:
    """The binary that was named, else the one on the PATH. Raises: InvalidRequest naming `nats_server`."""
    found = shutil.which(named or "nats-server")
    if found is None:
        text = (
            f"there is no program {named!r}"
            if named is not None
            else "several hub processes share a nats-server, and there is none on the PATH: install it from "
            "https://nats.io/download (2.12 or newer), name it with --nats-server, or name a cluster with --engine"
        )
        raise InvalidRequest(f"nats_server: {text}", fields=[FieldError("nats_server", text)])
    return Path(found)


class LocalNats:
    """One server over `folder`. `start` it, again where it is no more `is_alive`; `stop` at the end."""

    def __init__(self, binary: Path, folder: Path) -> None:
        """Raises: DataDirLocked where another hub's server has the folder, EngineUnavailable."""
        self._binary = binary
        self._lock = hold_data_dir(folder)
        self._folder = folder
        self._port = _free_port()
        self._token = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None

    def joined_to(self, settings: NatsSettings) -> NatsSettings:
        """`settings` with how to connect to this server, in place of whatever they say about others."""
        strangers = dict.fromkeys(_OF_OTHER_SERVERS)
        servers = (f"nats://127.0.0.1:{self._port}",)
        return msgspec.structs.replace(settings, **{**strangers, "token": self._token}, servers=servers, synced=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns once it listens. Raises: EngineUnavailable with what it said."""
        configuration, log = self._folder / "nats.conf", self._folder / "nats.log"
        text = _CONFIGURATION.format(
            port=self._port, token=self._token, payload=_PAYLOAD_MAX, store=self._folder / "store"
        )
        descriptor = os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 (the binary that the operator named)
                [str(self._binary), "-c", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=partial(dies_with_parent, os.getpid()),
                # Out of reach of a Ctrl-C in the terminal: it ends after the workers, which store to the last.
                process_group=0,
            )
        ends_at = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < ends_at:
            if self._process.poll() is not None:
                raise EngineUnavailable(f"{self._binary} ended with {self._process.returncode}; see {log}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    _log.info("local_nats_started", pid=self.pid, port=self._port, data=str(self._folder))
                    return
            time.sleep(_POLL_S)
        raise EngineUnavailable(f"{self._binary} does not listen after {_READY_WITHIN_S:g} s; see {log}")

    def stop(self) -> None:
        """As an operator would; idempotent."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._lock.release()


def _free_port() -> int:
    """Below what systems give to outgoing connections.

    A hub that tries to reach a server which is not there would now and then connect to itself in that range, and the
    server could not come back.
    """
    while True:
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
