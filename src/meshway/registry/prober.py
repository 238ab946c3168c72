"""Asks silent instances for their card: a GET, never a POST, so that nothing an agent does is set off by it.

Only agents registered by URL whose settings allow it. One with a running lease, or that answered a call lately, is not
asked. Instances that failed are asked sooner, with back-off and jitter, which is how they come back without traffic.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from meshway.kernel.clock import Clock
from meshway.kernel.errors import EgressDenied, InvalidRequest, StoreCorrupt, UpstreamError
from meshway.kernel.ids import AgentId, InstanceId
from meshway.registry.directory import Directory
from meshway.registry.presence import believed
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import Agent, AgentState, CardFacts, Instance

__all__ = ["CardProbe", "CardSeen", "Prober"]

# How often the schedule is looked at: finer than the shortest retry is of no use.
_TICK_S = 1.0

CardSeen = Callable[[AgentId, InstanceId, CardFacts], Awaitable[None]]


class CardProbe(Protocol):
    """The part of the gateway's CardReader that probing needs."""

    async def fetch(self, url: str, *, credential: str | None = None) -> CardFacts:
        """GET the card below the base URL."""


class _Schedule:
    """When one instance is asked next, on the monotonic clock, and the wait that led there. Infinite while asking."""

    __slots__ = ("due_ms", "wait_ms")

    def __init__(self, due_ms: float) -> None:
        self.due_ms = due_ms
        self.wait_ms = 0.0


class Prober:
    """The probing duty of one hub."""

    def __init__(
        self,
        directory: Directory,
        tracker: PresenceTracker,
        cards: CardProbe,
        *,
        clock: Clock,
        settings: RegistrySettings,
        chance: random.Random,
        open_credential: Callable[[Agent], str | None] = lambda agent: None,
        card_seen: CardSeen | None = None,
    ) -> None:
        self._directory = directory
        self._tracker = tracker
        self._cards = cards
        self._clock = clock
        self._settings = settings
        self._chance = chance
        self._open_credential = open_credential
        self._card_seen = card_seen
        self._schedules: dict[tuple[AgentId, InstanceId], _Schedule] = {}
        self._room = asyncio.Semaphore(settings.probes_max)

    async def run(self) -> None:
        """Probe for ever; owned by the hub's task group. Returns at once when probing is switched off."""
        if not self._settings.probe_interval_ms:
            return
        async with asyncio.TaskGroup() as group:
            while True:
                for agent, instance in self.due():
                    await self._room.acquire()
                    group.create_task(self._probe_in_room(agent, instance))
                await asyncio.sleep(_TICK_S)

    def due(self) -> list[tuple[Agent, Instance]]:
        """Whom to ask now; each is marked as being asked until `probe` is done with it."""
        monotonic_ms, now_ms = self._clock.monotonic_ms(), self._clock.now_ms()
        schedules, self._schedules = self._schedules, {}
        found = []
        for agent, instance in self._in_doubt(now_ms):
            key = (agent.id, instance.id)
            schedule = schedules.get(key)
            if schedule is None:
                schedule = _Schedule(monotonic_ms + self._first_wait_ms(instance))
            self._schedules[key] = schedule
            if schedule.due_ms <= monotonic_ms:
                schedule.due_ms = float("inf")
                found.append((agent, instance))
        return found

    async def probe(self, agent: Agent, instance: Instance) -> bool:
        """Ask once and tell the tracker; did it answer?"""
        facts = None
        try:
            async with asyncio.timeout(self._settings.probe_timeout_ms / 1000):
                facts = await self._cards.fetch(instance.url, credential=self._open_credential(agent))
            answered = True
        except InvalidRequest:
            # Somebody answered with a card; that the hub would not take it now says nothing about presence.
            answered = True
        except (UpstreamError, EgressDenied, StoreCorrupt, TimeoutError):
            answered = False
        self._reschedule(agent, instance, answered)
        self._tracker.saw_probe(agent.id, instance.id, ok=answered)
        # Replicas may differ while a new version rolls out; the first one speaks for the agent.
        is_first = agent.instances[0].id == instance.id
        if facts is not None and self._card_seen is not None and is_first and facts.original != agent.card.original:
            await self._card_seen(agent.id, instance.id, facts)
        return answered

    async def _probe_in_room(self, agent: Agent, instance: Instance) -> None:
        try:
            await self.probe(agent, instance)
        finally:
            self._room.release()

    def _in_doubt(self, now_ms: int) -> Iterator[tuple[Agent, Instance]]:
        """Instances that may be probed and did not show within the interval that they are there."""
        heard_after_ms = now_ms - self._settings.probe_interval_ms
        for agent in self._directory.in_any_order():
            if agent.by_url and agent.settings.probe:
                for instance in agent.instances:
                    if not self._tracker.is_sure(agent.id, instance.id, heard_after_ms):
                        yield agent, instance

    def _first_wait_ms(self, instance: Instance) -> float:
        """Soon for one that is in doubt; spread over a tenth of the interval for one that is merely silent."""
        online = believed(instance) is AgentState.ONLINE
        return self._jittered(self._settings.probe_interval_ms / 10 if online else self._settings.probe_retry_ms)

    def _reschedule(self, agent: Agent, instance: Instance, answered: bool) -> None:  # noqa: FBT001
        schedule = self._schedules.get((agent.id, instance.id))
        if schedule is None:
            return
        longest = float(self._settings.probe_interval_ms)
        wait_ms = longest if answered else max(self._settings.probe_retry_ms, schedule.wait_ms * 2)
        schedule.wait_ms = min(wait_ms, longest)
        schedule.due_ms = self._clock.monotonic_ms() + self._jittered(schedule.wait_ms)

    def _jittered(self, wait_ms: float) -> float:
        return wait_ms * self._chance.uniform(0.5, 1.0)
