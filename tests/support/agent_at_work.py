"""An agent of the SDK connected to the scripted hub: hand it tasks, see what it reports."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from meshway.client import Agent
from meshway.protocols.link import frames
from support.fake_link_hub import FakeLinkHub

__all__ = ["AgentAtWork", "agent_at_work", "task_delivery"]


def task_delivery(number, text="hi", *, task="t-1", message=None, before=None, **more):
    """One attempt at one turn, as the hub hands it out."""
    said = {"messageId": f"m-{number}", "role": "ROLE_USER", "parts": [{"text": text}], **(message or {})}
    return frames.TaskDelivery(
        delivery_id=f"d-{number}",
        task_id=task,
        context_id="c-1",
        attempt=more.pop("attempt", 1),
        lease_ms=more.pop("lease_ms", 30_000),
        message=msgspec.Raw(json.dumps(said).encode()),
        task=msgspec.UNSET if before is None else msgspec.Raw(json.dumps(before).encode()),
        **more,
    )


class AgentAtWork:
    """What a test sees of the agent through the hub."""

    def __init__(self, hub: FakeLinkHub, agent: Agent, serving: asyncio.Task) -> None:
        self.hub = hub
        self.agent = agent
        self.serving = serving

    async def hand(self, *deliveries: frames.TaskDelivery) -> None:
        await self.hub.send(frames.Tasks(id=self.hub.of(frames.Serve)[-1].id, tasks=list(deliveries)))

    def events(self, delivery_id: str = "d-1") -> list[dict]:
        """Confirmed events of a delivery, in the order of their numbers."""
        items = {each.source: each for each in self.hub.reports if each.delivery_id == delivery_id}
        assert sorted(items) == list(range(1, len(items) + 1))
        return [json.loads(bytes(items[source].event)) for source in sorted(items)]

    def chunks(self, delivery_id: str = "d-1") -> list[tuple]:
        """(text, append, lastChunk) of each artifact update."""
        updates = [each["artifactUpdate"] for each in self.events(delivery_id) if "artifactUpdate" in each]
        return [(each["artifact"]["parts"][0].get("text"), each["append"], each["lastChunk"]) for each in updates]

    def states(self, delivery_id: str = "d-1") -> list[str]:
        updates = [each["statusUpdate"] for each in self.events(delivery_id) if "statusUpdate" in each]
        return [each["status"]["state"].removeprefix("TASK_STATE_") for each in updates]

    def status_text(self, delivery_id: str = "d-1") -> str:
        """Of the last status."""
        update = [each for each in self.events(delivery_id) if "statusUpdate" in each][-1]["statusUpdate"]
        return update["status"]["message"]["parts"][0]["text"]

    async def until_state(self, state: str, delivery_id: str = "d-1") -> None:
        await self.hub.until(lambda: state in self.states(delivery_id))

    async def until_settled(self, action: str) -> frames.TaskSettlement:
        """The first settlement of that kind."""
        await self.hub.until(lambda: self.settlements(action))
        return self.settlements(action)[0]

    def settlements(self, action: str) -> list[frames.TaskSettlement]:
        return [each for each in self.hub.task_settlements if each.action == action]


@asynccontextmanager
async def agent_at_work(agent: Agent, *, hub: FakeLinkHub | None = None) -> AsyncIterator[AgentAtWork]:
    """Until the block ends: the agent is stopped and drained then."""
    hub = hub or FakeLinkHub()
    await hub.start()
    try:
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(agent.serve(hub.url))
            await hub.next_of(frames.Serve)
            try:
                yield AgentAtWork(hub, agent, serving)
            finally:
                agent.stop()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([serving], timeout=5)
                serving.cancel()
    finally:
        await hub.stop()
