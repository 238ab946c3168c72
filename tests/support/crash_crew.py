"""The child processes of a crash test: named, each with a log in the folder, and missed at once when one dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from support.hub_process import select_pause

__all__ = ["Crew"]

_TESTS = Path(__file__).parents[1]
_CHILD_ENDS_WITHIN_S = 30.0
_LOG_SHOWN_CHARS = 4_000


class Crew:
    """`close` kills whatever is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, name: str, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", module, *arguments]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(_TESTS), **(env or {})},
            )

    def names(self, kind: str) -> list[str]:
        """Of those that live, as `kind-...`."""
        return [name for name in self._children if name.startswith(kind)]

    def kill(self, name: str) -> None:
        child = self._children.pop(name)
        child.kill()
        child.wait(10)

    def freeze(self, name: str, seconds: float) -> None:
        """It does not know that it slept."""
        self._children[name].send_signal(signal.SIGSTOP)
        self.wait(seconds)
        self._children[name].send_signal(signal.SIGCONT)

    def end(self, kind: str, *, within_s: float = _CHILD_ENDS_WITHIN_S) -> None:
        """SIGTERM for all of the kind, which is to end well."""
        ending = {name: self._children[name] for name in self.names(kind)}
        for child in ending.values():
            child.terminate()
        for name, child in ending.items():
            status = child.wait(within_s)
            assert status == 0, f"{name} ended with {status}:\n{self._log_of(name)}"
            del self._children[name]

    def wait(self, seconds: float) -> None:
        """Let the load run, unless somebody has died of it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.check()
            select_pause()

    def until(self, is_so: Callable[[], bool], within_s: float, *, report: Callable[[], object]) -> None:
        """`report` says how things are when it takes too long."""
        give_up = time.monotonic() + within_s
        while not is_so():
            self.check()
            assert time.monotonic() < give_up, report()
            select_pause()

    def check(self) -> None:
        for name, child in self._children.items():
            if child.poll() is not None:
                raise AssertionError(f"{name} ended with {child.returncode}:\n{self._log_of(name)}")

    def close(self) -> None:
        for child in self._children.values():
            child.kill()
            child.wait(10)

    def _log_of(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-_LOG_SHOWN_CHARS:]
