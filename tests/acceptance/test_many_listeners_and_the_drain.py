"""Thousands who listen to a running hub, and how it takes leave of all who are connected."""

import asyncio
import resource
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from meshway.client import MeshwayClient
from support.hub_process import HubProcess, running_hub
from support.link_client import link_client
from support.message_doors import open_door, wait_until


async def test_a_thousand_subscriptions_share_one_websocket(message_hub: HubProcess):
    async with link_client(message_hub.port) as link:
        for number in range(1_000):
            await link.send("subscribe", id=f"s{number}", kind="events", channel=f"thousand.{number}", credit=10)
        for number in range(1_000):
            await link.expect("subscribed", id=f"s{number}")
        async with open_door("rest", message_hub.url) as rest:
            for number in range(0, 1_000, 50):
                await rest.send("events", f"thousand.{number}", {"data": number})
        for number in range(0, 1_000, 50):
            (message,) = await link.messages(f"s{number}", 1)
            assert (message["channel"], message["data"]) == (f"thousand.{number}", number)


async def test_two_thousand_sse_subscribers_get_every_event(message_hub: HubProcess):
    allow_many_sockets()
    count = 2_000
    head = b"GET /v1/events/crowd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    connections = []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", message_hub.port)
            connections.append((reader, writer))
            writer.write(head)
        async with open_door("rest", message_hub.url) as rest:

            async def are_there() -> bool:
                return (await rest.info("events", "crowd"))["figures"]["subscribers"] == count

            await wait_until(are_there, 30)
            await rest.send("events", "crowd", *({"data": f"event {number}"} for number in range(3)))
        async with asyncio.timeout(20):
            for reader, _writer in connections:
                await reader.readuntil(b"event 2")
    finally:
        for _reader, writer in connections:
            writer.close()


def allow_many_sockets() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 8_192:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(8_192, hard), hard))


async def test_a_hub_that_is_told_to_stop_takes_leave_of_all_and_keeps_what_it_acknowledged():
    with running_hub() as hub:
        accepted: list[int] = []
        async with (
            httpx.AsyncClient(base_url=hub.url, timeout=30) as http,
            http.stream("GET", "/v1/events/e") as events,
            http.stream("GET", "/v1/streams/s", params={"from": "first"}) as stream,
            link_client(hub.port) as link,
            asyncio.TaskGroup() as group,
        ):
            await link.subscribe("w", "queues", "idle", credit=5)
            await http.put("/v1/queues/idle", json={})
            polls = [
                group.create_task(http.post("/v1/queues/idle/lease", json={"count": 1, "wait_ms": 50_000})),
                group.create_task(http.get("/v1/streams/s/messages", params={"from": "new", "wait_ms": 50_000})),
                group.create_task(http.post("/v1/commands/c/lease", json={"count": 1, "wait_ms": 50_000})),
            ]
            sending = group.create_task(send_until_refused(hub, accepted))

            async def are_sent() -> bool:
                return len(accepted) > 50

            await wait_until(are_sent)
            begin = asyncio.get_running_loop().time()
            hub.send_signal(signal.SIGTERM)
            assert (await link.expect("draining"))["within_ms"] > 0
            answers = [await poll for poll in polls]
            assert [answer.status_code for answer in answers] == [200] * 3
            assert answers[0].json() == {"deliveries": []}
            # Both feeds end in order, not torn.
            async with asyncio.timeout(15):
                async for _ in events.aiter_raw():
                    pass
                async for _ in stream.aiter_raw():
                    pass
            await link.closed()
            await sending
            assert await asyncio.to_thread(hub.wait, 25) == 0
            assert asyncio.get_running_loop().time() - begin < 20
        hub.start()
        async with MeshwayClient(hub.url) as client:
            found: list[int] = []
            start: str | None = "first"
            while start is not None and (page := await client.read("s", from_=start, limit=500)).items:
                found += [message.data for message in page.items]
                start = page.next_from
        assert set(accepted) <= set(found)
        assert len(found) == len(set(found))


async def send_until_refused(hub: HubProcess, accepted: list[int]) -> None:
    async with httpx.AsyncClient(base_url=hub.url) as http:
        for number in range(1_000_000):
            try:
                answer = await http.post("/v1/streams/s", json={"messages": [{"data": number}]})
            except httpx.TransportError:
                return
            if answer.status_code != 202:
                assert answer.status_code == 503, answer.text
                return
            accepted.append(number)


USERS_TEST = """
import asyncio
import pytest
from meshway.testing import local_hub


async def test_an_order_is_shipped():
    shipped = asyncio.Event()

    async def ship(order):
        assert order.data == {"item": "tea"}
        shipped.set()

    async with local_hub() as hub, hub.client() as client:
        async with client.worker("orders", ship):
            await client.enqueue("orders", {"item": "tea"})
            async with asyncio.timeout(10):
                await shipped.wait()
"""


def test_a_users_own_test_runs_against_a_local_hub(tmp_path: Path):
    (tmp_path / "test_orders.py").write_text(USERS_TEST)
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-o",
            "asyncio_mode=auto",
            "-W",
            "error::ResourceWarning",
            "test_orders.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout
