"""The commands against a fake hub: what people read, what programs read, and what scripts can branch on."""

import json

import pytest
from click.testing import CliRunner
from fake_hub import AGENT, problem

from meshway.cli.main import cli


def meshway(*arguments: str, stdin: str | None = None):
    return CliRunner().invoke(cli, list(arguments), input=stdin, catch_exceptions=False)


def answer(result: object) -> tuple[int, object]:
    return 200, {"jsonrpc": "2.0", "id": 1, "result": result}


def status(state: str, text: str = "") -> dict[str, object]:
    message = {"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": text}]}} if text else {}
    return {"statusUpdate": {"taskId": "t1", "contextId": "c1", "status": {"state": f"TASK_STATE_{state}", **message}}}


def chunk(text: str, *, append: bool = True) -> dict[str, object]:
    artifact = {"artifactId": "a1", "parts": [{"text": text}]}
    return {"artifactUpdate": {"taskId": "t1", "contextId": "c1", "artifact": artifact, "append": append}}


MESSAGE = {"message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "good morning"}]}}


def test_call_prints_the_answers_text_and_nothing_else(hub):
    hub.answers["POST /a2a/echo"] = answer(MESSAGE)
    result = meshway("call", "echo", "hi")
    assert (result.exit_code, result.stdout) == (0, "good morning\n")


def test_call_sends_what_it_reads_from_standard_input(hub):
    hub.answers["POST /a2a/echo"] = answer(MESSAGE)
    meshway("call", "echo", "-", "--context", "c7", "--timeout-ms", "1500", stdin="from a pipe")
    sent = json.loads(hub.asked[0].body)["params"]["message"]
    assert sent["parts"] == [{"text": "from a pipe"}]
    assert sent["contextId"] == "c7"
    assert hub.asked[0].headers["meshway-timeout-ms"] == "1500"


def test_call_shows_the_key_it_was_given(hub, monkeypatch):
    hub.answers["POST /a2a/echo"] = answer(MESSAGE)
    monkeypatch.setenv("MESHWAY_API_KEY", "from-the-environment")
    meshway("call", "echo", "hi")
    meshway("call", "echo", "hi", "--api-key", "from-the-option")
    shown = [request.headers["authorization"] for request in hub.asked]
    assert shown == ["Bearer from-the-environment", "Bearer from-the-option"]


def test_call_with_json_prints_the_result_unchanged(hub):
    hub.answers["POST /a2a/echo"] = answer(MESSAGE)
    assert json.loads(meshway("call", "echo", "hi", "--json").stdout) == MESSAGE


def test_a_failed_task_is_exit_code_1_with_the_agents_reason(hub):
    task = {"id": "t1", "contextId": "c1", "status": status("FAILED", "no paper")["statusUpdate"]["status"]}
    hub.answers["POST /a2a/printer"] = answer({"task": task})
    result = meshway("call", "printer", "hi")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no paper" in result.stderr


def test_a_task_that_waits_says_how_to_answer_it(hub):
    task = {"id": "t1", "contextId": "c1", "status": status("INPUT_REQUIRED", "From where?")["statusUpdate"]["status"]}
    hub.answers["POST /a2a/countdown"] = answer({"task": task})
    result = meshway("call", "countdown", "down")
    assert result.exit_code == 0
    assert result.stdout == "From where?\n"
    assert "meshway call countdown TEXT --task t1" in result.stderr


def test_a_stream_in_a_pipe_is_the_answers_text_alone(hub):
    events = [status("WORKING", "3 to go"), chunk("3 ", append=False), chunk("2 "), chunk("1"), status("COMPLETED")]
    hub.answers["POST /a2a/countdown"] = (200, events)
    result = meshway("call", "countdown", "3", "--stream")
    assert (result.exit_code, result.stdout) == (0, "3 2 1\n")


def test_a_stream_with_json_is_one_event_a_line(hub):
    events = [status("WORKING", "3 to go"), chunk("3 ", append=False), status("COMPLETED")]
    hub.answers["POST /a2a/countdown"] = (200, events)
    lines = meshway("call", "countdown", "3", "--stream", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == events


def test_a_stream_whose_task_fails_is_exit_code_1(hub):
    hub.answers["POST /a2a/countdown"] = (200, [status("WORKING"), status("REJECTED", "too far")])
    result = meshway("call", "countdown", "3", "--stream")
    assert result.exit_code == 1
    assert "too far" in result.stderr


def test_a_timeout_for_a_stream_is_refused_with_the_reason():
    result = meshway("call", "echo", "hi", "--stream", "--timeout-ms", "5")
    assert result.exit_code == 2
    assert "bounds a whole answer" in result.stderr


def test_no_hub_is_exit_code_3_and_says_how_to_start_one():
    result = meshway("call", "echo", "hi", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 3
    assert "meshway up" in result.stderr


def test_failures_with_json_are_json_on_standard_error():
    result = meshway("call", "echo", "hi", "--url", "http://127.0.0.1:9", "--json")
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "hub_unreachable"
    assert set(error) == {"code", "detail", "hint"}


@pytest.mark.parametrize(
    ("status_code", "code", "exit_code", "hint"),
    [
        (401, "unauthenticated", 4, "MESHWAY_API_KEY"),
        (403, "forbidden", 4, "scope"),
        (404, "agent_not_found", 5, "meshway agents list"),
        (429, "too_many_in_flight", 1, "again"),
    ],
)
def test_refusals_say_what_to_do_and_have_their_exit_code(hub, status_code, code, exit_code, hint):
    hub.answers["GET /v1/agents/billing"] = (status_code, problem(status_code, code, "No."))
    result = meshway("agents", "show", "billing")
    assert result.exit_code == exit_code
    assert "No." in result.stderr
    assert hint in result.stderr


def test_a_refused_field_is_named(hub):
    wrong = problem(
        400, "invalid_request", "The request is wrong.", errors=[{"field": "labels.zone", "message": "too long"}]
    )
    hub.answers["POST /v1/agents"] = (400, wrong)
    result = meshway("agents", "add", "billing", "http://127.0.0.1:9000", "--label", "zone=eu")
    assert result.exit_code == 1
    assert "labels.zone: too long" in result.stderr


def test_agents_list_is_a_table_with_one_row_an_agent(hub):
    hub.answers["GET /v1/agents"] = (200, {"items": [AGENT], "next_cursor": None})
    header, row = meshway("agents", "list").stdout.splitlines()
    assert header.split()[:3] == ["AGENT", "STATE", "INSTANCES"]
    assert row.split()[:5] == ["billing", "online", "1", "2", "invoice"]
    assert "invoices [and] answers" in row


def test_what_agents_say_of_themselves_cannot_steer_the_terminal(hub):
    hostile = "good\x1b[31m\x1b]0;title\x07\u202eliated\x9b2J"
    hub.answers["GET /v1/agents/billing"] = (200, AGENT | {"name": hostile, "description": hostile})
    hub.answers["GET /v1/agents"] = (200, {"items": [AGENT | {"description": hostile}], "next_cursor": None})
    hub.answers["POST /a2a/billing"] = answer(
        {
            "task": {
                "id": "t",
                "status": {"state": "TASK_STATE_FAILED", **status("FAILED", hostile)["statusUpdate"]["status"]},
            }
        }
    )
    for command in (("agents", "show", "billing"), ("agents", "list"), ("call", "billing", "x")):
        result = meshway(*command)
        assert "good" in result.output
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(result.output), command


@pytest.mark.parametrize(("key", "exit_code"), [("mw_key\n", 0), ("mw\nsecret", 2), ("mw_s\u00e9cret", 2)])
def test_a_key_that_is_none_is_refused_without_showing_it(hub, monkeypatch, key, exit_code):
    hub.answers["GET /v1/agents"] = (200, {"items": [AGENT], "next_cursor": None})
    monkeypatch.setenv("MESHWAY_API_KEY", key)
    result = meshway("agents", "list")
    assert result.exit_code == exit_code
    assert "cret" not in result.output


def test_agents_list_with_json_has_the_apis_shape_and_says_there_is_more(hub):
    hub.answers["GET /v1/agents"] = (200, {"items": [AGENT], "next_cursor": "c2"})
    shown = json.loads(meshway("agents", "list", "--json").stdout)
    assert shown["next_cursor"] == "c2"
    assert shown["items"][0]["instances"][0]["labels"] == {"zone": "eu"}
    assert "--cursor c2" in meshway("agents", "list").stderr


def test_agents_show_names_instances_skills_and_the_address_to_call(hub):
    hub.answers["GET /v1/agents/billing"] = (200, AGENT)
    shown = meshway("agents", "show", "billing").stdout
    assert f"{hub.url}/a2a/billing" in shown
    for fact in ("i1", "http://127.0.0.1:9000", "zone=eu", "Write an invoice", "money"):
        assert fact in shown


def test_agents_add_sends_what_was_asked_and_never_the_credential_on_the_command_line(hub, monkeypatch):
    hub.answers["POST /v1/agents"] = (201, AGENT)
    monkeypatch.setenv("BILLING_TOKEN", "s3cret")
    options = ["--label", "zone=eu", "--label", "gpu=1", "--capacity", "4", "--timeout-ms", "9000"]
    result = meshway("agents", "add", "billing", "http://x", *options, "--credential-env", "BILLING_TOKEN")
    assert result.exit_code == 0
    assert "s3cret" not in result.output
    assert json.loads(hub.asked[0].body) == {
        "id": "billing",
        "url": "http://x",
        "labels": {"zone": "eu", "gpu": "1"},
        "capacity": 4,
        "settings": {"timeout_ms": 9000},
        "credential": "s3cret",
    }


def test_agents_add_by_card_sends_the_card(hub):
    hub.answers["POST /v1/agents"] = (201, AGENT)
    meshway("agents", "add", "billing", "--card", "-", stdin='{"name": "Billing"}')
    assert json.loads(hub.asked[0].body) == {"id": "billing", "card": {"name": "Billing"}}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["billing"], "URL or --card"),
        (["billing", "http://x", "--label", "zone"], "key=value"),
        (["billing", "http://x", "--credential-env", "NOT_THERE"], "NOT_THERE is not set"),
        (["billing", "--card", "-"], "not JSON"),
    ],
)
def test_agents_add_refuses_what_cannot_work_before_asking_the_hub(hub, arguments, complaint):
    result = meshway("agents", "add", *arguments, stdin="{")
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert hub.asked == []


def test_agents_remove_and_drain_report_what_happened(hub):
    hub.answers["DELETE /v1/agents/billing"] = (200, None)
    hub.answers["POST /v1/agents/billing/drain"] = (200, {**AGENT, "state": "draining"})
    hub.answers["DELETE /v1/agents/billing/drain"] = (200, AGENT)
    assert "billing is forgotten" in meshway("agents", "remove", "billing").stdout
    assert "draining; 2 calls still run" in meshway("agents", "drain", "billing").stdout
    assert "takes new calls again" in meshway("agents", "drain", "billing", "--undo").stdout
    assert json.loads(meshway("agents", "drain", "billing", "--json").stdout)["state"] == "draining"
