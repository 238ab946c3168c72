"""Tasks under /v1: submitting, following, cancelling, inboxes, stops and the long poll of instances."""

import asyncio
import json
import re

import httpx
import pytest

from meshway.protocols.sse import SseParser
from meshway.tasks.settings import TaskSettings
from support.polling_instance import PollingInstance, artifact, status
from support.rest_hub import rest_hub, served

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
async def hub():
    async with rest_hub() as hub:
        yield hub


@pytest.fixture
async def worker(hub):
    """An instance of the pull agent `worker`, registered."""
    instance = PollingInstance(hub.http)
    await instance.join()
    return instance


async def submit(hub, text="hi", *, headers=None, status_code=202, **more):
    answer = await hub.http.post("/v1/tasks", json={"agent": "worker", "text": text, **more}, headers=headers)
    assert answer.status_code == status_code, answer.text
    return answer.json()


async def shown(hub, task_id, below="", **params):
    answer = await hub.http.get(f"/v1/tasks/{task_id}{below}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def events_of(hub, task_id, **headers):
    """All events of a task that ends, as (number, event)."""
    parser = SseParser()
    async with asyncio.timeout(5):
        answer = await hub.http.get(f"/v1/tasks/{task_id}/events", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [(int(event.id), json.loads(event.data)) for event in parser.feed(answer.content)]


def problem(answer, status_code, code):
    assert answer.status_code == status_code, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    return answer.json()


# --- submitting and looking -----------------------------------------------------------------------------------------


async def test_a_submitted_task_is_the_a2a_task_with_its_agent_and_receipts(hub, worker):
    answer = await hub.http.post("/v1/tasks", json={"agent": "worker", "text": "hi"})
    task = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/tasks/{task['id']}")
    assert task["status"]["state"] == "TASK_STATE_SUBMITTED"
    assert task["history"][0]["parts"] == [{"text": "hi"}]
    assert (task["agent"], [each["state"] for each in task["receipts"]]) == ("worker", ["queued"])
    assert MOMENT.fullmatch(task["receipts"][0]["at"])
    plain = await shown(hub, task["id"])
    assert plain == {name: value for name, value in task.items() if name not in ("agent", "receipts")}


async def test_a_task_goes_to_whoever_has_the_skill(hub, worker):
    answer = await hub.http.post("/v1/tasks", json={"skill": "forecast", "text": "tomorrow?"})
    assert answer.json()["agent"] == "worker"
    problem(await hub.http.post("/v1/tasks", json={"skill": "nobody-has-it", "text": "x"}), 404, "agent_not_found")


async def test_a_message_is_kept_with_every_member_it_came_with(hub, worker):
    message = {"messageId": "mine", "role": "ROLE_USER", "parts": [{"data": {"n": 1}}], "x-new": [1, None]}
    task = (await hub.http.post("/v1/tasks", json={"agent": "worker", "message": message})).json()
    assert task["history"][0].items() >= message.items()
    assert (await worker.take())["message"].items() >= message.items()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"text": "hi"}, "agent"),
        ({"agent": "worker", "skill": "forecast", "text": "hi"}, "agent"),
        ({"agent": "worker"}, "text"),
        ({"agent": "worker", "text": "hi", "message": {"parts": [{"text": "hi"}]}}, "text"),
        ({"agent": "worker", "message": {"parts": []}}, "message.parts"),
        ({"agent": "worker", "text": "hi", "timeout_ms": 0}, "timeout_ms"),
        ({"agent": "worker", "text": "hi", "colour": "red"}, "colour"),
    ],
)
async def test_a_submission_that_makes_no_sense_names_the_field(hub, worker, body, field):
    document = problem(await hub.http.post("/v1/tasks", json=body), 400, "invalid_request")
    assert [each["field"] for each in document["errors"]] == [field]


async def test_the_same_key_again_joins_the_task_and_another_content_is_a_conflict(hub, worker):
    body = {"agent": "worker", "text": "once"}
    first = await hub.http.post("/v1/tasks", json=body, headers={"Idempotency-Key": "k"})
    again = await hub.http.post("/v1/tasks", json={**body, "idempotency_key": "k"})
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    other = {"agent": "worker", "text": "something else", "idempotency_key": "k"}
    problem(await hub.http.post("/v1/tasks", json=other), 409, "idempotency_key_reused")
    both = await hub.http.post("/v1/tasks", json={**body, "idempotency_key": "k"}, headers={"Idempotency-Key": "l"})
    assert problem(both, 400, "invalid_request")["errors"][0]["field"] == "idempotency_key"


async def test_history_is_as_long_as_was_asked_for(hub, worker):
    task = await submit(hub)
    assert "history" not in await shown(hub, task["id"], history_length=0)
    assert len((await shown(hub, task["id"], history_length=1))["history"]) == 1


async def test_tasks_are_found_by_agent_state_context_and_time_in_pages(hub, worker):
    first, second = await submit(hub, context_id="talk"), await submit(hub)
    await worker.report(await worker.take(), status({"task_id": first["id"], "context_id": "talk"}, "COMPLETED"))

    async def found(**params):
        answer = await hub.http.get("/v1/tasks", params=params)
        assert answer.status_code == 200, answer.text
        return [each["id"] for each in answer.json()["items"]]

    assert set(await found()) == {first["id"], second["id"]}
    assert await found(state="completed") == await found(state="TASK_STATE_COMPLETED") == [first["id"]]
    assert await found(context="talk") == [first["id"]]
    assert await found(agent="somebody-else") == []
    assert await found(status_after="2999-01-01T00:00:00Z") == []
    page = (await hub.http.get("/v1/tasks", params={"limit": 1})).json()
    assert (page["total"], len(page["items"])) == (2, 1)
    rest = (await hub.http.get("/v1/tasks", params={"limit": 1, "cursor": page["next_cursor"]})).json()
    assert {page["items"][0]["id"], rest["items"][0]["id"]} == {first["id"], second["id"]}
    assert rest["next_cursor"] is None
    (item,) = (await hub.http.get("/v1/tasks", params={"context": "talk"})).json()["items"]
    assert item.items() >= {"agent": "worker", "context_id": "talk", "turn": 1, "hub_owned": True}.items()
    assert MOMENT.fullmatch(item["created_at"])


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"state": "asleep"}, "state"),
        ({"status_after": "yesterday"}, "status_after"),
        ({"limit": 101}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"agent": "No Agent"}, "agent"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused_by_its_name(hub, params, field):
    document = problem(await hub.http.get("/v1/tasks", params=params), 400, "invalid_request")
    assert [each["field"] for each in document["errors"]] == [field]


async def test_a_task_of_nobody_is_not_found_anywhere(hub):
    for below in ("", "/events", "/receipts", "/tree"):
        problem(await hub.http.get(f"/v1/tasks/none{below}"), 404, "task_not_found")
    problem(await hub.http.post("/v1/tasks/none/cancel"), 404, "task_not_found")


async def test_tasks_are_shown_to_who_submitted_them_and_to_admins_only(hub, worker):
    keys = {}
    for name, scope in (("root", "admin"), ("ada", "call"), ("bob", "call"), ("serve", "serve:worker")):
        headers = keys.get("root")
        made = await hub.http.post("/v1/keys", json={"name": name, "scopes": [scope]}, headers=headers)
        keys[name] = {"Authorization": f"Bearer {made.json()['key']}"}
    task = await submit(hub, headers=keys["ada"])
    statuses = {
        name: (await hub.http.get(f"/v1/tasks/{task['id']}", headers=headers)).status_code
        for name, headers in keys.items()
    }
    assert statuses == {"root": 200, "ada": 200, "bob": 404, "serve": 404}
    refused = await hub.http.get("/v1/tasks", headers=keys["serve"])
    problem(refused, 403, "forbidden")
    problem(await hub.http.get("/v1/audit", headers=keys["ada"]), 403, "forbidden")
    lease = {"instance": "two"}
    problem(await hub.http.post("/v1/agents/worker/lease", json=lease, headers=keys["ada"]), 403, "forbidden")
    problem(await hub.http.get("/v1/agents/worker/inbox", headers=keys["ada"]), 403, "forbidden")
    assert (await hub.http.get("/v1/agents/worker/inbox", headers=keys["serve"])).status_code == 200


# --- events ---------------------------------------------------------------------------------------------------------


async def test_events_are_numbered_from_one_without_gaps_and_end_with_the_task(hub, worker):
    task = await submit(hub)
    delivery = await worker.take()
    await worker.report(delivery, artifact(delivery, "one\ntwo"), status(delivery, "COMPLETED"))
    events = await events_of(hub, task["id"])
    assert [number for number, _ in events] == [1, 2, 3, 4]
    kinds = [next(iter(event)) for _, event in events]
    assert kinds == ["task", "statusUpdate", "artifactUpdate", "statusUpdate"]
    assert events[2][1]["artifactUpdate"]["artifact"]["parts"] == [{"text": "one\ntwo"}]
    assert await events_of(hub, task["id"], **{"Last-Event-ID": "2"}) == events[2:]
    assert await events_of(hub, task["id"], **{"Last-Event-ID": "4"}) == []
    after = await hub.http.get(f"/v1/tasks/{task['id']}/events?after=3")
    assert [event.id for event in SseParser().feed(after.content)] == [b"4"]
    wrong = await hub.http.get(f"/v1/tasks/{task['id']}/events", headers={"Last-Event-ID": "last"})
    assert problem(wrong, 400, "invalid_request")["errors"][0]["field"] == "Last-Event-ID"


async def test_events_come_as_they_are_written_and_a_lost_reader_goes_on_where_it_was(hub, worker):
    task = await submit(hub)
    async with served(hub.app) as url, httpx.AsyncClient(timeout=5) as http:
        address, parser, seen = f"{url}/v1/tasks/{task['id']}/events", SseParser(), []

        async def read(received, count):
            while len(seen) < count:
                seen.extend(int(event.id) for event in parser.feed(await anext(received)))

        async with http.stream("GET", address) as response, asyncio.timeout(5):
            received = response.aiter_bytes()
            await read(received, 1)
            delivery = await worker.take()
            await read(received, 2)
        await worker.report(delivery, artifact(delivery, "x"), status(delivery, "COMPLETED"))
        async with http.stream("GET", address, headers={"Last-Event-ID": "2"}) as response, asyncio.timeout(5):
            await read(response.aiter_bytes(), 4)
    assert seen == [1, 2, 3, 4]


async def test_a_feed_begins_with_a_comment_and_ends_when_the_hub_shuts_down(hub, worker):
    task = await submit(hub)
    async with served(hub.app) as url, httpx.AsyncClient(base_url=url, timeout=5) as http, asyncio.timeout(5):
        request = http.build_request("GET", f"/v1/tasks/{task['id']}/events?after=1")
        received = (await http.send(request, stream=True)).aiter_bytes()
        assert (await anext(received)).startswith(b": connected\n\n")
        hub.status.shutdown.set()
        assert b"".join([chunk async for chunk in received]).endswith(b": the hub is shutting down\n\n")


# --- receipts, trees, cancelling ------------------------------------------------------------------------------------


async def test_receipts_tell_who_had_the_task_and_what_became_of_it(hub, worker):
    task = await submit(hub)
    await worker.settle(await worker.take(), "retry", delay_ms=0, reason="out of ink")
    delivery = await worker.take()
    assert delivery["attempt"] == 2
    await worker.report(delivery, artifact(delivery, "done"), status(delivery, "COMPLETED"))
    receipts = (await shown(hub, task["id"], "/receipts"))["items"]
    assert [(each["state"], each["attempt"]) for each in receipts] == [
        ("queued", 0), ("claimed", 1), ("failed", 1), ("queued", 2), ("claimed", 2), ("running", 2), ("replied", 2),
    ]  # fmt: skip
    assert (receipts[1]["instance"], receipts[2]["reason"]) == ("one", "out of ink")


async def test_the_tree_of_a_task_is_what_was_asked_for_in_its_course(hub, worker):
    root = await submit(hub, "plan")
    delivery = await worker.take()
    helper = PollingInstance(hub.http, "helper")
    await helper.join()
    body = {"agent": "helper", "text": "do"}
    child = await hub.http.post("/v1/tasks", json=body, headers={"Meshway-Chain": delivery["chain"]})
    assert child.status_code == 202, child.text
    tree = await shown(hub, root["id"], "/tree")
    assert (tree["id"], tree["agent"], tree["cut"]) == (root["id"], "worker", False)
    assert [(each["id"], each["agent"], each["children"]) for each in tree["children"]] == [
        (child.json()["id"], "helper", [])
    ]
    (item,) = (await hub.http.get("/v1/tasks", params={"agent": "helper"})).json()["items"]
    assert item["parent"] == item["root"] == {"agent": "worker", "id": root["id"]}
    cancelled = await hub.http.post(f"/v1/tasks/{root['id']}/cancel")
    assert cancelled.json()["status"]["state"] == "TASK_STATE_CANCELED"
    assert (await shown(hub, child.json()["id"]))["status"]["state"] == "TASK_STATE_CANCELED"


async def test_a_chain_that_the_hub_did_not_make_is_refused(hub, worker):
    answer = await hub.http.post(
        "/v1/tasks", json={"agent": "worker", "text": "x"}, headers={"Meshway-Chain": "forged"}
    )
    problem(answer, 400, "invalid_request")


async def test_an_ended_task_cannot_be_cancelled(hub, worker):
    task = await submit(hub)
    assert (await hub.http.post(f"/v1/tasks/{task['id']}/cancel")).status_code == 200
    problem(await hub.http.post(f"/v1/tasks/{task['id']}/cancel"), 409, "task_not_cancelable")


# --- the long poll --------------------------------------------------------------------------------------------------


async def test_an_instance_registers_itself_and_its_agent_with_its_first_poll(hub):
    worker = PollingInstance(hub.http)
    problem(await worker.ask("lease"), 404, "agent_not_found")
    joined = await worker.join(labels={"zone": "eu"}, capacity=3)
    assert (joined["instance"], joined["tasks"], joined["holds"], joined["cancelled"]) == ("one", [], [], [])
    assert joined["lease_ms"] == TaskSettings().lease_ms
    agent = (await hub.http.get("/v1/agents/worker")).json()
    (instance,) = agent["instances"]
    assert (agent["pull"], agent["state"], instance["url"]) == (True, "online", None)
    assert (instance["labels"], instance["capacity"]) == ({"zone": "eu"}, 3)
    await worker.lease(labels={"zone": "us"})
    (instance,) = (await hub.http.get("/v1/agents/worker")).json()["instances"]
    assert (instance["labels"], instance["capacity"]) == ({"zone": "us"}, 3)


async def test_an_agent_that_is_called_by_url_takes_no_instances_that_poll(hub):
    agent = await hub.register("worker")
    assert agent["pull"] is False
    problem(await PollingInstance(hub.http).ask("lease"), 409, "conflict")


async def test_a_poll_is_answered_as_soon_as_a_task_is_there(hub, worker):
    async with asyncio.TaskGroup() as group, asyncio.timeout(5):
        polling = group.create_task(worker.lease(wait_ms=50_000, count=5))
        task = await submit(hub, timeout_ms=60_000)
    (delivery,) = polling.result()["tasks"]
    assert (delivery["task_id"], delivery["attempt"]) == (task["id"], 1)
    assert delivery["message"]["parts"] == [{"text": "hi"}]
    assert MOMENT.fullmatch(delivery["deadline"])
    assert (await shown(hub, task["id"]))["status"]["state"] == "TASK_STATE_WORKING"


async def test_the_task_before_a_further_turn_comes_with_it(hub, worker):
    task = await submit(hub)
    delivery = await worker.take()
    await worker.report(delivery, status(delivery, "INPUT_REQUIRED", "Which one?"))
    body = {"agent": "worker", "message": {"taskId": task["id"], "parts": [{"text": "the red one"}]}}
    assert (await hub.http.post("/v1/tasks", json=body)).status_code == 202
    again = await worker.take()
    assert (again["turn"], again["attempt"], again["message"]["parts"]) == (2, 1, [{"text": "the red one"}])
    assert again["task"]["id"] == task["id"]


async def test_reports_that_are_repeated_are_confirmed_and_illegal_ones_refused(hub, worker):
    task = await submit(hub)
    delivery = await worker.take()
    for _ in range(2):
        (outcome,) = (await worker.report(delivery, artifact(delivery, "a")))["outcomes"]
        assert (outcome["outcome"], outcome["source"]) == ("done", 1)
    (outcome,) = (await worker.report(delivery, {"task": {"id": "mine"}}, after=1))["outcomes"]
    assert (outcome["outcome"], outcome["source"]) == ("refused", 1)
    await worker.report(delivery, status(delivery, "COMPLETED"), after=1)
    (outcome,) = (await worker.report(delivery, artifact(delivery, "late"), after=2))["outcomes"]
    assert outcome["outcome"] == "stale"
    assert len(await events_of(hub, task["id"])) == 4


async def test_an_instance_is_told_once_that_a_task_it_works_on_was_cancelled(hub, worker):
    task = await submit(hub)
    delivery = await worker.take()
    await hub.http.post(f"/v1/tasks/{task['id']}/cancel")
    told = await worker.settle(delivery, "extend")
    assert (told["outcomes"], told["cancelled"]) == (["stale"], [delivery["delivery_id"]])
    assert (await worker.lease())["cancelled"] == []


async def test_what_an_instance_holds_is_shown_extended_and_given_back_when_it_leaves(hub, worker):
    await submit(hub)
    delivery = await worker.take()
    await worker.report(delivery, artifact(delivery, "a"))
    holds = [{"delivery_id": delivery["delivery_id"], "source": 0}, {"delivery_id": "1.1.nothing.x", "source": 0}]
    shown_again = (await worker.lease(holds=holds))["holds"]
    assert [(each["held"], each["source"]) for each in shown_again] == [(True, 1), (False, 0)]
    assert (await worker.settle(delivery, "extend"))["outcomes"] == ["done"]
    await worker.bye()
    assert (await hub.http.get("/v1/agents/worker")).json()["instances"] == []
    other = PollingInstance(hub.http, name="two")
    again = await other.take()
    assert again["task_id"] == delivery["task_id"]
    assert (await shown(hub, again["task_id"], "/receipts"))["items"][-1]["instance"] == "two"


@pytest.mark.parametrize("waits", [True, False])
async def test_an_instance_that_drains_is_given_no_tasks_until_it_is_resumed(hub, worker, waits):
    other = PollingInstance(hub.http, name="two")
    await other.join()
    asking = asyncio.create_task(worker.lease(wait_ms=3_000)) if waits else None
    await asyncio.sleep(0.05)
    drained = await hub.http.post("/v1/agents/worker/instances/one/drain")
    assert drained.status_code == 200, drained.text
    task = await submit(hub)
    if asking is None:
        assert (await worker.lease(wait_ms=100))["tasks"] == []
    assert (await other.take())["task_id"] == task["id"]
    later = await submit(hub)
    if asking is None:
        asking = asyncio.create_task(worker.lease(wait_ms=3_000))
    assert (await hub.http.delete("/v1/agents/worker/instances/one/drain")).status_code == 200
    (handed,) = (await asking)["tasks"]
    assert handed["task_id"] == later["id"]


async def test_a_client_that_has_left_is_given_no_tasks(hub, worker):
    async with served(hub.app) as url, httpx.AsyncClient(base_url=url, timeout=5) as http:
        leaving = PollingInstance(http, name="leaving")
        await leaving.join()
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/v1/agents/worker/lease", json={"instance": "leaving", "wait_ms": 50_000}, timeout=0.2)
        # The end of that connection comes in before this request does.
        assert (await http.get("/healthz")).status_code == 200
        await submit(hub)
        assert (await worker.take())["attempt"] == 1


async def test_a_hub_that_shuts_down_answers_polls_with_nothing(hub, worker):
    async with asyncio.TaskGroup() as group, asyncio.timeout(5):
        polling = group.create_task(worker.lease(wait_ms=50_000))
        # By when this was answered, the poll is under way.
        await hub.http.get("/v1/agents/worker/inbox")
        hub.status.shutdown.set()
    assert polling.result()["tasks"] == []
    await submit(hub)
    assert (await worker.lease())["tasks"] == []


async def test_a_delay_that_makes_no_sense_is_refused_by_its_place(hub, worker):
    settlements = [{"delivery_id": "x", "action": "retry", "delay_ms": -1}]
    document = problem(await worker.ask("settle", settlements=settlements), 400, "invalid_request")
    assert document["errors"][0]["field"] == "settlements.0.delay_ms"


# --- inbox and dead letters -----------------------------------------------------------------------------------------


async def test_the_inbox_shows_what_waits_and_who_works_on_what(hub, worker):
    first, second = await submit(hub), await submit(hub)
    await worker.take()
    inbox = (await hub.http.get("/v1/agents/worker/inbox")).json()
    assert inbox["depth"] == {"waiting": 1, "held": 1, "delayed": 0, "dead": 0}
    items = {each["task_id"]: each for each in inbox["items"]}
    assert (items[first["id"]]["state"], items[first["id"]]["instance"]) == ("TASK_STATE_WORKING", "one")
    assert items[second["id"]]["state"] == "TASK_STATE_SUBMITTED"
    assert "instance" not in items[second["id"]]
    assert MOMENT.fullmatch(items[second["id"]]["expires_at"])
    page = (await hub.http.get("/v1/agents/worker/inbox?limit=1")).json()
    rest = (await hub.http.get("/v1/agents/worker/inbox", params={"cursor": page["next_cursor"]})).json()
    assert {page["items"][0]["task_id"], rest["items"][0]["task_id"]} == {first["id"], second["id"]}
    problem(await hub.http.get("/v1/agents/nobody/inbox"), 404, "agent_not_found")


async def test_a_task_that_was_given_up_is_a_dead_letter_and_can_be_tried_again(hub, worker):
    task = await submit(hub)
    await worker.settle(await worker.take(), "fail", reason="cannot read it")
    assert (await shown(hub, task["id"]))["status"]["state"] == "TASK_STATE_FAILED"
    (letter,) = (await hub.http.get("/v1/agents/worker/dead-letters")).json()["items"]
    assert (letter["task_id"], letter["reason"]) == (task["id"], "cannot read it")
    assert (letter["message"]["parts"], letter["attempts"][0]["attempt"]) == ([{"text": "hi"}], 1)
    url = "/v1/agents/worker/dead-letters/redrive"
    problem(await hub.http.post(url, json={"ids": ["none"]}), 404, "not_found")
    redriven = await hub.http.post(url, json={"ids": [letter["id"]]})
    (again,) = redriven.json()["tasks"]
    assert (redriven.status_code, again == task["id"]) == (202, False)
    assert (await shown(hub, again))["metadata"]["redriveOf"] == task["id"]
    assert (await hub.http.post(url)).json() == {"tasks": []}
    assert (await worker.take())["task_id"] == again


# --- stops and audit ------------------------------------------------------------------------------------------------


async def test_a_stopped_agent_takes_no_work_until_it_is_resumed_and_the_audit_log_says_who_did_it(hub, worker):
    running, waiting = await submit(hub), await submit(hub)
    await worker.take()
    stopped = (await hub.http.post("/v1/agents/worker/stop", json={"reason": "nonsense"})).json()
    assert (stopped["agent"], stopped["reason"], stopped["cancelled"]) == ("worker", "nonsense", 1)
    assert MOMENT.fullmatch(stopped["stopped_at"])
    assert (await shown(hub, running["id"]))["status"]["state"] == "TASK_STATE_CANCELED"
    refused = await hub.http.post("/v1/tasks", json={"agent": "worker", "text": "more"})
    assert "nonsense" in problem(refused, 503, "agent_stopped")["detail"]
    assert (await worker.lease())["tasks"] == []
    assert (await hub.http.post("/v1/agents/worker/resume")).json() == {"agent": "worker", "was_stopped": True}
    assert (await hub.http.post("/v1/agents/worker/resume")).json()["was_stopped"] is False
    assert (await worker.take())["task_id"] == waiting["id"]
    newest = (await hub.http.get("/v1/audit")).json()["items"]
    oldest = (await hub.http.get("/v1/audit?order=oldest")).json()["items"]
    assert [each["action"] for each in oldest] == ["agent_stopped", "agent_resumed"]
    assert newest == oldest[::-1]
    assert oldest[0].items() >= {"agent": "worker", "principal": "local"}.items()
    page = (await hub.http.get("/v1/audit?limit=1")).json()
    rest = (await hub.http.get("/v1/audit", params={"cursor": page["next_cursor"]})).json()
    assert page["items"] + rest["items"] == newest


async def test_everything_can_be_stopped_at_once(hub, worker):
    stopped = await hub.http.post("/v1/stop")
    assert (stopped.status_code, stopped.json()["agent"]) == (200, None)
    problem(await hub.http.post("/v1/tasks", json={"agent": "worker", "text": "x"}), 503, "agent_stopped")
    assert (await hub.http.post("/v1/resume")).json() == {"agent": None, "was_stopped": True}
    await submit(hub)


async def test_the_keys_that_sign_notifications_are_open(hub):
    await hub.http.post("/v1/keys", json={"name": "root", "scopes": ["admin"]})
    answer = await hub.http.get("/v1/push/jwks.json")
    assert [key["kty"] for key in answer.json()["keys"]] == ["OKP"]


async def test_a_task_for_an_agent_with_a_url_that_is_away_waits_for_it(hub):
    await hub.register("away")
    answer = await hub.http.post("/v1/tasks", json={"agent": "away", "text": "when you can"})
    assert (answer.status_code, answer.json()["agent"]) == (202, "away")
