"""The table of moves, and what a worker may report by it."""

import msgspec
import pytest

from meshway.tasks.event_check import EventRefused, check_event
from meshway.tasks.lifecycle import MOVES, may_move
from meshway.tasks.values import TaskState

_S = TaskState


def test_every_state_has_its_moves_and_terminal_ones_have_none():
    assert set(MOVES) == set(TaskState)
    for state, moves in MOVES.items():
        assert (not moves) is state.is_terminal


def test_every_open_state_can_end_in_every_way():
    terminal = {state for state in TaskState if state.is_terminal}
    for state in TaskState:
        assert state.is_terminal or terminal <= MOVES[state]


def test_only_the_client_s_answer_brings_a_task_back_to_submitted():
    back = {state for state in TaskState if may_move(state, _S.SUBMITTED)}
    assert back == {_S.INPUT_REQUIRED, _S.AUTH_REQUIRED, _S.UNSPECIFIED}


def test_nothing_that_is_known_becomes_unspecified():
    assert {state for state in TaskState if may_move(state, _S.UNSPECIFIED)} == {_S.UNSPECIFIED}


def test_working_repeats_and_a_question_does_not():
    assert may_move(_S.WORKING, _S.WORKING)
    assert not may_move(_S.INPUT_REQUIRED, _S.INPUT_REQUIRED)
    assert may_move(_S.INPUT_REQUIRED, _S.AUTH_REQUIRED)


def _status(state, **more):
    update = {"taskId": "t", "contextId": "c", "status": {"state": state, "x-vendor": 1}} | more
    return msgspec.json.encode({"statusUpdate": update})


def _artifact(**more):
    update = {"taskId": "t", "contextId": "c", "artifact": {"artifactId": "a", "parts": [{"text": "ü"}]}} | more
    return msgspec.json.encode({"artifactUpdate": update})


def _check(body, before=_S.WORKING):
    return check_event(body, task_id="t", context_id="c", before=before)


@pytest.mark.parametrize("before", TaskState)
@pytest.mark.parametrize("after", TaskState)
def test_a_worker_moves_its_task_only_along_the_table(before, after):
    body = _status(after.value)
    if may_move(before, after):
        checked = _check(body, before)
        assert (checked.state, checked.is_status) == (after, True)
        return
    with pytest.raises(EventRefused, match=f"{after.value} may not follow {before.value}"):
        _check(body, before)


@pytest.mark.parametrize("before", TaskState)
def test_an_artifact_leaves_the_state_and_comes_only_while_the_turn_lasts(before):
    if not before.ends_turn:
        checked = _check(_artifact(append=True, lastChunk=False), before)
        assert (checked.state, checked.is_status) == (before, False)
        return
    with pytest.raises(EventRefused, match="no artifact may follow"):
        _check(_artifact(), before)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (_status("TASK_STATE_WORKING", taskId="other"), "taskId 't'"),
        (_status("TASK_STATE_WORKING", contextId="other"), "contextId 'c'"),
        (_artifact(contextId=None), "StreamResponse"),
        (_status("working"), "StreamResponse"),
        (_status("TASK_STATE_WORKING", metadata=[]), "StreamResponse"),
        (_artifact(artifact={"parts": []}), "artifactId"),
        (_artifact(artifact={"artifactId": "a", "parts": None}), "parts"),
        (b'{"task":{"id":"t","contextId":"c"}}', "the hub's to show"),
        (b'{"message":{"messageId":"m"}}', "the hub's to show"),
        (b'{"timelineUpdate":{}}', "report a statusUpdate"),
        (_status("TASK_STATE_WORKING")[:-1] + b',"task":{}}', "the hub's to show"),
        (_status("TASK_STATE_WORKING")[:-1] + b"," + _artifact()[1:], "two events"),
        (_artifact().replace("ü".encode(), b"\xff"), "StreamResponse"),
        (b"[]", "StreamResponse"),
        (b"{", "StreamResponse"),
        (b"[" * 100_000, "StreamResponse"),
    ],
)
def test_what_is_no_event_of_this_task_is_refused_with_the_reason(body, why):
    with pytest.raises(EventRefused, match=why):
        _check(body)
