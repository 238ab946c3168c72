"""The code blocks of the README and the guides do what they say, and so do the examples, against a real hub process.

`bash` and `python` blocks run in the order of the document; a `text` block after one is its output, with `...` for what
differs each time. `sh` blocks are for reading: they start what the fixture has started already.
"""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from document import ROOT, Block, blocks_of

_BIN = Path(sys.executable).parent
_RUN = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
_DOCUMENTS = ["README.md", "docs/guides/getting-started.md", "docs/guides/register-agents.md", "docs/guides/operate.md"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    pytest.fail(f"nothing serves {url}")


class Stage:
    """A hub with demo agents and the greeter of the examples, on free ports in place of those the documents name."""

    def __init__(self, folder: Path) -> None:
        self.hub_port, self.agent_port = free_port(), free_port()
        self.folder = folder
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MESHWAY_")},
            "PATH": f"{_BIN}:{os.environ['PATH']}",
            "MESHWAY_URL": f"http://127.0.0.1:{self.hub_port}",
        }

    def start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(command, env=self.environ, cwd=self.folder, stdout=subprocess.DEVNULL)

    def localised(self, text: str) -> str:
        return text.replace("127.0.0.1:7070", f"127.0.0.1:{self.hub_port}").replace(
            "127.0.0.1:9000", f"127.0.0.1:{self.agent_port}"
        )

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    made = Stage(tmp_path_factory.mktemp("stage"))
    hub = made.start(str(_BIN / "meshway"), "up", "--demo", "--port", str(made.hub_port), "--data", "meshway-data")
    greeter = made.start(sys.executable, str(ROOT / "examples/greeter_agent.py"), "--port", str(made.agent_port))
    try:
        wait_for(f"http://127.0.0.1:{made.hub_port}/readyz", hub)
        wait_for(f"http://127.0.0.1:{made.hub_port}/v1/agents/shout", hub)
        wait_for(f"http://127.0.0.1:{made.agent_port}/.well-known/agent-card.json", greeter)
        yield made
    finally:
        for process in (hub, greeter):
            process.terminate()
        for process in (hub, greeter):
            process.wait(timeout=10)


def matches(expected: str, printed: str) -> bool:
    """`...` stands for anything, also over several lines."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def run_block(stage: Stage, block: Block) -> None:
    outcome = stage.run([*_RUN[block.language], stage.localised(block.code)])
    assert outcome.returncode == 0, f"line {block.line}: {outcome.stderr}"
    if block.expected is not None:
        expected = stage.localised(block.expected)
        assert matches(expected, outcome.stdout), f"line {block.line} printed:\n{outcome.stdout}\nnot:\n{expected}"


@pytest.mark.parametrize("name", _DOCUMENTS)
def test_the_code_in_the_document_does_what_it_says(stage, name):
    blocks = [block for block in blocks_of(ROOT / name) if block.language in _RUN]
    assert blocks
    for block in blocks:
        run_block(stage, block)


def test_a_block_that_prints_something_else_is_found():
    assert matches("a ... c", "a b c")
    assert not matches("a ... d", "a b c")
    assert not matches("GOOD MORNING", "good morning")


def test_the_example_agent_answers_a_stock_client_through_the_hub(stage):
    added = stage.run(["meshway", "agents", "add", "greeter", f"http://127.0.0.1:{stage.agent_port}"])
    assert added.returncode == 0, added.stderr
    outcome = stage.run([sys.executable, str(ROOT / "examples/stock_client.py"), "greeter", "Ada"])
    assert outcome.stdout.splitlines() == ["answer: Good morning, Ada!", "stream: Good morning, Ada!"], outcome.stderr


def test_the_stock_client_reaches_an_agent_of_the_old_protocol(stage):
    outcome = stage.run([sys.executable, str(ROOT / "examples/stock_client.py"), "shout", "ada"])
    assert outcome.stdout.splitlines() == ["answer: ADA", "stream: ADA"], outcome.stderr


def test_the_hubs_own_client_finds_asks_answers_and_reads_errors(stage):
    outcome = stage.run([sys.executable, str(ROOT / "examples/meshway_client.py")])
    lines = outcome.stdout.splitlines()
    assert {"countdown: Countdown", "echo: Echo", "shout: Shout"} <= set(lines), outcome.stderr
    assert lines[-4:] == [
        "echo says: good morning",
        "countdown asks: From which number shall I count down?",
        "countdown: 3 2 1 lift-off",
        "nobody: agent_not_found",
    ]
