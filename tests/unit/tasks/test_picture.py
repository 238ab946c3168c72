"""What a task looks like after its events, and which events were missed."""

import msgspec
import pytest
from a2a.server.tasks.task_manager import append_artifact_to_task
from a2a.types import a2a_pb2
from google.protobuf.json_format import MessageToDict, ParseDict

from meshway.tasks import event_bodies
from meshway.tasks.missed_events import is_said_again, missed_events, repeats_the_end
from meshway.tasks.picture import TaskPicture
from meshway.tasks.values import TaskState

USER = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "go"}], "x-vendor": 1.50}
AT_MS = 1_795_330_800_123
MOMENT = "2026-11-22T07:00:00.123Z"
_WORKING, _DONE, _ASKS = TaskState.WORKING, TaskState.COMPLETED, TaskState.INPUT_REQUIRED


def submitted(**more) -> bytes:
    return event_bodies.submitted("t", "c", msgspec.json.encode(USER), at_ms=AT_MS, **more)


def status(state: TaskState, **more) -> bytes:
    return event_bodies.status("t", "c", state, at_ms=AT_MS, **more)


def chunk(*texts: str, artifact_id: str = "a", append: bool | None = None, **fields) -> bytes:
    artifact = {"artifactId": artifact_id, "parts": [{"text": text} for text in texts]} | fields
    update = {"taskId": "t", "contextId": "c", "artifact": artifact}
    return msgspec.json.encode({"artifactUpdate": update if append is None else update | {"append": append}})


def parts_of(picture: TaskPicture, index: int = 0) -> list:
    return picture.task()["artifacts"][index]["parts"]


def test_a_task_begins_submitted_with_the_message_of_its_client():
    picture = TaskPicture.of([submitted(metadata={"redriveOf": "t-0"})])
    assert picture.state is TaskState.SUBMITTED
    assert picture.task() == {
        "id": "t",
        "contextId": "c",
        "status": {"state": "TASK_STATE_SUBMITTED", "timestamp": MOMENT},
        "history": [USER],
        "metadata": {"redriveOf": "t-0"},
    }


def test_unknown_fields_and_the_writing_of_numbers_survive():
    task = b'{"task":{"id":"t","status":{"state":"TASK_STATE_WORKING","x":1.50},"artifacts":[{"artifactId":"a","parts":[{"data":1e2}],"y":[]}],"z":1E400}}'  # noqa: E501
    picture = TaskPicture.of([task, chunk("more", append=True, w=2)])
    assert b'"x":1.50' in picture.encode()
    assert b'{"data":1e2}' in picture.encode()
    assert b'"z":1E400' in picture.encode()
    assert b'"w":2' in picture.encode()


def test_what_an_agent_said_with_a_status_goes_into_the_history_when_the_next_status_comes():
    picture = TaskPicture.of([submitted(), status(_WORKING, text="thinking", message_id="m-2")])
    said = {
        "messageId": "m-2", "taskId": "t", "contextId": "c", "role": "ROLE_AGENT", "parts": [{"text": "thinking"}],
    }  # fmt: skip
    assert picture.task()["status"]["message"] == said
    assert picture.task()["history"] == [USER]
    picture.fold(status(_DONE))
    assert picture.state is _DONE
    assert picture.task()["status"] == {"state": "TASK_STATE_COMPLETED", "timestamp": MOMENT}
    assert picture.task()["history"] == [USER, said]


def test_history_is_cut_from_the_front():
    picture = TaskPicture.of([submitted(), *(status(_WORKING, text=str(n), message_id=f"m-{n}") for n in range(4))])
    ids = [message["messageId"] for message in picture.task()["history"]]
    assert ids == ["m-1", "m-0", "m-1", "m-2"]
    assert picture.task(2)["history"] == picture.task()["history"][-2:]
    assert picture.task(9)["history"] == picture.task()["history"]
    assert "history" not in picture.task(0)


def test_artifacts_can_be_left_out():
    picture = TaskPicture.of([submitted(), chunk("x")])
    assert "artifacts" not in picture.task(include_artifacts=False)
    assert msgspec.json.decode(picture.encode()) == picture.task()


def test_metadata_of_updates_become_the_task_s_but_the_number_of_an_attempt_does_not():
    events = [submitted(), status(_WORKING, metadata={"attempt": 1}), status(_DONE, metadata={"cost": 3})]
    assert TaskPicture.of(events).task()["metadata"] == {"cost": 3}


def test_a_new_attempt_keeps_what_stands_until_its_first_chunk_replaces_it():
    picture = TaskPicture.of([submitted(), chunk("1 "), chunk("2 ", append=True)])
    picture.fold(status(_WORKING, metadata={"attempt": 2}))
    assert parts_of(picture) == [{"text": "1 "}, {"text": "2 "}]
    picture.fold(chunk("1 ", append=False))
    assert parts_of(picture) == [{"text": "1 "}]


def test_a_replaced_artifact_keeps_its_place():
    picture = TaskPicture.of([submitted(), chunk("1"), chunk("x", artifact_id="b"), chunk("2")])
    assert [artifact["artifactId"] for artifact in picture.task()["artifacts"]] == ["a", "b"]
    assert parts_of(picture) == [{"text": "2"}]


def test_a_task_event_replaces_everything():
    picture = TaskPicture.of([submitted(metadata={"a": 1}), chunk("x"), status(_ASKS, text="?", message_id="m")])
    picture.fold(b'{"task":{"id":"t","contextId":"c","status":{"state":"TASK_STATE_WORKING"}}}')
    assert picture.task() == {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}


def test_an_agent_that_never_shows_its_task_is_understood_by_its_updates():
    picture = TaskPicture.of([status(_WORKING), chunk("x", append=True)])
    assert picture.task()["id"] == "t"
    assert picture.context_id == "c"
    assert parts_of(picture) == [{"text": "x"}]


def test_without_events_there_is_a_task_of_no_state():
    assert TaskPicture().task() == {"id": "", "status": {"state": "TASK_STATE_UNSPECIFIED"}}
    assert TaskPicture().context_id is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"artifactUpdate":7}',
        b'{"artifactUpdate":{"artifact":null}}',
        b'{"artifactUpdate":{"artifact":{"artifactId":7,"parts":[]}}}',
        b'{"artifactUpdate":{"artifact":{"artifactId":"a","parts":{}},"append":true}}',
        b'{"artifactUpdate":{"artifact":{"artifactId":"a","parts":[],"metadata":[]},"append":true}}',
        b'{"statusUpdate":{"status":[]}}',
        b'{"statusUpdate":{"status":null}}',
        b'{"task":{"status":{"state":"TASK_STATE_FAILED"},"artifacts":[7]}}',
        b'{"task":{"status":{"state":"TASK_STATE_FAILED"},"history":{}}}',
        b'{"message":{"messageId":"m"}}',
        b'{"timelineUpdate":{}}',
        b"7",
        b"{",
    ],
)
def test_an_event_of_another_shape_changes_nothing(body):
    events = [submitted(), chunk("x"), status(_WORKING, text="hm", message_id="m-2")]
    assert TaskPicture.of([*events, body]).encode() == TaskPicture.of(events).encode()


def test_null_is_absent_as_in_protojson():
    task = b'{"task":{"id":"t","status":null,"artifacts":null,"history":null,"metadata":null}}'
    picture = TaskPicture.of([task, status(_WORKING, text="hm", message_id="m-2"), chunk("x")])
    assert picture.state is _WORKING
    assert "history" not in picture.task()


def test_a_further_turn_has_the_question_and_the_answer_in_its_history():
    picture = TaskPicture.of([submitted(), chunk("x"), status(_ASKS, text="which?", message_id="m-2")])
    answer = USER | {"messageId": "m-3"}
    picture.fold(event_bodies.resubmitted(picture, msgspec.json.encode(answer), at_ms=AT_MS))
    assert picture.state is TaskState.SUBMITTED
    assert [message["messageId"] for message in picture.task()["history"]] == ["m-1", "m-2", "m-3"]
    assert picture.task()["status"] == {"state": "TASK_STATE_SUBMITTED", "timestamp": MOMENT}
    assert parts_of(picture) == [{"text": "x"}]


def test_a_status_can_carry_a_message_the_agent_made_itself():
    message = b'{"messageId":"m","role":"ROLE_AGENT","parts":[{"data":[1.50]}]}'
    assert message in status(_DONE, message=message)
    assert b'"message"' not in status(_DONE)


def test_the_stock_sdk_s_task_manager_comes_to_the_same_artifacts():
    events = [
        chunk("1", name="one", metadata={"k": 1}),
        chunk("2", append=True, metadata={"l": 2}),
        chunk("x", artifact_id="b"),
        chunk("3", append=True),
        chunk("y", artifact_id="b", append=False, description="new"),
    ]
    stock = a2a_pb2.Task(id="t")
    for event in events:
        update = msgspec.json.decode(event)["artifactUpdate"]
        append_artifact_to_task(stock, ParseDict(update, a2a_pb2.TaskArtifactUpdateEvent()))
    assert TaskPicture.of(events).task()["artifacts"] == MessageToDict(stock)["artifacts"]


# --- Missed events ---


def snapshot(state: TaskState, *artifacts: dict, **more) -> bytes:
    task = {"id": "t", "contextId": "c", "status": {"state": state.value}, "artifacts": list(artifacts)}
    return msgspec.json.encode(task | more)


def artifact(*texts: str, artifact_id: str = "a", **fields) -> dict:
    return {"artifactId": artifact_id, "parts": [{"text": text} for text in texts]} | fields


def missed(known: list[bytes], task: bytes) -> list[dict]:
    return [msgspec.json.decode(event) for event in missed_events(TaskPicture.of(known), task, task_id="t")]


KNOWN = [submitted(), status(_WORKING), chunk("1 "), chunk("2 ", append=True)]


def test_nothing_was_missed_of_an_equal_task():
    assert missed(KNOWN, snapshot(_WORKING, artifact("1 ", "2 "))) == []
    assert missed(KNOWN, snapshot(_WORKING, artifact("1 2 "))) == []
    assert missed(KNOWN, snapshot(_WORKING, artifact("1 ", "2 ", name="", metadata={}))) == []
    assert missed(KNOWN, snapshot(_WORKING)) == []


def test_what_was_missed_is_continued_and_ends_with_the_status():
    [update, ending] = missed(KNOWN, snapshot(_DONE, artifact("1 ", "2 ", "3 ", "4 "), metadata={"cost": 2}))
    assert update == {
        "artifactUpdate": {
            "taskId": "t",
            "contextId": "c",
            "artifact": {"artifactId": "a", "parts": [{"text": "3 "}, {"text": "4 "}]},
            "append": True,
            "lastChunk": True,
        }
    }
    assert ending["statusUpdate"] == {
        "taskId": "t", "contextId": "c", "status": {"state": "TASK_STATE_COMPLETED"}, "metadata": {"cost": 2},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "rest"), [(["1 2 3 "], ["3 "]), (["1 2", " 3 ", "4"], ["3 4"]), (["1 ", "2 3"], ["3"])]
)
def test_a_text_the_agent_keeps_in_other_pieces_is_continued(texts, rest):
    [event] = missed(KNOWN, snapshot(_WORKING, artifact(*texts)))
    update = event["artifactUpdate"]
    assert (update["append"], update["lastChunk"]) == (True, False)
    assert [part["text"] for part in update["artifact"]["parts"]] == rest


@pytest.mark.parametrize(
    "changed", [artifact("9 "), artifact("1 ", "2 ", name="new"), artifact("1 "), artifact(), artifact("1 2")]
)
def test_what_changed_otherwise_is_sent_whole(changed):
    [event] = missed(KNOWN, snapshot(_WORKING, changed))
    assert event["artifactUpdate"]["append"] is False
    assert event["artifactUpdate"]["artifact"] == changed


def test_other_parts_than_texts_are_compared_as_values():
    data = {"artifactId": "d", "parts": [{"data": {"b": 1, "a": [1.5, True]}}]}
    known = [submitted(), status(_WORKING), msgspec.json.encode({"artifactUpdate": {"taskId": "t", "artifact": data}})]
    again = {"artifactId": "d", "parts": [{"data": {"a": [1.5, True], "b": 1}}]}
    assert missed(known, snapshot(_WORKING, again)) == []
    other = {"artifactId": "d", "parts": [{"data": {"a": [1.5, 1], "b": 1}}]}
    assert len(missed(known, snapshot(_WORKING, other))) == 1


def test_a_question_asked_meanwhile_is_told():
    question = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "?"}]}
    task = snapshot(_ASKS, status={"state": _ASKS.value, "message": question, "timestamp": MOMENT})
    [event] = missed(KNOWN, task)
    assert event["statusUpdate"]["status"] == {"state": _ASKS.value, "message": question, "timestamp": MOMENT}


def test_nothing_follows_the_end_of_a_task():
    assert missed([*KNOWN, status(_DONE)], snapshot(_WORKING, artifact("new"))) == []


@pytest.mark.parametrize("task", [b"7", b"{", b'{"artifacts":7}', b'{"status":[]}'])
def test_an_answer_that_is_no_task_is_not_mistaken_for_one(task):
    with pytest.raises(msgspec.DecodeError):
        missed_events(TaskPicture.of(KNOWN), task, task_id="t")


CHUNKED = [
    b'{"task":{"id":"t","contextId":"c","status":{"state":"TASK_STATE_WORKING"}}}',
    b'{"artifactUpdate":{"taskId":"t","contextId":"c","artifact":{"artifactId":"a","parts":[{"text":"0 "}]}}}',
]
AGAIN = b'{"artifactUpdate":{"append":true,"artifact":{"parts":[ {"text":"0 "} ],"artifactId":"a"}}}'


@pytest.mark.parametrize(
    ("present", "said_again"),
    [(["0 "], False), (["0 ", "1 "], False), (["0 ", "0 "], True), (["0 ", "0 ", "1 "], True)],
)
def test_chunk_that_stands_in_the_snapshot_and_in_the_stream_is_told_from_one_that_is_said_twice(present, said_again):
    end = repeats_the_end(TaskPicture.of(CHUNKED), AGAIN)
    assert end is not None
    task = {"id": "t", "artifacts": [{"artifactId": "a", "parts": [{"text": text} for text in present]}]}
    assert is_said_again(end, TaskPicture.of_task(msgspec.json.encode(task))) is said_again


def test_chunk_that_says_something_new_repeats_nothing():
    assert repeats_the_end(TaskPicture.of(CHUNKED), AGAIN.replace(b"0 ", b"1 ")) is None
    assert repeats_the_end(TaskPicture.of(CHUNKED[:1]), AGAIN) is None
    assert repeats_the_end(TaskPicture.of(CHUNKED), AGAIN.replace(b"true", b"false")) is None
