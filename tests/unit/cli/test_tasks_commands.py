"""`meshway tasks`, and what operators see and do of the work of agents, against a fake hub."""

import json

import pytest
from click.testing import CliRunner
from fake_hub import TaskEvents, problem

from meshway.cli.main import cli

TASK = {"id": "t1", "contextId": "c1", "status": {"state": "TASK_STATE_SUBMITTED", "timestamp": "T1"}}


def meshway(*arguments: str, stdin: str | None = None):
    return CliRunner().invoke(cli, list(arguments), input=stdin, catch_exceptions=False)


def status(state: str, text: str = "", *, at: str = "", **metadata: object) -> dict[str, object]:
    said: dict[str, object] = {"state": f"TASK_STATE_{state}", "timestamp": at}
    if text:
        said["message"] = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": text}]}
    return {"statusUpdate": {"taskId": "t1", "contextId": "c1", "status": said, "metadata": metadata}}


def chunk(text: str, *, append: bool = True) -> dict[str, object]:
    artifact = {"artifactId": "a1", "parts": [{"text": text}]}
    return {"artifactUpdate": {"taskId": "t1", "contextId": "c1", "artifact": artifact, "append": append}}


def follows(hub, *events: dict[str, object]) -> None:
    hub.answers["GET /v1/tasks/t1/events"] = (200, TaskEvents([{"task": TASK}, *events]))


def body_of(hub, number: int = 0) -> dict[str, object]:
    return json.loads(hub.asked[number].body)


# --- submitting -----------------------------------------------------------------------------------------------------


def test_a_submitted_tasks_id_is_all_that_goes_to_standard_output(hub):
    hub.answers["POST /v1/tasks"] = (202, {**TASK, "agent": "billing", "receipts": []})
    result = meshway("tasks", "submit", "billing", "an invoice", "--key", "k", "--timeout-ms", "5000")
    assert (result.exit_code, result.stdout) == (0, "t1\n")
    assert "meshway tasks follow t1" in result.stderr
    sent = body_of(hub)
    assert sent["message"]["parts"] == [{"text": "an invoice"}]
    assert (sent["agent"], sent["idempotency_key"], sent["timeout_ms"]) == ("billing", "k", 5000)


def test_a_skill_stands_for_whoever_has_it_and_the_text_may_come_from_a_pipe(hub):
    hub.answers["POST /v1/tasks"] = (202, {**TASK, "agent": "billing", "receipts": []})
    assert meshway("tasks", "submit", "--skill", "invoice", "-", stdin="piped").exit_code == 0
    sent = body_of(hub)
    assert (sent["skill"], sent["message"]["parts"]) == ("invoice", [{"text": "piped"}])


@pytest.mark.parametrize("words", [("billing",), ("billing", "two", "words"), ("--skill", "invoice", "billing", "x")])
def test_too_many_or_too_few_words_are_wrong_usage(words):
    assert meshway("tasks", "submit", *words).exit_code == 2


def test_a_stopped_agent_is_exit_code_1_and_says_how_it_goes_on(hub):
    hub.answers["POST /v1/tasks"] = (503, problem(503, "agent_stopped", "Agent 'billing' was stopped."))
    result = meshway("tasks", "submit", "billing", "x")
    assert result.exit_code == 1
    assert "meshway agents resume" in result.stderr


def test_submit_follows_where_asked(hub):
    hub.answers["POST /v1/tasks"] = (202, {**TASK, "agent": "billing", "receipts": []})
    follows(hub, status("WORKING"), chunk("done", append=False), status("COMPLETED"))
    result = meshway("tasks", "submit", "billing", "x", "--follow")
    assert (result.exit_code, result.stdout) == (0, "done\n")


# --- following ------------------------------------------------------------------------------------------------------


def test_a_followed_task_is_its_answer_and_a_line_for_each_status(hub):
    follows(hub, status("WORKING", at="T2"), chunk("3 ", append=False), chunk("2"), status("COMPLETED", at="T9"))
    result = meshway("tasks", "follow", "t1")
    assert (result.exit_code, result.stdout) == (0, "3 2\n")
    assert result.stderr.splitlines() == ["T1  submitted", "T2  working", "T9  done"]


def test_another_attempt_is_announced_and_begins_the_answer_anew(hub):
    follows(
        hub,
        status("WORKING", at="T2", attempt=1),
        chunk("3 ", append=False),
        status("WORKING", at="T3", attempt=1, attemptFailed="out of ink"),
        status("WORKING", at="T4", attempt=2),
        chunk("3 2", append=False),
        status("COMPLETED", at="T5"),
    )
    result = meshway("tasks", "follow", "t1")
    assert result.stdout.splitlines() == ["3 ", "3 2"]
    assert result.stderr.splitlines()[2:4] == ["T3  attempt 1 failed: out of ink", "T4  working, attempt 2"]


@pytest.mark.parametrize("state", ["FAILED", "REJECTED", "CANCELED"])
def test_a_task_that_ends_without_success_is_exit_code_1(hub, state):
    follows(hub, status(state, "no paper"))
    result = meshway("tasks", "follow", "t1")
    assert result.exit_code == 1
    assert "no paper" in result.stderr


def test_a_task_that_waits_for_input_is_exit_code_6_and_says_how_to_answer(hub):
    asked = status("INPUT_REQUIRED", "From where?", at="T3")
    follows(hub, asked)
    hub.answers["GET /v1/tasks/t1"] = (200, {**TASK, "status": asked["statusUpdate"]["status"]})
    result = meshway("tasks", "follow", "t1")
    assert (result.exit_code, result.stdout) == (6, "From where?\n")
    assert "--task t1" in result.stderr


def test_a_question_that_was_answered_does_not_end_the_following(hub):
    resubmitted = {"task": {**TASK, "artifacts": [{"artifactId": "a1", "parts": [{"text": "one"}]}]}}
    follows(
        hub,
        chunk("one", append=False),
        status("INPUT_REQUIRED", "From where?", at="T3"),
        resubmitted,
        chunk(" two"),
        status("COMPLETED", at="T7"),
    )
    hub.answers["GET /v1/tasks/t1"] = (200, {**TASK, "status": {"state": "TASK_STATE_COMPLETED", "timestamp": "T7"}})
    result = meshway("tasks", "follow", "t1")
    assert result.exit_code == 0
    assert result.stdout.count("one") == 1
    assert result.stdout.endswith(" two\n")


def test_with_json_each_event_is_a_line(hub):
    events = [status("WORKING"), chunk("3 ", append=False), status("COMPLETED")]
    follows(hub, *events)
    lines = meshway("tasks", "follow", "t1", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [{"task": TASK}, *events]


def test_a_task_of_nobody_is_exit_code_5(hub):
    hub.answers["GET /v1/tasks/t1/events"] = (404, problem(404, "task_not_found", "There is no task 't1'."))
    assert meshway("tasks", "follow", "t1").exit_code == 5


# --- looking --------------------------------------------------------------------------------------------------------


def test_tasks_are_listed_with_who_asked_for_them(hub):
    item = {
        "id": "t2",
        "agent": "translate",
        "state": "TASK_STATE_WORKING",
        "status_at": "2026-11-22T07:00:00.000Z",
        "parent": {"agent": "billing", "id": "t1"},
    }
    hub.answers["GET /v1/tasks"] = (200, {"items": [item], "next_cursor": "n", "total": 2})
    result = meshway("tasks", "list", "--state", "working")
    assert result.exit_code == 0
    assert "billing t1" in result.stdout
    assert "--cursor n" in result.stderr
    shown = json.loads(meshway("tasks", "list", "--json").stdout)
    assert (shown["items"][0]["id"], shown["total"]) == ("t2", 2)


def test_a_task_is_shown_with_what_was_said_and_made(hub):
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "an invoice"}]}
    artifact = {"artifactId": "a", "parts": [{"text": "Invoice 17"}]}
    hub.answers["GET /v1/tasks/t1"] = (200, {**TASK, "history": [message], "artifacts": [artifact]})
    result = meshway("tasks", "show", "t1")
    assert "an invoice" in result.stdout
    assert "Invoice 17" in result.stdout
    assert "submitted" in result.stdout


def test_a_tree_is_drawn(hub):
    child = {"id": "t2", "agent": "translate", "state": "TASK_STATE_COMPLETED", "children": [], "cut": True}
    root = {"id": "t1", "agent": "billing", "state": "TASK_STATE_WORKING", "children": [child], "cut": False}
    hub.answers["GET /v1/tasks/t1/tree"] = (200, root)
    lines = meshway("tasks", "tree", "t1").stdout.splitlines()
    assert [line.rstrip() for line in lines] == [
        "billing  t1  working",
        "└── translate  t2  done",
        "    └── ...",
    ]


def test_receipts_are_steps_with_their_times(hub):
    receipt = {"state": "claimed", "at": "2026-11-22T07:00:00.120Z", "attempt": 1, "turn": 1, "instance": "i1"}
    hub.answers["GET /v1/tasks/t1/receipts"] = (200, {"items": [receipt], "next_cursor": None})
    assert "2026-11-22T07:00:00.120Z" in meshway("tasks", "receipts", "t1").stdout
    hub.answers["GET /v1/tasks/t1/receipts"] = (200, {"items": [], "next_cursor": None})
    assert "the agent itself owns" in meshway("tasks", "receipts", "t1").stderr


def test_a_cancelled_task_says_so(hub):
    hub.answers["POST /v1/tasks/t1/cancel"] = (200, {**TASK, "status": {"state": "TASK_STATE_CANCELED"}})
    assert meshway("tasks", "cancel", "t1").stdout == "t1 is cancelled.\n"


# --- operators ------------------------------------------------------------------------------------------------------


def test_an_inbox_shows_what_waits_and_how_much(hub):
    item = {"task_id": "t1", "state": "TASK_STATE_WORKING", "instance": "i1", "created_at": "T1", "expires_at": "T9"}
    depth = {"waiting": 1_200, "held": 1, "delayed": 0, "dead": 2}
    hub.answers["GET /v1/agents/billing/inbox"] = (200, {"depth": depth, "items": [item], "next_cursor": None})
    result = meshway("agents", "inbox", "billing")
    assert "i1" in result.stdout
    assert "1,200 wait" in result.stderr
    assert json.loads(meshway("agents", "inbox", "billing", "--json").stdout)["depth"] == depth


def test_dead_letters_are_shown_and_tried_again(hub):
    letter = {"id": "d1", "task_id": "t1", "reason": "no paper", "dead_at": "T1", "attempts": [{"attempt": 5}]}
    hub.answers["GET /v1/agents/billing/dead-letters"] = (200, {"items": [letter], "next_cursor": None})
    hub.answers["POST /v1/agents/billing/dead-letters/redrive"] = (202, {"tasks": ["t7"]})
    assert "no paper" in meshway("agents", "inbox", "billing", "--dead").stdout
    assert meshway("agents", "inbox", "billing", "--redrive").stdout == "t7\n"
    assert meshway("agents", "inbox", "billing", "--redrive", "--dead").exit_code == 2


def test_lost_push_notifications_are_listed_and_sent_again(hub):
    path = "/v1/push/dead-letters"
    letter = {"id": "d1", "agent": "billing", "task_id": "t1", "event_number": 3, "reason": "answered [503]"}
    hub.answers[f"GET {path}"] = (200, {"items": [letter], "next_cursor": "n"})
    hub.answers[f"POST {path}/redrive"] = (202, {"notifications": ["d1"]})
    listed = meshway("push", "dead-letters")
    assert "answered [503]" in listed.stdout
    assert "--cursor n" in listed.stderr
    assert json.loads(meshway("push", "dead-letters", "--json").stdout)["items"][0]["event_number"] == 3
    hub.asked.clear()
    assert meshway("push", "redrive", "d1").stdout == "1 push notifications are sent again.\n"
    assert json.loads(meshway("push", "redrive", "--json").stdout) == {"notifications": ["d1"]}
    assert (body_of(hub), body_of(hub, 1)) == ({"ids": ["d1"]}, {})
    hub.answers[f"GET {path}"] = (200, {"items": [], "next_cursor": None})
    assert "no dead letters" in meshway("push", "dead-letters").stderr
    hub.answers[f"POST {path}/redrive"] = (404, problem(404, "not_found", "There is no dead letter 'd2'."))
    assert meshway("push", "redrive", "d2").exit_code == 5


def test_an_agent_or_everything_is_stopped_and_resumed(hub):
    notice = {"agent": "billing", "stopped_at": "T1", "by": "ada", "reason": "nonsense", "cancelled": 3}
    hub.answers["POST /v1/agents/billing/stop"] = (200, notice)
    hub.answers["POST /v1/stop"] = (200, {**notice, "agent": None})
    hub.answers["POST /v1/agents/billing/resume"] = (200, {"agent": "billing", "was_stopped": True})
    hub.answers["POST /v1/resume"] = (200, {"agent": None, "was_stopped": False})
    stopped = meshway("agents", "stop", "billing", "--reason", "nonsense")
    assert stopped.stdout == "billing is stopped; 3 running tasks were cancelled.\n"
    assert body_of(hub) == {"reason": "nonsense"}
    assert meshway("agents", "stop", "--all").stdout.startswith("All agents are stopped")
    assert meshway("agents", "resume", "billing").stdout == "billing is no longer stopped.\n"
    assert meshway("agents", "resume", "--all").stdout == "All agents are not stopped.\n"


@pytest.mark.parametrize("verb", ["stop", "resume"])
def test_stopping_names_an_agent_or_all(verb):
    assert meshway("agents", verb).exit_code == 2
    assert meshway("agents", verb, "billing", "--all").exit_code == 2
