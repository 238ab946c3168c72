"""The guide to many hubs does what it says: real servers, real hubs, and one of each killed on the way.

Blocks in terminals of their own begin one after another; each has shown its output before the next block runs.
"""

import re
import socket

import pytest
from document import ROOT, blocks_of
from stage import Stage, is_beside, matches

from support.ports import free_port

_GUIDE = ROOT / "docs/guides/cluster.md"
_ADDRESS = re.compile(r"127\.0\.0\.1:(\d[\d$n]+)")


class ClusterStage(Stage):
    """Every port of the document is another, free one, also those that a loop of the shell makes."""

    # Servers that elect on a busy machine.
    beside_within_s = 60.0

    def __init__(self, folder):
        super().__init__(folder)
        self._bases = {}

    def localised(self, text):
        return re.sub(
            r"--port (\d+)", lambda found: f"--port {self._port(found[1])}", _ADDRESS.sub(self._address, text)
        )

    def _address(self, found):
        return f"127.0.0.1:{self._port(found[1])}"

    def _port(self, port):
        if not port.endswith("$n") and not re.fullmatch(r"[46]23[1-3]", port):
            return self._bases.setdefault(port, str(free_port()))
        # 423$n and 4231 must be the same: three ports that differ in their last digit.
        base = self._bases.setdefault(port[:3], self._base_of_three())
        return f"{base}{port[3:]}"

    def _base_of_three(self):
        """Ports base1, base2 and base3, all free at this moment."""
        while True:
            base = str(free_port())[:-1]
            is_taken = any(each.startswith(base) for each in self._bases.values())
            if not is_taken and all(_is_free(int(f"{base}{last}")) for last in (1, 2, 3)):
                return base

    def _run_beside(self, block, command):
        expected = self.localised(block.expected)
        self._begin_beside(block, command, is_there=lambda output: matches(expected, output))


def _is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.timeout(300)
def test_the_guide_to_many_hubs_does_what_it_says(tmp_path):
    stage = ClusterStage(tmp_path)
    blocks = [block for block in blocks_of(_GUIDE) if block.language == "bash"]
    assert [block for block in blocks if is_beside(block) and block.expected is None] == []
    try:
        for block in blocks:
            stage.run_block(block)
    finally:
        stage.end_beside()


def test_ports_of_loops_and_of_addresses_are_the_same(tmp_path):
    text = ClusterStage(tmp_path).localised("127.0.0.1:423$n 127.0.0.1:4231 127.0.0.1:7071 --port 7071")
    loop, address, hub, port = (
        text.removeprefix("127.0.0.1:").replace("127.0.0.1:", "").replace("--port ", "").split(" ")
    )
    assert loop.replace("$n", "1") == address
    assert hub == port
