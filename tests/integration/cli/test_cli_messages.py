"""The commands of channels against a hub in a process of its own: what they send, print, acknowledge and say."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshway.cli.main import cli
from support.hub_process import HubProcess, running_hub


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with running_hub() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHWAY_URL", hub.url)
    monkeypatch.delenv("MESHWAY_API_KEY", raising=False)


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A name of this test's own."""
    return re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:200]


def meshway(*arguments: str, stdin: str | bytes | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(arguments), input=stdin, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def data_of(result: Result) -> list[object]:
    return [json.loads(line)["data"] for line in result.stdout.splitlines()]


class Running:
    """A command that goes on until it is told to end; its lines are read as they come."""

    def __init__(self, hub: HubProcess, *arguments: str, stdin: int | None = subprocess.DEVNULL) -> None:
        command = [str(Path(sys.executable).parent / "meshway"), *arguments]
        environment: Mapping[str, str] = {**os.environ, "MESHWAY_URL": hub.url}
        self.process = subprocess.Popen(
            command, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._watchdog = threading.Timer(30, self.process.kill)
        self._watchdog.start()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Its exit code and what it said on standard error."""
        self.process.send_signal(number)
        # Its input stays open: that it ends must be the signal's doing.
        code = self.process.wait(20)
        assert self.process.stderr is not None
        return code, self.process.stderr.read()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_error: object) -> None:
        self._watchdog.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


# --- queues ---


def test_what_is_sent_is_received_once_and_acknowledged(channel):
    assert "2 messages are in" in meshway("queues", "send", channel, '{"n": 1}', "2").stderr
    assert data_of(meshway("queues", "receive", channel)) == [{"n": 1}]
    assert data_of(meshway("queues", "receive", channel, "--all")) == [2]
    nothing = meshway("queues", "receive", channel, "--wait-ms", "0")
    assert (nothing.stdout, nothing.stderr) == ("", f"Nothing is due in {channel}.\n")


def test_messages_come_from_files_and_pipes_as_values_text_and_whole_objects(channel, tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text('1\n\n{"a": "ä"}\n')
    meshway("queues", "send", channel, "--file", str(file))
    meshway("queues", "send", channel, "--text", "-", stdin="plain\n[text\n")
    meshway("queues", "send", channel, "--envelope", "-", stdin='{"id": "m1", "data": 5, "attributes": {"k": "v"}}')
    received = [json.loads(line) for line in meshway("queues", "receive", channel, "--all").stdout.splitlines()]
    assert [each["data"] for each in received] == [1, {"a": "ä"}, "plain", "[text", 5]
    assert [each["content_type"] for each in received[2:4]] == ["text/plain", "text/plain"]
    assert (received[4]["id"], received[4]["attributes"]) == ("m1", {"k": "v"})


def test_the_same_file_with_the_same_prefix_is_filtered(channel, tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(f"{number}\n" for number in range(1_200)))
    assert (
        "1,200 messages are in" in meshway("queues", "send", channel, "--file", str(file), "--id-prefix", "run").stderr
    )
    again = meshway("queues", "send", channel, "--file", str(file), "--id-prefix", "run", "--skip", "100").stderr
    assert "1,100 messages" in again
    assert "1,100 of them had been there already" in again
    stats = json.loads(meshway("queues", "stats", channel, "--json").stdout)
    assert stats["items"][0]["figures"]["waiting"] == 1_200


def test_receipts_are_json_lines(channel):
    lines = meshway("streams", "append", channel, "1", "2", "--id-prefix", "r", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "r-1", "duplicate": False, "sequence": 1},
        {"id": "r-2", "duplicate": False, "sequence": 2},
    ]


def test_options_reach_the_message(channel):
    meshway("queues", "send", channel, '"later"', "--delay-ms", "60000")
    meshway("queues", "send", channel, '"low"', "--priority", "low", "--attribute", "zone=eu")
    meshway("queues", "send", channel, '"urgent"', "--priority", "urgent")
    received = [json.loads(line) for line in meshway("queues", "receive", channel, "--all").stdout.splitlines()]
    assert [each["data"] for each in received] == ["urgent", "low"]
    assert received[1]["attributes"] == {"zone": "eu"}
    figures = json.loads(meshway("queues", "stats", channel, "--json").stdout)["items"][0]["figures"]
    assert figures["delayed"] == 1


def test_a_refused_message_is_named_by_its_line_and_says_where_to_go_on(channel):
    lines = '{"data": 1}\n{"data": 2, "delay_ms": -5}\n'
    refused = meshway("queues", "send", channel, "--envelope", "-", "--id-prefix", "run", stdin=lines, code=1)
    assert "Line 2: delay_ms" in refused.stderr
    assert "--skip 0 --id-prefix run" in refused.stderr


def test_text_that_is_no_json_is_told_of_text(channel):
    assert "--text" in meshway("queues", "send", channel, "hello", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "as arguments, or --file"),
        (["1", "--file", "-"], "as arguments, or --file"),
        (["1", "--text", "--envelope"], "exclude"),
        (["1", "--skip", "3"], "--skip counts lines"),
        (["1", "--attribute", "zone"], "key=value"),
        (["1\n2"], "line break"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_hub_is_asked(arguments, complaint, monkeypatch):
    monkeypatch.setenv("MESHWAY_URL", "http://127.0.0.1:9")
    assert complaint in meshway("queues", "send", "work", *arguments, code=2).stderr


@pytest.mark.parametrize(
    "command",
    [
        ("queues", "send", "work", "1"),
        ("queues", "receive", "work"),
        ("streams", "tail", "work"),
        ("events", "sub", "work"),
        ("command", "work", "1"),
        ("channels", "list"),
    ],
)
def test_without_a_hub_every_command_ends_at_once_with_exit_code_3(command):
    assert "meshway up" in meshway(*command, "--url", "http://127.0.0.1:9", code=3).stderr


def test_peek_shows_and_leaves(channel):
    meshway("queues", "send", channel, "1", '"two"')
    assert meshway("queues", "peek", channel, "--data").stdout == "1\ntwo\n"
    assert data_of(meshway("queues", "receive", channel, "--all")) == [1, "two"]


def test_no_ack_prints_what_settles_and_the_message_comes_again(channel):
    meshway("channels", "set", "queues", channel, "lease_ms=200")
    meshway("queues", "send", channel, "1")
    first = json.loads(meshway("queues", "receive", channel, "--no-ack").stdout)
    assert set(first) == {"delivery_id", "attempt", "lease_until", "message"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["lease_until"])
    again = json.loads(meshway("queues", "receive", channel, "--no-ack", "--wait-ms", "5000").stdout)
    assert again["attempt"] == 2
    assert again["message"]["data"] == 1


def test_exec_acknowledges_what_succeeds_and_retries_what_fails(channel, tmp_path):
    meshway("channels", "set", "queues", channel, "attempts_max=2", "backoff_initial_ms=1", "backoff_max_ms=1")
    meshway("queues", "send", channel, '{"n": 1}', '"fail"', "--attribute", "zone=eu")
    script = tmp_path / "work.sh"
    script.write_text(
        "read -r line || true\n"
        f'echo "$line $MESHWAY_ATTEMPT $MESHWAY_ATTRIBUTES $MESHWAY_QUEUE" >> {tmp_path}/seen\n'
        "case $line in *fail*) exit 3;; esac\n"
    )
    command = f"sh {script}"
    done = meshway("queues", "receive", channel, "--all", "--exec", command, "--wait-ms", "500")
    assert f"{channel}: 1 done, 2 failed." in done.stderr
    seen = (tmp_path / "seen").read_text().splitlines()
    assert sorted(seen) == sorted(
        f'{data} {{"zone":"eu"}} {channel}' for data in ('{"n": 1} 1', '"fail" 1', '"fail" 2')
    )
    letters = json.loads(meshway("queues", "dead-letters", channel, "--json").stdout)["items"]
    assert [letter["reason"] for letter in letters] == ["attempt 2 of 2 failed: exit status 3"]


def test_dead_letters_are_listed_with_their_history_and_put_back(channel):
    meshway("channels", "set", "queues", channel, "attempts_max=1")
    meshway("queues", "send", channel, '"\\u001b[31mred"')
    meshway("queues", "receive", channel, "--exec", "exit 7")
    table = meshway("queues", "dead-letters", channel, "--history")
    assert "attempt 1 of 1 failed: exit status 7" in table.stdout
    assert "\x1b" not in table.stdout
    assert f"meshway queues redrive {channel}" in table.stderr
    assert f"Back in {channel}: 1" in meshway("queues", "redrive", channel).stdout
    assert "no dead letters" in meshway("queues", "dead-letters", channel).stderr
    assert data_of(meshway("queues", "receive", channel)) == ["\x1b[31mred"]


def test_purge_and_delete_ask_first_and_say_what_is_gone(channel):
    meshway("queues", "send", channel, "1", "2")
    assert "--yes" in meshway("queues", "purge", channel, code=2).stderr
    assert "2 messages" in meshway("queues", "purge", channel, "--yes").stdout
    assert "--yes" in meshway("channels", "delete", "queues", channel, code=2).stderr
    meshway("channels", "delete", "queues", channel, "--yes")
    gone = meshway("channels", "show", "queues", channel, code=5)
    assert "meshway channels list" in gone.stderr


def test_follow_prints_what_comes_survives_a_restart_of_the_hub_and_ends_on_ctrl_c(channel):
    with running_hub() as own, Running(own, "queues", "receive", channel, "--follow", "--data") as follow:
        meshway("queues", "send", channel, "1", "--url", own.url)
        assert follow.line() == "1\n"
        own.kill()
        own.start()
        meshway("queues", "send", channel, "2", "--url", own.url)
        assert follow.line() == "2\n"
        assert follow.end()[0] == 0
        stats = json.loads(meshway("queues", "stats", channel, "--json", "--url", own.url).stdout)
        assert stats["items"][0]["figures"] == {"waiting": 0, "held": 0, "delayed": 0, "dead": 0}


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(hub, channel):
    meshway("queues", "send", channel, "--text", "-", stdin="x" * 1_000 + "\n" + ("y" * 1_000 + "\n") * 500)
    with Running(hub, "queues", "receive", channel, "--all", "--data") as receive:
        assert receive.line() == "x" * 1_000 + "\n"
        assert receive.process.stdout is not None
        receive.process.stdout.close()
        assert receive.process.wait(20) == 0
        assert receive.process.stderr is not None
        assert receive.process.stderr.read() == ""
    # What the reader did not get was given back.
    assert data_of(meshway("queues", "receive", channel, "--count", "1", "--wait-ms", "5000")) == ["y" * 1_000]


def test_ctrl_c_in_a_send_from_a_pipe_says_what_is_in(hub, channel):
    with Running(hub, "queues", "send", channel, "-", "--id-prefix", "run", "--json", stdin=subprocess.PIPE) as send:
        assert send.process.stdin is not None
        send.process.stdin.write("1\n2\n")
        send.process.stdin.flush()
        assert json.loads(send.line())["id"] == "run-1"
        assert json.loads(send.line())["id"] == "run-2"
        code, said = send.end()
    assert code == 130
    error = json.loads(said.splitlines()[-1])["error"]
    assert error["code"] == "interrupted"
    assert "--skip 2 --id-prefix run" in error["hint"]


# --- streams ---


def test_a_stream_is_read_from_anywhere(channel):
    meshway("streams", "append", channel, *(str(number) for number in range(1, 8)))
    assert data_of(meshway("streams", "read", channel)) == [1, 2, 3, 4, 5, 6, 7]
    assert meshway("streams", "read", channel, "--from", "last:2", "--data").stdout == "6\n7\n"
    first = meshway("streams", "read", channel, "--count", "3")
    assert data_of(first) == [1, 2, 3]
    assert "--from 4" in first.stderr
    assert data_of(meshway("streams", "read", channel, "--from", "4", "--all")) == [4, 5, 6, 7]
    assert "from" in meshway("streams", "read", channel, "--from", "yesterday", code=1).stderr


def test_what_is_read_can_be_appended_elsewhere(channel):
    meshway("streams", "append", channel, '{"n": 1}', "2", "--attribute", "zone=eu")
    copied = meshway("streams", "read", channel, "--all").stdout
    meshway("streams", "append", f"{channel}.copy", "--envelope", "-", stdin=copied)
    again = meshway("streams", "read", f"{channel}.copy").stdout
    wanted = [json.loads(line) for line in copied.splitlines()]
    for found, original in zip([json.loads(line) for line in again.splitlines()], wanted, strict=True):
        assert {name: found[name] for name in ("id", "data", "attributes")} == {
            name: original[name] for name in ("id", "data", "attributes")
        }


def test_tail_replays_then_follows_and_says_where_to_go_on(hub, channel):
    meshway("streams", "append", channel, "1")
    with Running(hub, "streams", "tail", channel, "--from", "first", "--data") as tail:
        assert tail.line() == "1\n"
        meshway("streams", "append", channel, "2")
        assert tail.line() == "2\n"
        code, said = tail.end()
    assert code == 0
    assert f"meshway streams tail {channel} --cursor 2" in said
    meshway("streams", "append", channel, "3")
    assert meshway("streams", "tail", channel, "--cursor", "2", "--count", "1", "--data").stdout == "3\n"


def test_tail_of_a_reader_moves_it_along(channel):
    meshway("streams", "append", channel, "1", "2", "3")
    assert "after sequence 0" in meshway("streams", "seek", channel, "audit", "--from", "first").stdout
    assert meshway("streams", "tail", channel, "--reader", "audit", "--count", "2", "--data").stdout == "1\n2\n"
    (reader,) = json.loads(meshway("streams", "readers", channel, "--json").stdout)["items"]
    assert reader["name"] == "audit"
    assert reader["position"] in (1, 2)
    assert "audit" in meshway("streams", "readers", channel).stdout


# --- events ---


def test_events_reach_who_listens(hub, channel):
    with Running(hub, "events", "sub", f"{channel}.>", "--data") as listener:
        # A subscription has no trace to wait for but what it receives.
        heard = threading.Event()

        def publish() -> None:
            while not heard.wait(0.05):
                hub.request("POST", f"/v1/events/{channel}.a", {"messages": [{"data": "ready"}]})

        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            assert listener.line() == "ready\n"
        finally:
            heard.set()
            publisher.join()
        assert "1 message is in" in meshway("events", "pub", f"{channel}.b", '{"title": "hello"}').stderr
        line = listener.line()
        while line == "ready\n":
            line = listener.line()
        assert json.loads(line) == {"title": "hello"}
        assert listener.end()[0] == 0


# --- commands and queries ---


def test_without_a_responder_a_command_fails_at_once(channel):
    for kind in ("command", "query"):
        refused = meshway(kind, channel, "1", code=1)
        assert "Nobody answers" in refused.stderr
        assert refused.stdout == ""


def answer_once(hub: HubProcess, kind: str, channel: str, reply: dict[str, object]) -> threading.Thread:
    """A responder that polls: it is there when this returns, and answers one request."""
    hub.request("POST", f"/v1/{kind}/{channel}/lease", {"count": 1, "wait_ms": 0})

    def answer() -> None:
        _, _, taken = hub.request("POST", f"/v1/{kind}/{channel}/lease", {"count": 1, "wait_ms": 10_000})
        assert isinstance(taken, dict)
        body = {"request_id": taken["requests"][0]["request_id"], **reply}
        hub.request("POST", f"/v1/{kind}/{channel}/reply", body)

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def test_a_query_prints_the_reply(hub, channel):
    responder = answer_once(hub, "queries", channel, {"executed": True, "data": {"price": 3}})
    assert json.loads(meshway("query", channel, '{"item": "tea"}').stdout) == {"price": 3}
    responder.join()


def test_a_command_that_was_refused_is_exit_code_1_with_the_reason(hub, channel):
    responder = answer_once(hub, "commands", channel, {"executed": False, "error": "the lamp is broken"})
    assert "Not done: the lamp is broken" in meshway("command", channel, '{"on": true}', code=1).stderr
    responder.join()


def test_a_reply_with_json_says_whether_it_was_executed_and_cached(hub, channel):
    responder = answer_once(hub, "queries", channel, {"executed": True, "data": 5})
    options = ("--cache-key", "k", "--cache-ttl-ms", "60000", "--json")
    assert json.loads(meshway("query", channel, *options).stdout)["cache"] == "miss"
    responder.join()
    hit = json.loads(meshway("query", channel, *options).stdout)
    assert (hit["executed"], hit["data"], hit["cache"]) == (True, 5, "hit")


def test_half_a_cache_is_refused(channel):
    assert "go together" in meshway("query", channel, "--cache-key", "k", code=2).stderr


# --- channels ---


def test_set_changes_what_is_named_and_keeps_the_rest(channel):
    meshway("channels", "set", "queues", channel, "lease_ms=5000", "attempts_max=2")
    meshway("channels", "set", "queues", channel, "attempts_max=3", "max_messages=10")
    settings = json.loads(meshway("channels", "show", "queues", channel, "--json").stdout)["settings"]
    assert (settings["lease_ms"], settings["attempts_max"], settings["max_messages"]) == (5_000, 3, 10)
    meshway("channels", "set", "queues", channel, "--reset", "attempts_max=4")
    settings = json.loads(meshway("channels", "show", "queues", channel, "--json").stdout)["settings"]
    assert (settings["lease_ms"], settings["attempts_max"], settings["max_messages"]) == (30_000, 4, None)


def test_a_wrong_setting_is_named(channel):
    assert "lease_ms" in meshway("channels", "set", "queues", channel, "lease_ms=soon", code=1).stderr
    assert "key=value" in meshway("channels", "set", "queues", channel, "lease_ms", code=2).stderr


def test_a_full_queue_names_the_limit_and_how_to_raise_it(channel):
    meshway("channels", "set", "queues", channel, "max_messages=1")
    full = meshway("queues", "send", channel, "1", "2", code=1)
    assert "max_messages" in full.stderr
    assert "meshway channels set" in full.stderr


def test_list_shows_kinds_names_and_figures(channel):
    meshway("queues", "send", channel, "1")
    meshway("streams", "append", channel, "1")
    rows = [line.split() for line in meshway("channels", "list", "--prefix", channel).stdout.splitlines()[1:]]
    assert [row[:2] for row in rows] == [["streams", channel], ["queues", channel]]
    assert "waiting" in rows[1]
    only = json.loads(meshway("channels", "list", "queues", "--prefix", channel, "--json").stdout)["items"]
    assert [item["kind"] for item in only] == ["queues"]
