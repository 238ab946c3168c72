"""The code blocks of the README and the guides do what they say, and so do the examples, against a real hub process.

`bash` and `python` blocks run in the order of the document; a `text` block after one is its output, with `...` for what
differs each time. A block that begins with `# in a terminal of its own` goes on while the following ones run. `sh`
blocks are for reading: they start what the fixture has started already.
"""

import signal
import sys

import pytest
from document import ROOT, blocks_of
from stage import BIN, Stage, matches, poll, wait_for

_DOCUMENTS = [
    "README.md",
    "docs/guides/getting-started.md",
    "docs/guides/register-agents.md",
    "docs/guides/durable-tasks.md",
    "docs/guides/messaging.md",
    "docs/guides/operate.md",
]
_FLEET = [sys.executable, str(ROOT / "examples/research_fleet.py")]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    made = Stage(tmp_path_factory.mktemp("stage"))
    hub = made.start(str(BIN / "meshway"), "up", "--demo", "--port", str(made.hub_port), "--data", "meshway-data")
    greeter = made.start(sys.executable, str(ROOT / "examples/greeter_agent.py"), "--port", str(made.agent_port))
    try:
        wait_for(f"http://127.0.0.1:{made.hub_port}/readyz", hub)
        wait_for(f"http://127.0.0.1:{made.hub_port}/v1/agents/shout", hub)
        wait_for(f"http://127.0.0.1:{made.hub_port}/v1/agents/storyteller", hub)
        wait_for(f"http://127.0.0.1:{made.agent_port}/.well-known/agent-card.json", greeter)
        yield made
    finally:
        for process in (hub, greeter):
            process.terminate()
        for process in (hub, greeter):
            process.wait(timeout=10)


@pytest.mark.parametrize("name", _DOCUMENTS)
def test_the_code_in_the_document_does_what_it_says(stage, name):
    blocks = [block for block in blocks_of(ROOT / name) if block.language in ("bash", "python")]
    assert blocks
    try:
        for block in blocks:
            stage.run_block(block)
        stage.check_beside()
    finally:
        stage.end_beside()


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


def test_the_fleet_answers_every_question_although_one_of_it_is_killed(stage):
    asked = stage.run([*_FLEET, "ask", "Why is tea bitter?", "Who drinks it cold!", "", "Since when?"])
    assert asked.stdout == "4 questions are in fleet.questions\n", asked.stderr
    before = stage.figure("meshway_socket_connections")
    lost, kept = stage.start(*_FLEET, "work", "--concurrency", "1"), None
    try:
        poll(lambda: stage.figure("meshway_socket_connections") > before, failure=lambda: "the worker never came")
        lost.send_signal(signal.SIGKILL)
        kept = stage.start(*_FLEET, "work")

        def findings() -> list[str]:
            return stage.run([*_FLEET, "report"]).stdout.splitlines()

        poll(lambda: len(findings()) == 3, failure=lambda: str(findings()))
        dead = stage.run(["meshway", "queues", "dead-letters", "fleet.questions", "--json"])
        assert "there is no question" in dead.stdout
        assert {line.partition(". ")[2] for line in findings()} == {
            "All about why is tea bitter.",
            "All about who drinks it cold.",
            "All about since when.",
        }
    finally:
        for worker in filter(None, (lost, kept)):
            worker.terminate()
            assert worker.wait(timeout=10) in (0, -signal.SIGKILL)


def test_a_block_that_ends_instead_of_listening_is_found(stage, tmp_path):
    document = tmp_path / "guide.md"
    document.write_text("```bash\n# in a terminal of its own\nexit 3\n```\n")
    (block,) = blocks_of(document)
    with pytest.raises(AssertionError, match="line 1 ended with 3"):
        stage.run_block(block)
    stage.end_beside()
