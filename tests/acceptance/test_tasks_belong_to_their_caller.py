"""Ownership: what one key's tasks are to another, and how follow-ups find the instance that holds the task."""

import itertools

import pytest

from support.hub_process import running_hub
from support.raw_agent import (
    RawRequest,
    Script,
    Wire,
    answering,
    raw_agent,
    registered_agent,
    registered_replicas,
    task_answer,
)
from support.wire_client import V03, V10, Reply, open_stream, rpc, say, send_params

_numbers = itertools.count(1)


def tasks_of(name: str, *, state: str = "TASK_STATE_WORKING") -> Script:
    """Every message makes a new task `<name>-<n>`; everything else answers with the task that was asked for."""

    def make(request: RawRequest) -> object:
        call = request.json
        if call["method"] in ("SendMessage", "SendStreamingMessage"):
            task = call["params"]["message"].get("taskId") or f"{name}-{next(_numbers)}"
            return task_answer(request, task=task, context=f"context of {task}", state=state)
        if call["method"] in ("GetTask", "CancelTask"):
            return task_answer(request, task=call["params"]["id"], state=state, bare=True)
        return {"jsonrpc": "2.0", "id": call["id"], "result": {"taskId": call["params"]["taskId"], "id": "p"}}

    return answering(make)


async def new_task(keyed, agent: str, who: dict[str, str], **message: object) -> str:
    reply = await say(keyed.hub, "POST", f"/a2a/{agent}", rpc("SendMessage", send_params(**message)), headers=V10 | who)
    assert "result" in reply.json, reply
    return reply.json["result"]["task"]["id"]


async def call(keyed, agent: str, who: dict[str, str], method: str, params: object) -> Reply:
    return await say(keyed.hub, "POST", f"/a2a/{agent}", rpc(method, params), headers=V10 | who)


TASK_METHODS = {
    "GetTask": lambda task: {"id": task},
    "CancelTask": lambda task: {"id": task},
    "SubscribeToTask": lambda task: {"id": task},
    "CreateTaskPushNotificationConfig": lambda task: {"taskId": task, "id": "p", "url": "http://127.0.0.1:9/x"},
    "GetTaskPushNotificationConfig": lambda task: {"taskId": task, "id": "p"},
    "ListTaskPushNotificationConfigs": lambda task: {"taskId": task},
    "DeleteTaskPushNotificationConfig": lambda task: {"taskId": task, "id": "p"},
    "SendMessage": lambda task: send_params(taskId=task),
    "SendStreamingMessage": lambda task: send_params(taskId=task),
}


@pytest.mark.parametrize("method", TASK_METHODS)
async def test_task_of_another_key_is_as_unknown_as_one_that_never_was(keyed, method: str) -> None:
    async with registered_agent(keyed.hub, raw_agent(tasks_of("own"))) as agent:
        task = await new_task(keyed, agent.id, keyed.ann)
        seen = len(agent.seen)
        theirs = await call(keyed, agent.id, keyed.bob, method, TASK_METHODS[method](task))
        never = await call(keyed, agent.id, keyed.bob, method, TASK_METHODS[method]("never-was"))
        assert theirs.status == 200
        assert theirs.json["error"]["code"] == -32001
        # Nothing but the id tells the two apart.
        assert theirs.body.replace(task.encode(), b"ID") == never.body.replace(b"never-was", b"ID")
        assert len(agent.seen) == seen


@pytest.mark.parametrize("method", ["GetTask", "CancelTask", "ListTaskPushNotificationConfigs"])
async def test_own_task_is_reached_and_an_admin_reaches_every_task(keyed, method: str) -> None:
    async with registered_agent(keyed.hub, raw_agent(tasks_of("reach"))) as agent:
        task = await new_task(keyed, agent.id, keyed.ann)
        for who in (keyed.ann, keyed.admin):
            reply = await call(keyed, agent.id, who, method, TASK_METHODS[method](task))
            assert "result" in reply.json, reply.body


async def test_task_of_one_agent_is_unknown_at_another(keyed) -> None:
    async with (
        registered_agent(keyed.hub, raw_agent(tasks_of("first"))) as one,
        registered_agent(keyed.hub, raw_agent(tasks_of("second"))) as other,
    ):
        task = await new_task(keyed, one.id, keyed.ann)
        reply = await call(keyed, other.id, keyed.ann, "GetTask", {"id": task})
        assert reply.json["error"]["code"] == -32001


async def test_list_shows_each_caller_their_own_tasks_and_an_admin_all(keyed) -> None:
    async with registered_agent(keyed.hub, raw_agent(tasks_of("list"))) as agent:
        anns = {await new_task(keyed, agent.id, keyed.ann) for _ in range(3)}
        bobs = {await new_task(keyed, agent.id, keyed.bob) for _ in range(2)}
        for who, wanted in ((keyed.ann, anns), (keyed.bob, bobs), (keyed.admin, anns | bobs)):
            result = (await call(keyed, agent.id, who, "ListTasks", {})).json["result"]
            assert {task["id"] for task in result["tasks"]} == wanted
            assert result["totalSize"] == len(wanted)
            assert result["pageSize"] == 50
            assert result["nextPageToken"] == ""
        seen = [request.json["method"] for request in agent.seen]
        assert set(seen) == {"SendMessage"}


async def test_list_is_paged_without_gap_or_repeat_on_both_bindings(keyed) -> None:
    async with registered_agent(keyed.hub, raw_agent(tasks_of("page"))) as agent:
        made = {await new_task(keyed, agent.id, keyed.ann) for _ in range(7)}
        found: list[str] = []
        token = ""
        for _ in range(3):
            params = {"pageSize": 3} | ({"pageToken": token} if token else {})
            result = (await call(keyed, agent.id, keyed.ann, "ListTasks", params)).json["result"]
            assert result["totalSize"] == 7
            found += [task["id"] for task in result["tasks"]]
            token = result["nextPageToken"]
        assert token == ""
        assert sorted(found) == sorted(made)
        rest = await say(keyed.hub, "GET", f"/a2a/{agent.id}/tasks?pageSize=3", headers=V10 | keyed.ann)
        assert [task["id"] for task in rest.json["tasks"]] == found[:3]
        next_page = f"/a2a/{agent.id}/tasks?pageSize=3&pageToken={rest.json['nextPageToken']}"
        more = await say(keyed.hub, "GET", next_page, headers=V10 | keyed.ann)
        assert [task["id"] for task in more.json["tasks"]] == found[3:6]


async def test_list_filters_by_context_and_state(keyed) -> None:
    async with registered_agent(keyed.hub, raw_agent(tasks_of("filter"))) as agent:
        task = await new_task(keyed, agent.id, keyed.ann)
        await new_task(keyed, agent.id, keyed.ann)
        for params, count in (
            ({"contextId": f"context of {task}"}, 1),
            ({"contextId": "another"}, 0),
            ({"status": "TASK_STATE_WORKING"}, 2),
            ({"status": "TASK_STATE_COMPLETED"}, 0),
            ({"statusTimestampAfter": "2100-01-01T00:00:00Z"}, 0),
            ({"statusTimestampAfter": "2020-01-01T00:00:00Z"}, 2),
        ):
            result = (await call(keyed, agent.id, keyed.ann, "ListTasks", params)).json["result"]
            assert (len(result["tasks"]), result["totalSize"]) == (count, count), params


async def test_context_of_the_task_is_filled_in_where_the_client_leaves_it_out(keyed) -> None:
    async with registered_agent(keyed.hub, raw_agent(tasks_of("fill"))) as agent:
        task = await new_task(keyed, agent.id, keyed.ann)
        await new_task(keyed, agent.id, keyed.ann, taskId=task, unknown={"kept": True})
        message = agent.seen[-1].json["params"]["message"]
    assert message["contextId"] == f"context of {task}"
    assert message["unknown"] == {"kept": True}


async def test_task_with_the_context_of_another_is_refused(keyed) -> None:
    async with registered_agent(keyed.hub, raw_agent(tasks_of("pair"))) as agent:
        task = await new_task(keyed, agent.id, keyed.ann)
        seen = len(agent.seen)
        wrong = send_params(taskId=task, contextId="of another")
        reply = await call(keyed, agent.id, keyed.ann, "SendMessage", wrong)
        assert reply.json["error"]["code"] == -32602
        assert "message.contextId" in reply.body.decode()
        assert len(agent.seen) == seen


async def test_first_caller_keeps_a_task_that_a_later_answer_shows_to_another(keyed) -> None:
    async with registered_agent(keyed.hub, raw_agent(answering(lambda r: task_answer(r, task="same")))) as agent:
        for who in (keyed.ann, keyed.bob):
            await new_task(keyed, agent.id, who)
        assert "result" in (await call(keyed, agent.id, keyed.ann, "ListTasks", {})).json
        bobs = (await call(keyed, agent.id, keyed.bob, "ListTasks", {})).json["result"]
        assert bobs["tasks"] == []
        reply = await call(keyed, agent.id, keyed.bob, "GetTask", {"id": "same"})
        assert reply.json["error"]["code"] == -32001


async def test_old_client_owns_what_it_made_and_others_do_not(keyed) -> None:
    old = {"message": {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "x"}], "kind": "message"}}
    async with registered_agent(keyed.hub, raw_agent(tasks_of("old"))) as agent:
        path = f"/a2a/{agent.id}"
        made = await say(keyed.hub, "POST", path, rpc("message/send", old), headers=V03 | keyed.ann)
        task = made.json["result"]["id"]
        get = rpc("tasks/get", {"id": task})
        mine = await say(keyed.hub, "POST", path, get, headers=V03 | keyed.ann)
        theirs = await say(keyed.hub, "POST", path, get, headers=V03 | keyed.bob)
    assert mine.json["result"]["kind"] == "task"
    assert theirs.json["error"]["code"] == -32001


async def test_task_first_seen_in_a_stream_belongs_to_its_caller_before_the_event_arrives(keyed) -> None:
    async def script(request: RawRequest, wire: Wire) -> None:
        if request.json["method"] == "GetTask":
            wire.answer(task_answer(request, task="streamed", bare=True))
            return
        wire.start_stream()
        wire.event({"task": {"id": "streamed", "contextId": "c", "status": {"state": "TASK_STATE_WORKING"}}})
        await wire.closed.wait()

    async with registered_agent(keyed.hub, raw_agent(script)) as agent:
        asked = rpc("SendStreamingMessage", send_params())
        async with await open_stream(keyed.hub, "POST", f"/a2a/{agent.id}", asked, headers=V10 | keyed.ann) as stream:
            await stream.event()
            mine = await call(keyed, agent.id, keyed.ann, "GetTask", {"id": "streamed"})
            theirs = await call(keyed, agent.id, keyed.bob, "GetTask", {"id": "streamed"})
    assert "result" in mine.json
    assert theirs.json["error"]["code"] == -32001


async def test_follow_ups_go_to_the_instance_that_holds_the_task(keyed) -> None:
    one, two = raw_agent(tasks_of("one")), raw_agent(tasks_of("two"))
    async with registered_replicas(keyed.hub, one, two):
        tasks = {await new_task(keyed, one.id, keyed.ann) for _ in range(20)}
        assert {task.partition("-")[0] for task in tasks} == {"one", "two"}
        for task in tasks:
            owner = one if task.startswith("one") else two
            seen = len(owner.seen)
            await call(keyed, one.id, keyed.ann, "GetTask", {"id": task})
            await new_task(keyed, one.id, keyed.ann, taskId=task)
            await call(keyed, one.id, keyed.ann, "CancelTask", {"id": task})
            assert [request.json["method"] for request in owner.seen[seen:]] == ["GetTask", "SendMessage", "CancelTask"]


async def test_owner_is_known_after_a_restart_and_after_a_kill() -> None:
    with running_hub() as hub:
        async with registered_agent(hub, raw_agent(tasks_of("restart"))) as agent:
            made = await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
            task = made.json["result"]["task"]["id"]
            for end in (hub.kill, hub.stop):
                end()
                hub.start()
                reply = await say(hub, "POST", f"/a2a/{agent.id}", rpc("GetTask", {"id": task}), headers=V10)
                assert reply.json["result"]["id"] == task
