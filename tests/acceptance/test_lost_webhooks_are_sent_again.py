"""A receiver that refuses, an operator who repairs it, and what was lost meanwhile: over every door of a real hub."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from meshway.client import HubError, LostNotification, MeshwayClient
from support.command import Ran, meshway_async
from support.hub_process import HubProcess, running_hub
from support.pull_site import Site
from support.raw_agent import RawAgent, RawRequest, Wire, raw_agent, running_agent
from support.wire_client import V10, Reply, rpc, say, send_params

# A receiver that refuses once has refused for good: nobody waits six hours here.
CONFIG = "[push]\nattempts_max = 1\n"
DEAD_LETTERS = "/v1/push/dead-letters"


@dataclass
class Receiver:
    """Somebody's web server: it refuses until it is repaired."""

    agent: RawAgent = field(init=False)
    is_broken: bool = True

    def __post_init__(self) -> None:
        self.agent = raw_agent(self._answer)

    async def _answer(self, request: RawRequest, wire: Wire) -> None:
        wire.answer({}, status=503 if self.is_broken else 200)

    def repair(self) -> None:
        self.is_broken = False
        self.agent.seen.clear()

    @property
    def numbers(self) -> list[int]:
        return [int(each.headers["meshway-event-number"]) for each in self.agent.seen]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubProcess]:
    """It asks for keys, and is asked with the admin's."""
    with running_hub(config=CONFIG) as hub:
        _, _, admin = hub.request("POST", "/v1/keys", {"name": "ops", "scopes": ["admin"]})
        assert isinstance(admin, dict)
        hub.key = admin["key"]
        yield hub
        assert "Traceback" not in hub.log.read_text()


@pytest.fixture
async def ops(hub: HubProcess) -> AsyncIterator[MeshwayClient]:
    async with MeshwayClient(hub.url, hub.key) as client:
        yield client


@asynccontextmanager
async def lost_task(hub: HubProcess, ops: MeshwayClient) -> AsyncIterator[tuple[Receiver, list[LostNotification]]]:
    """A receiver, and what it refused of a task that has ended."""
    receiver, site = Receiver(), Site(hub)
    async with running_agent(receiver.agent) as hook, site.working(api_key=hub.key):
        config = {"id": "mine", "url": f"{hook.url}/hook?key=s3cret", "token": "tok-en"}
        params = send_params("count 3") | {"configuration": {"taskPushNotificationConfig": config}}
        answer = await say(hub, "POST", site.path, rpc("SendMessage", params), headers=V10 | key_of(hub))
        task_id = answer.json["result"]["task"]["id"]
        events = (await ask(hub, "GET", f"/v1/tasks/{task_id}/events")).body
        count = events.count(b"\nid:") + events.startswith(b"id:")
        lost: list[LostNotification] = []
        async with asyncio.timeout(15):
            while len(lost) < count:
                page = await ops.push.dead_letters(limit=500)
                lost = [each for each in page.items if each.task_id == task_id]
        assert {each.agent for each in lost} == {site.agent_id}
        yield receiver, lost


def key_of(hub: HubProcess) -> dict[str, str]:
    return {"authorization": f"Bearer {hub.key}"}


async def ask(hub: HubProcess, method: str, path: str, body: object = None, **headers: str) -> Reply:
    return await say(hub, method, path, body, headers={"content-type": "application/json"} | key_of(hub) | headers)


async def command(hub: HubProcess, *arguments: str) -> Ran:
    return await meshway_async("push", *arguments, env={"MESHWAY_URL": hub.url, "MESHWAY_API_KEY": str(hub.key)})


async def test_what_a_broken_receiver_refused_is_seen_and_delivered_in_order_after_its_repair(
    hub: HubProcess, ops: MeshwayClient
) -> None:
    async with lost_task(hub, ops) as (receiver, lost):
        numbers = [each.event_number for each in lost]
        assert numbers == list(range(1, len(lost) + 1))
        for each in lost:
            assert (each.config_id, each.url) == ("mine", f"{receiver.agent.url}/hook")
            assert each.reason == "attempt 1 of 1 failed: the receiver answered 503"
            assert [attempt.outcome for attempt in each.attempts] == ["dead_letter"]
        receiver.repair()
        assert await ops.push.redrive() == [each.id for each in lost]
        await receiver.agent.wait_seen(len(lost))
        assert receiver.numbers == numbers
        assert {each.headers["meshway-attempt"] for each in receiver.agent.seen} == {"1"}
        assert {each.headers["x-a2a-notification-token"] for each in receiver.agent.seen} == {"tok-en"}
        assert not (await ops.push.dead_letters()).items


async def test_over_rest_pages_show_no_secrets_and_an_unknown_id_is_not_found(
    hub: HubProcess, ops: MeshwayClient
) -> None:
    async with lost_task(hub, ops) as (receiver, lost):
        ids: list[str] = []
        cursor = ""
        while True:
            page = await ask(hub, "GET", f"{DEAD_LETTERS}?limit=2{cursor}")
            assert page.status == 200
            assert not [secret for secret in (b"s3cret", b"tok-en") if secret in page.body]
            ids += [each["id"] for each in page.json["items"]]
            if page.json["next_cursor"] is None:
                break
            cursor = f"&cursor={page.json['next_cursor']}"
        assert ids == [each.id for each in lost]
        receiver.repair()
        refused = await ask(hub, "POST", f"{DEAD_LETTERS}/redrive", {"ids": [ids[0], "nothing"]})
        assert (refused.status, refused.json["code"]) == (404, "not_found")
        assert (
            refused.json["detail"] == "There is no dead letter 'nothing' of push notifications; nothing was redriven."
        )
        assert len((await ops.push.dead_letters()).items) == len(lost)
        taken = await ask(hub, "POST", f"{DEAD_LETTERS}/redrive", {"ids": ids[::-1]})
        assert (taken.status, taken.json) == (202, {"notifications": ids})
        await receiver.agent.wait_seen(len(ids))
        assert receiver.numbers == list(range(1, len(ids) + 1))


async def test_on_the_command_line_they_are_listed_and_sent_again(hub: HubProcess, ops: MeshwayClient) -> None:
    async with lost_task(hub, ops) as (receiver, lost):
        listed = await command(hub, "dead-letters")
        assert listed.status == 0
        assert listed.out.count("the receiver answered 503") == len(lost)
        assert [each["id"] for each in (await command(hub, "dead-letters", "--json")).json["items"]] == [
            each.id for each in lost
        ]
        receiver.repair()
        assert (await command(hub, "redrive", lost[0].id)).out == "1 push notifications are sent again.\n"
        assert (await command(hub, "redrive", lost[0].id)).status == 5
        rest = await command(hub, "redrive", "--json")
        assert json.loads(rest.out) == {"notifications": [each.id for each in lost[1:]]}
        await receiver.agent.wait_seen(len(lost))
        assert receiver.numbers == [each.event_number for each in lost]
        assert "no dead letters" in (await command(hub, "dead-letters")).err


async def test_who_is_no_admin_neither_sees_nor_redrives_them(hub: HubProcess, ops: MeshwayClient) -> None:
    caller = (await ops.keys.create("caller", ["call", "serve:*"])).key
    async with MeshwayClient(hub.url, caller) as client:
        for call in (client.push.dead_letters(), client.push.redrive(), client.push.redrive(ids=["x"])):
            with pytest.raises(HubError, match="that needs the scope 'admin'") as refused:
                await call
            assert (refused.value.code, refused.value.status) == ("forbidden", 403)
