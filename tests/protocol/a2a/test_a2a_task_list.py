"""ListTasks as the hub answers it."""

import msgspec
import pytest
from a2a.types import a2a_pb2
from google.protobuf.json_format import ParseDict

from meshway.kernel.errors import InvalidRequest
from meshway.kernel.ids import AgentId, ContextId, InstanceId, PrincipalId, TaskId
from meshway.protocols.a2a.tasklist import ListQuery, encode_task_list, read_list_query
from meshway.tasks.values import TaskOwner, TaskState
from support.a2a_wire_samples import MOMENT, rest, rpc

ASKED = ListQuery(
    context_id="c",
    status=TaskState.WORKING,
    page_size=5,
    page_token="p",
    history_length=0,
    status_timestamp_after_ms=1795330800123,
    include_artifacts=True,
)


def test_both_bindings_ask_the_same():
    params = {"contextId": "c", "status": "TASK_STATE_WORKING", "pageSize": 5, "pageToken": "p", "historyLength": 0}
    params |= {"statusTimestampAfter": MOMENT, "includeArtifacts": True}
    assert read_list_query(rpc("ListTasks", params)) == ASKED
    query = (
        f"contextId=c&status=TASK_STATE_WORKING&pageSize=5&pageToken=p&historyLength=0&statusTimestampAfter={MOMENT}"
    )
    assert read_list_query(rest("GET", "/tasks", query=query + "&includeArtifacts=true")) == ASKED
    snake = {"context_id": "c", "status": 2, "page_size": "5", "page_token": "p", "history_length": 0}
    assert (
        read_list_query(rpc("ListTasks", snake | {"status_timestamp_after": MOMENT, "include_artifacts": True}))
        == ASKED
    )


def test_what_is_not_asked_has_the_defaults_of_the_specification():
    assert read_list_query(rpc("ListTasks", {})) == ListQuery()
    assert read_list_query(rest("GET", "/tasks")).page_size == 50
    assert read_list_query(rpc("ListTasks", {"status": "TASK_STATE_UNSPECIFIED", "contextId": ""})) == ListQuery()


@pytest.mark.parametrize("size", [0, 101, -1, 1.5, "many", True, "²", "9" * 30])
def test_a_page_size_outside_1_to_100_is_refused(size):
    with pytest.raises(InvalidRequest) as caught:
        read_list_query(rpc("ListTasks", {"pageSize": size}))
    assert [fault.field for fault in caught.value.fields] == ["pageSize"]


def test_every_wrong_field_is_named():
    params = {
        "contextId": 5,
        "status": "working",
        "historyLength": -1,
        "includeArtifacts": 1,
        "statusTimestampAfter": "soon",
    }
    with pytest.raises(InvalidRequest) as caught:
        read_list_query(rpc("ListTasks", params))
    assert [f.field for f in caught.value.fields] == [
        "contextId", "status", "historyLength", "statusTimestampAfter", "includeArtifacts",
    ]  # fmt: skip


def test_the_answer_is_one_the_stock_sdk_reads():
    owner = TaskOwner(
        task_id=TaskId("t"),
        context_id=ContextId("c"),
        agent_id=AgentId("a"),
        instance_id=InstanceId("i"),
        principal_id=PrincipalId("p"),
        state=TaskState.INPUT_REQUIRED,
        created_at_ms=1,
        status_at_ms=1795330800123,
    )
    without_context = msgspec.structs.replace(owner, context_id=None)
    for request in (rpc("ListTasks", {}), rest("GET", "/tasks")):
        body = encode_task_list(request, [owner, without_context], next_page_token=None, page_size=50, total_size=2)
        answer = msgspec.json.decode(body)
        result = answer.get("result", answer)
        assert ("jsonrpc" in answer) is (request.http_method == b"POST")
        assert result["nextPageToken"] == ""
        assert result["tasks"][0] == {
            "id": "t", "contextId": "c", "status": {"state": "TASK_STATE_INPUT_REQUIRED", "timestamp": MOMENT},
        }  # fmt: skip
        read = ParseDict(result, a2a_pb2.ListTasksResponse())
        assert (len(read.tasks), read.page_size, read.total_size) == (2, 50, 2)
