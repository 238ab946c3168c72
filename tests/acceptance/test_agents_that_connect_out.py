"""Stock A2A clients of every dialect call an agent of the SDK that connects out: to them it is like any other."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import pytest
from a2a.compat.v0_3.types import AgentCard as OldCard
from a2a.helpers.proto_helpers import get_message_text
from a2a.types import (
    AgentCard,
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetExtendedAgentCardRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTasksRequest,
    SubscribeToTaskRequest,
    Task,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import TaskNotCancelableError, UnsupportedOperationError
from google.protobuf.json_format import ParseDict

from support.hub_process import HubProcess, running_hub
from support.pull_site import NOBODY_WAITS, Site, last_state, sent, text_of_task, texts, until_state
from support.raw_agent import RawAgent, answering, raw_agent, running_agent
from support.sdk_agent import DIALECTS
from support.sdk_client import ask
from support.task_clients import until
from support.wire_client import V10, Reply, rpc, say, send_params

COMPLETED, CANCELED, WORKING = (
    TaskState.TASK_STATE_COMPLETED,
    TaskState.TASK_STATE_CANCELED,
    TaskState.TASK_STATE_WORKING,
)
# Lists are of 1.0 only, and webhooks of 0.3 are told other things.
DIALECTS_OF_NOW = [dialect for dialect in DIALECTS if DIALECTS[dialect][1] == "1.0"]

every_dialect = pytest.mark.parametrize("dialect", list(DIALECTS))
every_dialect_that_lists = pytest.mark.parametrize("dialect", DIALECTS_OF_NOW)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    with running_hub() as hub:
        yield hub
        assert "Traceback" not in hub.log.read_text()


@pytest.fixture
async def site(hub: HubProcess) -> AsyncIterator[Site]:
    """Its agent is of this test alone, and connected."""
    site = Site(hub)
    async with site.working():
        yield site


# --- one message ----------------------------------------------------------------------------------------------------


@every_dialect
async def test_a_blocking_call_is_answered_with_the_finished_task(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        task = await sent(client, "count 3")
        assert task.status.state == COMPLETED
        assert text_of_task(task) == "0 1 2 "
        assert (await client.get_task(GetTaskRequest(id=task.id))).artifacts == task.artifacts


@every_dialect
async def test_who_does_not_wait_is_answered_at_once_and_fetches_the_result(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        task = await sent(client, "sleep 0.3", **NOBODY_WAITS)
        assert task.status.state in (TaskState.TASK_STATE_SUBMITTED, WORKING)
        assert text_of_task(await until_state(client, task.id, COMPLETED)) == "rested"


@every_dialect
async def test_a_stream_says_it_chunk_by_chunk_and_ends_once(site: Site, dialect: str) -> None:
    async with site.client(dialect, streaming=True) as client:
        events = [event async for event in ask(client, "count 5")]
    assert events[0].HasField("task")
    assert texts(events) == "0 1 2 3 4 "
    chunks = [event.artifact_update for event in events if event.HasField("artifact_update")]
    assert [chunk.append for chunk in chunks] == [False] + [True] * (len(chunks) - 1)
    assert [chunk.last_chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    ends = [e for e in events if e.HasField("status_update") and e.status_update.status.state == COMPLETED]
    assert len(ends) == 1
    assert events[-1] == ends[0]


@every_dialect
async def test_a_cancelled_task_stops_its_handler_and_cannot_be_cancelled_again(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        task = await sent(client, "sleep 20", **NOBODY_WAITS)
        await until(lambda: site.executions == ["sleep 20"])
        assert (await client.cancel_task(CancelTaskRequest(id=task.id))).status.state == CANCELED
        await until(lambda: site.cancelled == ["sleep 20"])
        with pytest.raises(TaskNotCancelableError):
            await client.cancel_task(CancelTaskRequest(id=task.id))


@every_dialect
async def test_a_client_that_lost_its_stream_joins_again_and_sees_the_end(site: Site, dialect: str) -> None:
    async with site.client(dialect, streaming=True) as client:
        events = ask(client, "sleep 0.5")
        first = await anext(events)
        await events.aclose()
        again = [event async for event in client.subscribe(SubscribeToTaskRequest(id=first.task.id))]
        assert again[0].task.id == first.task.id
        assert (texts(again), last_state(again)) == ("rested", COMPLETED)
        with pytest.raises(UnsupportedOperationError):
            _ = [event async for event in client.subscribe(SubscribeToTaskRequest(id=first.task.id))]


# --- conversations --------------------------------------------------------------------------------------------------


@every_dialect
@pytest.mark.parametrize(
    ("text", "question", "state", "answered"),
    [
        ("colour", "which colour?", TaskState.TASK_STATE_INPUT_REQUIRED, "painted blue"),
        ("login", "who are you?", TaskState.TASK_STATE_AUTH_REQUIRED, "welcome, blue"),
    ],
    ids=["input", "auth"],
)
async def test_what_the_agent_asks_is_answered_in_the_next_turn_of_the_same_task(
    site: Site, dialect: str, text: str, question: str, state: int, answered: str
) -> None:
    async with site.client(dialect, streaming=True) as client:
        asked = [event async for event in ask(client, text)]
        task = asked[0].task
        assert last_state(asked) == state
        assert get_message_text(asked[-1].status_update.status.message) == question
        events = [event async for event in ask(client, "blue", task_id=task.id, context_id=task.context_id)]
        assert (texts(events), last_state(events)) == (answered, COMPLETED)
        whole = await client.get_task(GetTaskRequest(id=task.id))
    assert [get_message_text(message) for message in whole.history] == [text, question, "blue"]
    # The handler went on where it was.
    assert site.executions == [text]


@every_dialect
async def test_a_task_is_shown_with_as_much_history_as_was_asked_for(site: Site, dialect: str) -> None:
    async with site.client(dialect, streaming=True) as client:
        asked = [event async for event in ask(client, "colour")]
        task = asked[0].task
        _ = [event async for event in ask(client, "blue", task_id=task.id)]
        for length, shown in ((1, ["blue"]), (2, ["which colour?", "blue"]), (9, ["colour", "which colour?", "blue"])):
            found = await client.get_task(GetTaskRequest(id=task.id, history_length=length))
            assert [get_message_text(message) for message in found.history] == shown
        if DIALECTS[dialect][1] == "1.0":
            assert not (await client.get_task(GetTaskRequest(id=task.id, history_length=0))).history


# --- lists ----------------------------------------------------------------------------------------------------------


@every_dialect_that_lists
async def test_tasks_are_listed_in_pages_with_totals(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        done = [(await sent(client, "count 1")).id for _ in range(5)]
        seen: list[str] = []
        sizes, token = [], ""
        while True:
            page = await client.list_tasks(ListTasksRequest(page_size=2, page_token=token))
            assert (page.total_size, page.page_size) == (5, 2)
            seen += [task.id for task in page.tasks]
            sizes.append(len(page.tasks))
            if not (token := page.next_page_token):
                break
    # The last that changed comes first.
    assert (seen, sizes) == (done[::-1], [2, 2, 1])


@every_dialect_that_lists
async def test_tasks_are_found_by_state_by_context_and_by_the_time_of_their_status(site: Site, dialect: str) -> None:
    async def found(**query: object) -> set[str]:
        page = await client.list_tasks(ListTasksRequest(**query))
        assert page.total_size == len(page.tasks)
        return {task.id for task in page.tasks}

    async with site.client(dialect) as client:
        done = {(await sent(client, "count 1")).id for _ in range(2)}
        running = await sent(client, "sleep 20", **NOBODY_WAITS)
        running = await until_state(client, running.id, WORKING)
        assert await found(status=COMPLETED) == done
        assert await found(status=WORKING) == {running.id}
        assert await found(context_id=running.context_id) == {running.id}
        assert await found(context_id=running.context_id, status=COMPLETED) == set()
        assert await found(status_timestamp_after=running.status.timestamp) == {running.id}
        await client.cancel_task(CancelTaskRequest(id=running.id))


@every_dialect_that_lists
async def test_a_list_shows_artifacts_and_history_to_who_asks_for_them(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        await sent(client, "count 2")

        async def only(**query: object) -> Task:
            (task,) = (await client.list_tasks(ListTasksRequest(**query))).tasks
            return task

        plain = await only()
        assert not plain.artifacts
        whole = await only(include_artifacts=True, history_length=5)
        assert text_of_task(whole) == "0 1 "
        assert [get_message_text(message) for message in whole.history] == ["count 2"]
        assert not (await only(history_length=0)).history


# --- push notifications ---------------------------------------------------------------------------------------------


@every_dialect
async def test_push_configs_are_kept_at_the_hub(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        task = await sent(client, "sleep 20", **NOBODY_WAITS)
        wanted = TaskPushNotificationConfig(task_id=task.id, id="mine", url="http://127.0.0.1:9/hook", token="t")
        made = await client.create_task_push_notification_config(wanted)
        assert (made.task_id, made.id, made.url) == (task.id, "mine", wanted.url)
        got = GetTaskPushNotificationConfigRequest(task_id=task.id, id="mine")
        assert (await client.get_task_push_notification_config(got)).url == wanted.url
        if DIALECTS[dialect] != ("HTTP+JSON", "0.3"):
            # The client itself has no list in 0.3 over HTTP+JSON.
            every = ListTaskPushNotificationConfigsRequest(task_id=task.id)
            assert [c.id for c in (await client.list_task_push_notification_configs(every)).configs] == ["mine"]
        gone = DeleteTaskPushNotificationConfigRequest(task_id=task.id, id="mine")
        with contextlib.suppress(NotImplementedError):
            await client.delete_task_push_notification_config(gone)
            with pytest.raises(Exception, match="no push notification config"):
                await client.get_task_push_notification_config(got)
        await client.cancel_task(CancelTaskRequest(id=task.id))


@pytest.mark.parametrize("dialect", DIALECTS_OF_NOW)
async def test_a_webhook_is_told_every_event_in_order(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client, webhook() as (hook, config):
        task = await sent(client, "count 3", task_push_notification_config=config)
        assert task.status.state == COMPLETED
        lines = (await site.rest("GET", f"/v1/tasks/{task.id}/events")).body.splitlines()
        numbers = [int(line[3:]) for line in lines if line.startswith(b"id:")]
        await hook.wait_seen(len(numbers))
    assert [int(each.headers["meshway-event-number"]) for each in hook.seen] == numbers
    assert [each.json for each in hook.seen] == [json.loads(line[5:]) for line in lines if line.startswith(b"data:")]
    assert_secrets_of(hook, task)


@pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if dialect not in DIALECTS_OF_NOW])
async def test_an_old_webhook_is_shown_the_whole_task_as_it_grows(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client, webhook() as (hook, config):
        task = await sent(client, "count 3", task_push_notification_config=config)
        await until(lambda: bool(hook.seen) and hook.seen[-1].json["status"]["state"] == "completed")
    numbers = [int(each.headers["meshway-event-number"]) for each in hook.seen]
    assert numbers == sorted(set(numbers))
    shown = [each.json for each in hook.seen]
    assert {(each["kind"], each["id"]) for each in shown} == {("task", task.id)}
    assert [each["status"]["state"] for each in shown] == ["submitted", "working", "completed"]
    (artifact,) = shown[-1]["artifacts"]
    assert "".join(part["text"] for part in artifact["parts"]) == "0 1 2 "
    assert_secrets_of(hook, task)


@contextlib.asynccontextmanager
async def webhook() -> AsyncIterator[tuple[RawAgent, TaskPushNotificationConfig]]:
    """A receiver that takes whatever comes, and what a client says of it."""
    async with running_agent(raw_agent(answering(lambda _: {}))) as hook:
        own = {"scheme": "Bearer", "credentials": "secret"}
        yield hook, TaskPushNotificationConfig(url=f"{hook.url}/hook", token="t-1", authentication=own)


def assert_secrets_of(hook: RawAgent, task: Task) -> None:
    """Each notification says whose it is and shows what the client had agreed on with the receiver."""
    for notification in hook.seen:
        assert notification.target == "/hook"
        assert notification.headers["meshway-task"] == task.id
        assert notification.headers["x-a2a-notification-token"] == "t-1"
        assert notification.headers["authorization"] == "Bearer secret"


# --- other people ---------------------------------------------------------------------------------------------------

ON_A_TASK = {
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


async def test_a_task_of_another_key_is_as_unknown_as_one_that_never_was(keyed) -> None:
    async def call(who: dict[str, str], method: str, params: dict) -> Reply:
        return await say(keyed.hub, "POST", site.path, rpc(method, params), headers=V10 | who)

    async def listed(who: dict[str, str]) -> list[str]:
        return [task["id"] for task in (await call(who, "ListTasks", {})).json["result"]["tasks"]]

    site = Site(keyed.hub, "raw-of-many")
    async with site.working(api_key=keyed.server["authorization"].removeprefix("Bearer ")):
        waiting = send_params("sleep 20") | {"configuration": {"returnImmediately": True}}
        task = (await call(keyed.ann, "SendMessage", waiting)).json["result"]["task"]["id"]
        for method, params in ON_A_TASK.items():
            theirs = await call(keyed.bob, method, params(task))
            never = await call(keyed.bob, method, params("never-was"))
            assert theirs.json["error"]["code"] == -32001, method
            # Nothing but the id tells the two apart.
            assert theirs.body.replace(task.encode(), b"ID") == never.body.replace(b"never-was", b"ID")
        for verb, path in (
            ("GET", ""),
            ("GET", "/events"),
            ("GET", "/receipts"),
            ("GET", "/tree"),
            ("POST", "/cancel"),
        ):
            hidden = await say(keyed.hub, verb, f"/v1/tasks/{task}{path}", headers=keyed.bob)
            assert hidden.status == 404, path
        assert (await listed(keyed.ann), await listed(keyed.bob)) == ([task], [])
        # Nothing of all that has touched it, and an admin reaches everything.
        assert not site.cancelled
        ended = await call(keyed.admin, "CancelTask", {"id": task})
        assert ended.json["result"]["status"]["state"] == "TASK_STATE_CANCELED"


# --- cards ----------------------------------------------------------------------------------------------------------


async def test_its_card_is_valid_in_both_versions_and_lists_both_bindings(site: Site) -> None:
    base = f"{site.hub.url}{site.path}"
    new = (await say(site.hub, "GET", f"{site.path}/.well-known/agent-card.json")).json
    # Unknown fields are errors here.
    card = ParseDict(new, AgentCard())
    assert {(each.protocol_binding, each.protocol_version, each.url) for each in card.supported_interfaces} >= {
        ("JSONRPC", "1.0", base),
        ("HTTP+JSON", "1.0", base),
    }
    assert (card.capabilities.streaming, card.capabilities.push_notifications) == (True, True)
    for field in ("name", "description", "version", "default_input_modes", "default_output_modes", "skills"):
        assert getattr(card, field), field
    assert all(skill.id and skill.name and skill.description and skill.tags for skill in card.skills)
    document = (await say(site.hub, "GET", f"{site.path}/.well-known/agent.json")).json
    old = OldCard.model_validate(document)
    assert (old.url, old.preferred_transport) == (base, "JSONRPC")
    assert {str(each.transport) for each in old.additional_interfaces or []} == {"JSONRPC", "HTTP+JSON"}


@every_dialect
async def test_the_extended_card_is_the_agents_with_the_hubs_address(site: Site, dialect: str) -> None:
    async with site.client(dialect) as client:
        card = await client.get_extended_agent_card(GetExtendedAgentCardRequest())
    assert card.description == "Does what the first word says."
    assert all(each.url.startswith(f"{site.hub.url}{site.path}") for each in card.supported_interfaces)
