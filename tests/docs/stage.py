"""Where the code of the docs runs: a hub with demo agents and the greeter of the examples, and terminals beside it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from document import Block

from support.ports import free_port

__all__ = ["BIN", "Beside", "Stage", "is_beside", "matches", "poll", "wait_for"]

BIN = Path(sys.executable).parent
_RUN = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
# The first line of a block that goes on while the following ones run.
_BESIDE = "# in a terminal of its own"
_SAMPLE = re.compile(r"^(meshway_[a-z_]+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@dataclass(slots=True)
class Beside:
    """A block that runs in a terminal of its own."""

    block: Block
    process: subprocess.Popen
    output: Path


class Stage:
    """Free ports stand in place of those the documents name."""

    # A block in a terminal of its own is there by then.
    beside_within_s = 15.0

    def __init__(self, folder: Path) -> None:
        self.hub_port, self.agent_port = free_port(), free_port()
        self.folder = folder
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MESHWAY_")},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "MESHWAY_URL": f"http://127.0.0.1:{self.hub_port}",
            "PYTHONUNBUFFERED": "1",
        }
        self.beside: list[Beside] = []

    def start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(command, env=self.environ, cwd=self.folder, stdout=subprocess.DEVNULL)

    def localised(self, text: str) -> str:
        return text.replace("127.0.0.1:7070", f"127.0.0.1:{self.hub_port}").replace(
            "127.0.0.1:9000", f"127.0.0.1:{self.agent_port}"
        )

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=60)

    def run_block(self, block: Block) -> None:
        """To its end, and compare what it prints; or beside the following ones."""
        command = [*_RUN[block.language], self.localised(block.code)]
        if is_beside(block):
            self._run_beside(block, command)
            return
        outcome = self.run(command)
        assert outcome.returncode == 0, f"line {block.line}: {outcome.stderr}"
        if block.expected is not None:
            expected = self.localised(block.expected)
            assert matches(expected, outcome.stdout), f"line {block.line} printed:\n{outcome.stdout}\nnot:\n{expected}"

    def check_beside(self) -> None:
        """Wait until each block that runs beside the others has printed what it should."""
        for each in self.beside:
            expected = self.localised(each.block.expected or "...")
            poll(
                lambda each=each, expected=expected: matches(expected, each.output.read_text()),
                failure=lambda each=each: f"line {each.block.line} printed:\n{each.output.read_text()}",
            )

    def end_beside(self) -> None:
        """Stop them as their users would, with Ctrl-C."""
        beside, self.beside = self.beside, []
        for each in beside:
            # A shell, and what it waits for.
            if each.process.poll() is None:
                os.killpg(each.process.pid, signal.SIGINT)
        for each in beside:
            each.process.wait(timeout=10)

    def figure(self, name: str) -> float:
        """The sum of a metric of the hub over its labels."""
        text = httpx.get(f"http://127.0.0.1:{self.hub_port}/metrics", trust_env=False).text
        return sum(float(value) for found, value in _SAMPLE.findall(text) if found == name)

    def _run_beside(self, block: Block, command: list[str]) -> None:
        # A worker need not be there when work comes; who listens must be.
        figure = "meshway_socket_connections" if "worker" in block.code else "meshway_channel_listeners"
        before = self.figure(figure)
        self._begin_beside(block, command, is_there=lambda output: self.figure(figure) > before)

    def _begin_beside(self, block: Block, command: list[str], *, is_there: Callable[[str], bool]) -> None:
        """Start it, and return once `is_there` says so of what it has printed."""
        output = self.folder / f"beside-{block.line}.txt"
        with output.open("w") as file:
            process = subprocess.Popen(
                command,
                env=self.environ,
                cwd=self.folder,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=_heed_ctrl_c,
            )
        self.beside.append(Beside(block, process, output))
        poll(
            lambda: is_there(output.read_text()) or process.poll() is not None,
            failure=lambda: f"nobody has seen line {block.line}: {output.read_text()}",
            timeout_s=self.beside_within_s,
        )
        assert process.poll() is None, f"line {block.line} ended with {process.returncode}: {output.read_text()}"


def _heed_ctrl_c() -> None:
    """As in a terminal; what a script runs in the background ignores it, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_beside(block: Block) -> bool:
    return block.code.startswith(_BESIDE)


def poll(condition: Callable[[], bool], *, failure: Callable[[], str], timeout_s: float = 15) -> None:
    """Until the condition holds, or fail."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(failure())
        time.sleep(0.02)


def wait_for(url: str, process: subprocess.Popen) -> None:
    """Until something serves the address."""

    def is_served() -> bool:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            return httpx.get(url, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    poll(is_served, failure=lambda: f"nothing serves {url}")


def matches(expected: str, printed: str) -> bool:
    """`...` stands for anything, also over several lines."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None
