"""A data directory written by the release before tasks opens, and everything in it is there.

`release-before-tasks.db.gz` is the database of a hub of that release, after: the demo agents and one agent registered
by card, a finished task and one that waits for input, a queue with settings and two messages, a stream with a reader.
"""

import gzip
from pathlib import Path

import httpx
import pytest

from meshway.testing import LocalHub, local_hub

OLD = Path(__file__).parent / "release-before-tasks.db.gz"


@pytest.fixture
async def old_hub(tmp_path):
    (tmp_path / "meshway.db").write_bytes(gzip.decompress(OLD.read_bytes()))
    # Only the card of an agent that is not there: nothing is called.
    async with local_hub(data=tmp_path) as hub:
        yield hub


async def get(hub: LocalHub, path: str) -> dict:
    async with httpx.AsyncClient() as http:
        answer = await http.get(hub.url + path)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def test_agents_of_the_previous_release_are_registered(old_hub):
    agents = {each["id"]: each for each in (await get(old_hub, "/v1/agents"))["items"]}
    assert set(agents) == {"countdown", "echo", "shout", "kept"}
    assert agents["kept"]["instances"][0]["labels"] == {"zone": "eu"}
    assert agents["kept"]["pull"] is False
    assert agents["kept"]["settings"]["record"] == "all"


async def test_tasks_of_the_previous_release_are_their_callers(old_hub):
    tasks = (await get(old_hub, "/v1/tasks?agent=countdown"))["items"]
    assert sorted(task["state"] for task in tasks) == ["TASK_STATE_COMPLETED", "TASK_STATE_INPUT_REQUIRED"]
    assert not any(task["hub_owned"] for task in tasks)


async def test_messages_of_the_previous_release_wait_and_can_be_worked_on(old_hub):
    assert (await get(old_hub, "/v1/queues/work/info"))["settings"]["attempts_max"] == 3
    async with httpx.AsyncClient() as http:
        leased = await http.post(f"{old_hub.url}/v1/queues/work/lease", json={"count": 5, "wait_ms": 0})
    assert [each["message"]["data"] for each in leased.json()["deliveries"]] == ["one", "two"]


async def test_streams_of_the_previous_release_go_on_where_they_stood(old_hub):
    async with httpx.AsyncClient() as http:
        posted = await http.post(f"{old_hub.url}/v1/streams/talk", json={"messages": [{"data": 3}]})
    assert posted.json()["receipts"][0]["sequence"] == 3
    messages = (await get(old_hub, "/v1/streams/talk/messages?from=first"))["items"]
    assert [message["data"] for message in messages] == [1, 2, 3]


async def test_new_work_is_accepted_beside_the_old(old_hub):
    async with httpx.AsyncClient() as http:
        submitted = await http.post(f"{old_hub.url}/v1/tasks", json={"agent": "kept", "text": "hello"})
    assert submitted.status_code == 202
    assert submitted.json()["status"]["state"] == "TASK_STATE_SUBMITTED"
