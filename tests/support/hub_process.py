"""A real hub in a process of its own, as a user starts it."""

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from support.ports import free_port

__all__ = ["HubProcess", "engine_environment", "running_hub"]

_READY_WITHIN_S = 20.0


def engine_environment(data: Path) -> dict[str, str]:
    """With MESHWAY_TEST_ENGINE=nats://... every hub of a test run stands there, under a prefix of its own.

    With MESHWAY_TEST_WORKERS=2 it has so many processes, so that any two calls of a test may come to different ones.
    """
    engine = os.environ.get("MESHWAY_TEST_ENGINE")
    if engine is None:
        return {}
    prefix = hashlib.sha256(str(data).encode()).hexdigest()[:12]
    workers = os.environ.get("MESHWAY_TEST_WORKERS", "1")
    return {"MESHWAY_ENGINE": engine, "MESHWAY_NATS_PREFIX": prefix, "MESHWAY_WORKERS": workers}


class HubProcess:
    """`meshway up` on a free port and a data directory; start, kill and start again keep both.

    `program`: what is started next, the `meshway` of this environment unless it is set.
    """

    def __init__(
        self, data: Path, *, flags: Sequence[str] = (), config: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.program = Path(sys.executable).parent / "meshway"
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key: str | None = None
        # What the log said when the block ended; the file goes with the directory.
        self.last_log = ""
        self.log = data.parent / f"{data.name}-hub.log"
        self._flags = list(flags)
        self._env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
        self._env |= {**engine_environment(data), **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        if config is not None:
            path = data.parent / f"{data.name}.toml"
            path.write_text(config)
            self._flags += ["--config", str(path)]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> "subprocess.Popen[bytes]":
        command = [str(self.program), "up", "--port", str(self.port), "--data", str(self.data)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command + self._flags, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._env
            )
        return self._process

    def start(self) -> "HubProcess":
        self.spawn()
        return self.wait_ready()

    def wait_ready(self, *, within_s: float = _READY_WITHIN_S) -> "HubProcess":
        """After `spawn`. Raises: AssertionError with its log when it ends before, or takes longer."""
        process = self._process
        assert process is not None
        give_up = time.monotonic() + within_s
        while time.monotonic() < give_up:
            if process.poll() is not None:
                raise AssertionError(f"the hub ended with {process.returncode}:\n{self.log.read_text()}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=1) as answer:
                if answer.status == 200:
                    return self
            select_pause()
        raise AssertionError(f"the hub was not ready in {within_s} s:\n{self.log.read_text()}")

    def stop(self, *, within_s: float = 30.0) -> int:
        """SIGTERM, wait; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(within_s)

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, within_s: float) -> int:
        """The exit status of a hub that ends by itself."""
        assert self._process is not None
        return self._process.wait(within_s)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def request(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], object]:
        """Status, headers (lower-case names) and decoded JSON of one call; never raises for an error status."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, method=method)
        if data is not None:
            request.add_header("content-type", "application/json")
        if self.key is not None:
            request.add_header("authorization", f"Bearer {self.key}")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return _read(answer.status, answer.headers.items(), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return _read(error.code, error.headers.items(), error.read())

    def register(self, agent_id: str, url: str, **fields: object) -> dict[str, object]:
        status, _, agent = self.request("POST", "/v1/agents", {"id": agent_id, "url": url, **fields})
        assert status in (200, 201), agent
        assert isinstance(agent, dict)
        return agent

    def __enter__(self) -> "HubProcess":
        try:
            return self.start()
        except BaseException:
            # No block that would end it.
            if self._process is not None and self._process.poll() is None:
                self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.last_log = self.log.read_text()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)


def select_pause() -> None:
    """The gap between two polls of something that has no event to wait for."""

    select.select([], [], [], 0.02)


def _read(status: int, headers: object, body: bytes) -> tuple[int, dict[str, str], object]:
    lowered = {name.lower(): value for name, value in headers}  # type: ignore[attr-defined]
    try:
        return status, lowered, json.loads(body) if body else None
    except ValueError:
        return status, lowered, body


@contextlib.contextmanager
def running_hub(
    *, flags: Sequence[str] = (), config: str | None = None, env: Mapping[str, str] | None = None
) -> Iterator[HubProcess]:
    """A hub on a fresh data directory, gone afterwards."""
    with (
        tempfile.TemporaryDirectory() as folder,
        HubProcess(Path(folder) / "data", flags=flags, config=config, env=env) as hub,
    ):
        yield hub
