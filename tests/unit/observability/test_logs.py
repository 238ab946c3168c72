"""What a log line looks like, and what must never be in one."""

import io
import json
import logging
import subprocess
import sys

import pytest
import structlog

from meshway.observability.logs import configure_logging
from meshway.observability.redaction import MASK, redact, redact_text
from meshway.observability.settings import LogSettings
from meshway.testing.clock import ManualClock

KEY = "mw_abcdefghijkl_" + "Ab-_" * 10 + "xyz"


@pytest.fixture
def _logging_is_put_back():
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    structlog.reset_defaults()
    root.handlers[:], level = before
    root.setLevel(level)


def configured(**settings: str) -> io.StringIO:
    output = io.StringIO()
    configure_logging(LogSettings(**settings), clock=ManualClock(1_700_000_000_123), stream=output)
    return output


def lines(output: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


@pytest.mark.usefixtures("_logging_is_put_back")
def test_off_a_terminal_each_entry_is_one_line_of_json_with_the_event_first():
    output = configured()
    structlog.get_logger().info("agent_registered", agent="echo", instances=2, text="a\nb")
    assert output.getvalue() == (
        '{"at":"2023-11-14T22:13:20.123Z","level":"info","event":"agent_registered",'
        '"agent":"echo","instances":2,"text":"a\\nb"}\n'
    )


@pytest.mark.usefixtures("_logging_is_put_back")
def test_pretty_lines_are_for_people():
    output = configured(format="pretty")
    structlog.get_logger().warning("keys_watch_lost", reason="gone")
    assert "keys_watch_lost" in output.getvalue()
    assert "reason=gone" in output.getvalue()
    assert not output.getvalue().startswith("{")


@pytest.mark.usefixtures("_logging_is_put_back")
def test_the_level_leaves_out_what_is_below_it_for_libraries_too():
    output = configured(level="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("some.library").info("quiet")
    structlog.get_logger().error("loud")
    logging.getLogger("some.library").error("loud %s", "and clear")
    assert [(line["event"], line.get("message")) for line in lines(output)] == [
        ("loud", None),
        ("library_logged", "loud and clear"),
    ]


@pytest.mark.usefixtures("_logging_is_put_back")
def test_what_libraries_log_comes_out_the_same_way_whatever_their_levels_and_mistakes():
    output = configured(level="debug")
    logging.getLogger("lib").log(35, "odd level")
    logging.getLogger("lib").warning("%d things", "no number")
    try:
        raise ValueError(f"bad {KEY}")
    except ValueError:
        logging.getLogger("lib").exception("failed")
    odd, mistaken, failed = lines(output)
    assert odd["level"] == "warning"
    assert mistaken["message"] == "%d things"
    assert failed["logger"] == "lib"
    assert "ValueError: bad mw_abcdefghijkl_***" in str(failed["exception"])


@pytest.mark.usefixtures("_logging_is_put_back")
def test_what_the_core_logs_has_its_event_and_its_fields():
    output = configured()
    logging.getLogger("meshway.registry.presence_tracker").info(
        "instance_moved", extra={"agent": "echo", "state": "offline", "note": f"key {KEY}"}
    )
    (entry,) = lines(output)
    assert {name: value for name, value in entry.items() if name != "at"} == {
        "level": "info",
        "event": "instance_moved",
        "agent": "echo",
        "state": "offline",
        "note": f"key mw_abcdefghijkl_{MASK}",
    }


@pytest.mark.usefixtures("_logging_is_put_back")
def test_fields_that_a_library_adds_are_kept_and_cannot_pose_as_an_event():
    output = configured()
    logging.getLogger("lib").warning("slow", extra={"seconds": 3, "event": "agent_removed", "level": "info"})
    (entry,) = lines(output)
    assert (entry["event"], entry["level"], entry["message"]) == ("library_logged", "warning", "slow")
    assert (entry["logger"], entry["seconds"]) == ("lib", 3)


@pytest.mark.usefixtures("_logging_is_put_back")
@pytest.mark.parametrize("style", ["json", "pretty"])
def test_no_secret_leaves_by_any_way_into_a_log(style):
    output = configured(format=style)
    logger = structlog.get_logger()
    event = f"event with {KEY}"
    logger.info(event, text=f"key={KEY}", authorization="Bearer abcdefgh")
    logger.info(
        "nested", headers={"Authorization": f"Bearer {KEY}", "X-API-Key": KEY}, pairs=[(b"cookie", b"s3cretcookie")]
    )
    logger.info("objects", error=RuntimeError(f"with {KEY}"), raw=f"Bearer {KEY}".encode(), items={KEY})
    logger.info("urls", url="nats://user:s3cretpass@nats.lan:4222", credential="s3cret", secret_key="s3cret")
    try:
        raise RuntimeError(f"Authorization: Basic dXNlcjpzM2NyZXQ= {KEY}")
    except RuntimeError:
        logger.exception("failed")
    written = output.getvalue()
    for secret in (KEY.split("_", 2)[2], 'abcdefgh"', "s3cret", "dXNlcjpzM2NyZXQ"):
        assert secret not in written
    assert "mw_abcdefghijkl_***" in written
    assert "nats.lan:4222" in written


def test_ordinary_text_is_left_as_it_is():
    for text in ("basic words only", "the bearer of news", "mw_ alone", "a@b.example", "http://h/p@q", "meshway_mw_x"):
        assert redact_text(text) == text


def test_cut_off_and_mistyped_keys_are_masked_too():
    assert redact_text("mw_AbC_x1") == f"mw_AbC_{MASK}"
    assert redact_text("x=mw_abcdefghijkl_abc,y") == f"x=mw_abcdefghijkl_{MASK},y"


def test_endless_structures_end():
    loop: list[object] = []
    loop.append(loop)
    assert redact(None, "info", {"event": "x", "loop": loop})["event"] == "x"


@pytest.mark.usefixtures("_logging_is_put_back")
def test_a_log_that_nobody_reads_any_more_does_not_stop_the_hub():
    output = configured()
    output.close()
    structlog.get_logger().error("nobody_reads_this")


@pytest.mark.usefixtures("_logging_is_put_back")
def test_values_that_json_does_not_know_are_written_as_text():
    output = configured()
    structlog.get_logger().info("odd", thing=object, where=ManualClock)
    (line,) = lines(output)
    assert "ManualClock" in str(line["where"])


def test_a_hub_starts_logging_without_loading_what_only_the_cli_shows():
    code = (
        "import sys, meshway.cli.main, meshway.cli.up\n"
        "heavy = {'rich', 'prometheus_client', 'pygments', 'pydantic', 'http.server'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import rich.console\n"
        "from meshway.observability.prometheus import PrometheusMetrics\n"
        "PrometheusMetrics().render()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
