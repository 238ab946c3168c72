"""The SDK against a real hub process that is killed under load: nothing acknowledged is lost, streams have no gap."""

import asyncio
from collections import Counter
from pathlib import Path

from meshway.client import MeshwayClient
from support.hub_process import HubProcess, select_pause

_KILLS = 3
_PRODUCERS = 8
_WAIT_S = 60.0


class Load:
    """Producers that note what was acknowledged, and what came out at the other end."""

    def __init__(self, client: MeshwayClient) -> None:
        self.client = client
        self.acknowledged: set[str] = set()
        self.handled: Counter[str] = Counter()
        self.attempts: list[int] = []
        self.tailed: list[int] = []
        self.appended = 0
        self.is_over = False

    async def produce(self, name: int) -> None:
        number = 0
        while not self.is_over:
            number += 1
            receipt = await self.client.enqueue("orders", {"n": number}, id=f"{name}-{number}")
            self.acknowledged.add(receipt.id)
            await self.client.append("log", number)
            self.appended += 1

    async def handle(self, delivery) -> None:
        self.attempts.append(delivery.attempt)
        await asyncio.sleep(0)
        self.handled[delivery.id] += 1

    async def follow(self) -> None:
        async with self.client.tail("log", from_="first") as feed:
            async for message in feed:
                self.tailed.append(message.sequence)

    async def kill_under_it(self, hub: HubProcess) -> None:
        """Produce, and kill and start the hub again and again; returns when every post is acknowledged."""
        async with asyncio.timeout(_WAIT_S), asyncio.TaskGroup() as group:
            for name in range(_PRODUCERS):
                group.create_task(self.produce(name))
            for _ in range(_KILLS):
                enough = len(self.acknowledged) + 200
                await until(lambda enough=enough: len(self.acknowledged) >= enough)
                await asyncio.to_thread(hub.kill)
                await asyncio.to_thread(hub.start)
            self.is_over = True


async def until(condition) -> None:
    async with asyncio.timeout(_WAIT_S):
        while not condition():
            await asyncio.to_thread(select_pause)


async def test_nothing_acknowledged_is_lost_when_the_hub_is_killed(tmp_path: Path):
    with HubProcess(tmp_path / "data") as hub:
        async with MeshwayClient(hub.url, send_timeout_s=30) as client:
            await client.put_channel("queues", "orders", lease_ms=2_000, attempts_max=50)
            load = Load(client)
            async with client.worker("orders", load.handle, concurrency=16), asyncio.TaskGroup() as group:
                following = group.create_task(load.follow())
                await load.kill_under_it(hub)
                await until(lambda: load.acknowledged <= set(load.handled) and len(load.tailed) >= load.appended)
                following.cancel()
            last = (await client.channel_info("streams", "log")).figures["last"]
    # Repeats of what the hub had kept before it died were known to it.
    assert last == load.appended
    assert load.tailed == list(range(1, last + 1))
    assert set(load.handled) == load.acknowledged
    assert max(load.attempts) <= 2 + _KILLS
