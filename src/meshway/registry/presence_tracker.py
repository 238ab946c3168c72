"""Watches over who is there: takes signs of life from calls, heartbeats and probes, and ends leases that ran out.

What it observes is visible in the Directory at once; only changes of state are stored, lazily, many observations in one
write. Leases run on the monotonic clock, so a wall clock that is set ends none.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from meshway.engine.ports import Durability
from meshway.kernel.clock import Clock
from meshway.kernel.errors import AgentNotFound, MeshwayError
from meshway.kernel.ids import AgentId, InstanceId
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.presence import Signal, after_signal, believed, is_given_up, with_presence
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import Agent, AgentState, Instance

__all__ = ["PresenceTracker", "SignOfLife"]

_log = logging.getLogger(__name__)

# Agents written at once: they share the engine's commit, and a bound keeps memory flat when thousands change.
_WRITES_AT_ONCE = 32
# Wait after a failed write; what was observed stays in memory and in the Directory meanwhile.
_RETRY_S = 1.0


class SignOfLife(msgspec.Struct, frozen=True, array_like=True):
    """Of one instance with a lease: heard so long ago, and the lease ends in so long."""

    agent_id: AgentId
    instance_id: InstanceId
    silent_ms: int
    lease_left_ms: int


class _Live:
    """What is known of one instance beyond its record. `steady`: another answer changes nothing but `last_seen_ms`."""

    __slots__ = (
        "failures",
        "first_failure_ms",
        "instance",
        "last_seen_ms",
        "lease_ends_ms",
        "lease_until_ms",
        "steady",
        "told_ms",
    )

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.last_seen_ms = instance.last_seen_ms
        # The end of the lease twice: on the monotonic clock, which decides, and as wall time, to be shown.
        self.lease_ends_ms: float | None = None
        self.lease_until_ms = instance.lease_until_ms
        self.failures = 0
        self.first_failure_ms = 0.0
        self.steady = believed(instance) is AgentState.ONLINE
        # The last contact that other hubs know of.
        self.told_ms = instance.last_seen_ms


class PresenceTracker:
    """Presence of all agents of one hub. `run_sweep` and `run_writer` are duties for the hub's task group."""

    def __init__(
        self,
        store: AgentStore,
        directory: Directory,
        *,
        clock: Clock,
        settings: RegistrySettings,
        is_cut_off: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_cut_off`: other hubs may hear what this one does not."""
        self._store = store
        self._is_cut_off = is_cut_off
        self._directory = directory
        self._clock = clock
        self._settings = settings
        self._live: dict[str, dict[str, _Live]] = {}
        self._leased: set[tuple[AgentId, InstanceId]] = set()
        # No lease ends before this, so most sweeps need not look at any.
        self._first_end_ms = math.inf
        # Observed and not stored yet, and what a write under way is storing: both stand above what the store says.
        self._unwritten: dict[AgentId, set[InstanceId]] = {}
        self._writing: dict[AgentId, set[InstanceId]] = {}
        self._work = asyncio.Event()
        self._swept_monotonic_ms = clock.monotonic_ms()
        self._swept_wall_ms = clock.now_ms()
        for agent in directory.all():
            self._mirror(agent.id, agent)
        directory.listen(self._mirror)
        directory.overlay_with(self._overlay)

    # Signs of life

    def saw_traffic(self, agent_id: str, instance_id: str, *, ok: bool) -> None:
        """A call was answered (`ok`: any answer, also an error), or found nobody listening.

        Made for the hot path: for an instance that is online and answers, nothing is allocated, stored or announced.
        """
        instances = self._live.get(agent_id)
        live = None if instances is None else instances.get(instance_id)
        if live is None:
            return
        if ok:
            live.last_seen_ms = self._clock.now_ms()
            if not live.steady:
                self._observe(agent_id, live, Signal.TRAFFIC_OK)
        else:
            self._observe_failure(agent_id, live, Signal.TRAFFIC_REFUSED)

    def saw_broken(self, agent_id: str, instance_id: str) -> None:
        """The connection broke under a call. It makes suspect, however often, but never offline."""
        live = self._live.get(agent_id, {}).get(instance_id)
        if live is not None:
            live.steady = False
            self._observe(agent_id, live, Signal.TRAFFIC_BROKEN)

    def saw_probe(self, agent_id: str, instance_id: str, *, ok: bool) -> None:
        """The instance's card was asked for, and came or not."""
        live = self._live.get(agent_id, {}).get(instance_id)
        if live is None:
            return
        if ok:
            live.last_seen_ms = self._clock.now_ms()
            self._observe(agent_id, live, Signal.PROBE_OK)
        else:
            self._observe_failure(agent_id, live, Signal.PROBE_FAILED)

    def heartbeat(self, agent_id: str, instance_id: str, *, ttl_ms: int) -> Instance:
        """The instance said that it is there; its lease ends `ttl_ms` from now. Raises: AgentNotFound."""
        live = self._live.get(agent_id, {}).get(instance_id)
        if live is None:
            raise AgentNotFound(f"Agent {agent_id!r} has no instance {instance_id!r}.", agent=agent_id)
        before, now_ms = live.instance, self._clock.now_ms()
        renewed = after_signal(before, Signal.HEARTBEAT, now_ms, lease_ttl_ms=ttl_ms)
        live.lease_ends_ms, live.lease_until_ms = self._clock.monotonic_ms() + ttl_ms, renewed.lease_until_ms
        live.last_seen_ms, live.failures = now_ms, 0
        self._leased.add((AgentId(agent_id), InstanceId(instance_id)))
        self._first_end_ms = min(self._first_end_ms, live.lease_ends_ms)
        if believed(renewed) is not believed(before) or renewed.lease_ttl_ms != before.lease_ttl_ms:
            self._show(agent_id, live, renewed)
        # A renewal alone is neither a change to watchers nor worth a write.
        return renewed

    def seen(self, agent: Agent) -> Agent:
        """`agent` with the times that are kept in memory only: last contact and end of lease of each instance."""
        instances = self._live.get(agent.id)
        if instances is None:
            return agent
        shown = tuple(
            instance if (live := instances.get(instance.id)) is None else _with_times(instance, live)
            for instance in agent.instances
        )
        return msgspec.structs.replace(agent, instances=shown)

    def is_sure(self, agent_id: str, instance_id: str, heard_after_ms: int) -> bool:
        """Online, and with a running lease or an answer since then: nobody needs to ask."""
        live = self._live.get(agent_id, {}).get(instance_id)
        if live is None or not live.steady:
            return False
        return live.lease_ends_ms is not None or (live.last_seen_ms or 0) > heard_after_ms

    # What other hubs saw

    def signs_of_life(self) -> Sequence[SignOfLife]:
        """Of all instances with a lease that were heard since this was asked last."""
        monotonic_ms, now_ms = self._clock.monotonic_ms(), self._clock.now_ms()
        signs = []
        for agent_id, instance_id in self._leased:
            live = self._live[agent_id][instance_id]
            if live.last_seen_ms is None or live.last_seen_ms == live.told_ms or live.lease_ends_ms is None:
                continue
            live.told_ms = live.last_seen_ms
            silent_ms = max(0, now_ms - live.last_seen_ms)
            signs.append(SignOfLife(agent_id, instance_id, silent_ms, int(live.lease_ends_ms - monotonic_ms)))
        return signs

    def heard_elsewhere(self, signs: Iterable[SignOfLife]) -> None:
        """Another hub heard these. What it means for their state, that hub stores."""
        monotonic_ms, now_ms = self._clock.monotonic_ms(), self._clock.now_ms()
        for sign in signs:
            live = self._live.get(sign.agent_id, {}).get(sign.instance_id)
            if live is None:
                continue
            seen_ms = now_ms - sign.silent_ms
            if seen_ms > (live.last_seen_ms or 0):
                live.last_seen_ms = live.told_ms = seen_ms
            ends_ms = monotonic_ms + sign.lease_left_ms
            if live.lease_ends_ms is not None and ends_ms > live.lease_ends_ms:
                live.lease_ends_ms, live.lease_until_ms = ends_ms, now_ms + sign.lease_left_ms

    # Leases

    def sweep(self) -> int:
        """End the leases that ran out; how many. After a sleep of the hub itself all get their full length from now.

        A hub that is cut off from the others ends none.
        Asleep: this sweep is late by more than `sleep_tolerance_ms`, or wall and monotonic time disagree by that much
        since the last one (a suspended machine stops the one, not the other). Heartbeats sent meanwhile may still
        wait in sockets.
        """
        monotonic_ms, now_ms = self._clock.monotonic_ms(), self._clock.now_ms()
        elapsed_ms = monotonic_ms - self._swept_monotonic_ms
        drift_ms = abs((now_ms - self._swept_wall_ms) - elapsed_ms)
        self._swept_monotonic_ms, self._swept_wall_ms = monotonic_ms, now_ms
        tolerance_ms = self._settings.sleep_tolerance_ms
        was_asleep = elapsed_ms > self._settings.sweep_interval_ms + tolerance_ms or drift_ms > tolerance_ms
        if was_asleep or self._is_cut_off():
            self._grant_grace(monotonic_ms, now_ms)
            if was_asleep and self._leased:
                _log.warning("leases_extended_after_sleep", extra={"leases": len(self._leased)})
            return 0
        if monotonic_ms < self._first_end_ms:
            return 0
        ended, self._first_end_ms = 0, math.inf
        for agent_id, instance_id in list(self._leased):
            live = self._live[agent_id][instance_id]
            if live.lease_ends_ms is not None and live.lease_ends_ms <= monotonic_ms:
                ended += self._end_lease(agent_id, live, now_ms)
            if live.lease_ends_ms is not None:
                self._first_end_ms = min(self._first_end_ms, live.lease_ends_ms)
        return ended

    def _end_lease(self, agent_id: AgentId, live: _Live, now_ms: int) -> bool:
        ttl_ms = live.instance.lease_ttl_ms or self._settings.lease_ttl_ms
        silent_ms = now_ms - (live.last_seen_ms or 0)
        if live.steady and 0 <= silent_ms < ttl_ms:
            # It answered a call within the lease's length: late heartbeats do not make it absent.
            live.lease_ends_ms = self._clock.monotonic_ms() + ttl_ms - silent_ms
            live.lease_until_ms = now_ms + ttl_ms - silent_ms
            return False
        self._leased.discard((agent_id, live.instance.id))
        live.lease_ends_ms = live.lease_until_ms = None
        self._show(agent_id, live, after_signal(live.instance, Signal.LEASE_ENDED, now_ms))
        return True

    def _grant_grace(self, monotonic_ms: float, now_ms: int) -> None:
        for agent_id, instance_id in self._leased:
            live = self._live[agent_id][instance_id]
            ttl_ms = live.instance.lease_ttl_ms or self._settings.lease_ttl_ms
            live.lease_ends_ms, live.lease_until_ms = monotonic_ms + ttl_ms, now_ms + ttl_ms

    # Duties

    async def run_sweep(self) -> None:
        """End leases for ever; owned by the hub's task group."""
        while True:
            await asyncio.sleep(self._settings.sweep_interval_ms / 1000)
            self.sweep()

    async def run_writer(self) -> None:
        """Store changes of state as they come, for ever; what gathers during one write goes into the next."""
        while True:
            await self._work.wait()
            if not await self.flush():
                await asyncio.sleep(_RETRY_S)

    async def flush(self) -> bool:
        """Store what was observed so far; False when some could not be and is kept for the next time."""
        self._work.clear()
        unwritten, self._unwritten = self._unwritten, {}
        waiting = list(unwritten.items())
        for start in range(0, len(waiting), _WRITES_AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for agent_id, instance_ids in waiting[start : start + _WRITES_AT_ONCE]:
                    group.create_task(self._write(agent_id, instance_ids))
        return not self._unwritten

    async def _write(self, agent_id: AgentId, instance_ids: set[InstanceId]) -> None:
        self._writing[agent_id] = instance_ids
        try:
            await self._store.change(
                agent_id,
                lambda stored: None if stored is None else self._merged(stored, instance_ids),
                durability=Durability.LAZY,
            )
        except MeshwayError as error:
            _log.warning("presence_not_stored", extra={"agent": agent_id, "reason": error.detail})
            self._remember(agent_id, instance_ids)
        except asyncio.CancelledError:
            self._remember(agent_id, instance_ids)
            raise
        finally:
            del self._writing[agent_id]

    # Keeping in step with the Directory

    def _mirror(self, agent_id: AgentId, agent: Agent | None) -> None:
        """Follow the Directory: it is right about who exists, who drains, and what other hubs saw."""
        known = self._live.pop(agent_id, {})
        if agent is not None:
            self._live[agent_id] = {
                instance.id: self._followed(agent_id, known.pop(instance.id, None), instance)
                for instance in agent.instances
            }
        for instance_id in known:
            self._leased.discard((agent_id, InstanceId(instance_id)))

    def _followed(self, agent_id: AgentId, live: _Live | None, instance: Instance) -> _Live:
        if live is None or live.instance.url != instance.url:
            live = _Live(instance)
        elif live.instance is not instance:
            live.instance = instance
            live.steady = believed(instance) is AgentState.ONLINE and not live.failures
            if instance.last_seen_ms is not None:
                live.last_seen_ms = max(instance.last_seen_ms, live.last_seen_ms or 0)
        key = (agent_id, instance.id)
        if instance.lease_ttl_ms is None:
            live.lease_ends_ms = live.lease_until_ms = None
            self._leased.discard(key)
        elif live.lease_ends_ms is None or (instance.lease_until_ms or 0) > (live.lease_until_ms or 0):
            # Read from the store, by a hub that has just started or because another hub renewed: a full lease from now.
            live.lease_ends_ms = self._clock.monotonic_ms() + instance.lease_ttl_ms
            live.lease_until_ms = self._clock.now_ms() + instance.lease_ttl_ms
            self._leased.add(key)
            self._first_end_ms = min(self._first_end_ms, live.lease_ends_ms)
        return live

    def _overlay(self, stored: Agent) -> Agent:
        waiting = self._unwritten.get(stored.id, set()) | self._writing.get(stored.id, set())
        return self._merged(stored, waiting) if waiting else stored

    def _merged(self, stored: Agent, instance_ids: Iterable[str]) -> Agent:
        """`stored` with what was observed of these instances; the same object when it says so already."""
        live = self._live.get(stored.id, {})
        merged = tuple(
            with_presence(instance, _with_times(live[instance.id].instance, live[instance.id]))
            if instance.id in instance_ids and instance.id in live and live[instance.id].instance.url == instance.url
            else instance
            for instance in stored.instances
        )
        return stored if merged == stored.instances else msgspec.structs.replace(stored, instances=merged)

    def _observe_failure(self, agent_id: str, live: _Live, signal: Signal) -> None:
        monotonic_ms = self._clock.monotonic_ms()
        if not live.failures:
            live.first_failure_ms = monotonic_ms
        live.failures += 1
        live.steady = False
        given_up = is_given_up(live.failures, live.first_failure_ms, monotonic_ms, self._settings)
        self._observe(agent_id, live, Signal.GIVEN_UP if given_up else signal)

    def _observe(self, agent_id: str, live: _Live, signal: Signal) -> None:
        if signal in (Signal.TRAFFIC_OK, Signal.PROBE_OK):
            live.failures = 0
        self._show(agent_id, live, after_signal(live.instance, signal, self._clock.now_ms()))

    def _show(self, agent_id: str, live: _Live, moved: Instance) -> None:
        """Make a change visible and due to be stored; nothing when it is none."""
        before, live.instance = live.instance, moved
        live.steady = believed(moved) is AgentState.ONLINE and not live.failures
        agent = self._directory.get(agent_id)
        if moved is before or agent is None:
            return
        if moved.state is not before.state:
            _log.info(
                "instance_state_changed",
                extra={"agent": agent_id, "instance": moved.id, "was": before.state.value, "state": moved.state.value},
            )
        self._remember(agent.id, {moved.id})
        instances = tuple(moved if instance.id == moved.id else instance for instance in agent.instances)
        self._directory.show(msgspec.structs.replace(agent, instances=instances))

    def _remember(self, agent_id: AgentId, instance_ids: set[InstanceId]) -> None:
        self._unwritten.setdefault(agent_id, set()).update(instance_ids)
        self._work.set()


def _with_times(instance: Instance, live: _Live) -> Instance:
    return msgspec.structs.replace(
        instance,
        last_seen_ms=live.last_seen_ms,
        lease_until_ms=live.lease_until_ms,
        lease_ttl_ms=live.instance.lease_ttl_ms,
    )
