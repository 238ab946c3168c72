"""The demo agents beside a hub: a child process that leaves with its parent, however that ends."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec

from meshway.cli.failure import Failure

__all__ = ["demo_process", "storyteller_process"]

# A process of their own: they are called over real sockets like any agent, and cost the hub nothing. Named as text
# because the helpers for tests stand above the command line.
_MODULE = "meshway.testing.agents"
_STORYTELLER = "meshway.testing.storyteller"
_STOP_TIMEOUT_S = 5.0


@contextmanager
def demo_process() -> Iterator[Mapping[str, str]]:
    """Agent id -> URL, while the block runs. Raises: Failure when they cannot be started."""
    command = [sys.executable, "-m", _MODULE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # noqa: S603 (our own module)
        try:
            yield _read_addresses(child)
        finally:
            _end(child)


@contextmanager
def storyteller_process(url: str) -> Iterator[None]:
    """The demo agent that connects out to the hub at `url`, while the block runs."""
    command = [sys.executable, "-m", _STORYTELLER]
    environ = {**os.environ, "MESHWAY_URL": url}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environ) as child:  # noqa: S603 (our own module)
        try:
            yield
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()


def _read_addresses(child: subprocess.Popen[bytes]) -> Mapping[str, str]:
    line = child.stdout.readline() if child.stdout is not None else b""
    try:
        return msgspec.json.decode(line, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise Failure(
            "The demo agents did not start.", hint="The lines above say why; or go without --demo."
        ) from error
